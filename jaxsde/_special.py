"""Special functions that XLA's own versions are slow at, and constants."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SIGN_SLOPE = np.sqrt(2 / np.pi)
"""$\\sqrt{2/\\pi}$: the slope at 0 of $E\\,\\mathrm{sign}(g + Z)$ for a standard normal $Z$, and the mean of $|Z|$."""

# erf(x) = x P(x^2) / Q(x^2) at the 31 Chebyshev nodes of even index in [-5.9, 5.9], solved in 60 digits. Beyond, erf
# differs from its sign by less than rounding. All coefficients are positive: their sums lose no digits.
_EDGE = 5.9
_NUMERATOR = (
    1.1283791670955128,
    0.2267103861650831,
    0.06883072821668317,
    0.007568694900056246,
    0.0009831625213224363,
    7.167829478766433e-05,
    5.438358912893914e-06,
    2.786170343700642e-07,
    1.3753386434038692e-08,
    4.941912996750466e-10,
    1.6134252327000997e-11,
    3.7482337185358654e-13,
    7.328387497536713e-15,
    7.279307908272908e-17,
    1.9594635116894632e-19,
    5.978841035215639e-23,
)
_DENOMINATOR = (
    1.0,
    0.5342501818326288,
    0.13908303858829313,
    0.023453099700239843,
    0.0028713139341526844,
    0.0002710141151744034,
    2.042782300376386e-05,
    1.2556741688513528e-06,
    6.364624567411487e-08,
    2.6672900154825908e-09,
    9.179473429462171e-11,
    2.5474802768435034e-12,
    5.4131879140309976e-14,
    8.332565857982573e-16,
    4.5920032230430184e-18,
    5.059932268088632e-21,
)


@jax.custom_jvp
def erf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The error function; in float64 to a relative error of 1e-15, and without XLA's exponentials and selections."""
    if x.dtype != np.float64:
        return jax.lax.erf(x)
    inner = jnp.clip(x, -_EDGE, _EDGE)
    quotient = inner * polynomial(_NUMERATOR, inner * inner) / polynomial(_DENOMINATOR, inner * inner)
    # Certain signs have no variance at all, which the last bits of the quotient would give them.
    return jnp.where(jnp.abs(x) < _EDGE, jnp.clip(quotient, -1.0, 1.0), jnp.sign(x))


@erf.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return erf(x), jnp.asarray(2 / np.sqrt(np.pi), x.dtype) * jnp.exp(-x * x) * dx


def polynomial(coefficients: Sequence[float] | np.ndarray, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The polynomial with these coefficients, of powers 0, 1, ..., in the precision of x."""
    value = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + np.asarray(c, x.dtype)
    return value
