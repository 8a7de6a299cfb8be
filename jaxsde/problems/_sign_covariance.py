"""The covariance of the signs of correlated normal variables."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_EDGE = 40.0


@functools.cache
def _rule() -> tuple[np.ndarray, np.ndarray]:
    """Computes nodes and weights of the quadrature, on first use, so that an import does no sums."""
    return np.polynomial.legendre.leggauss(48)


def sign_covariance(
    ratio: Float[Array, " d"], variance: Float[Array, " d"], correlation: Float[Array, "d d"]
) -> Float[Array, "d d"]:
    """Cov(sign(a + Z)) of normal Z with unit variances and this correlation, given `ratio` $a$ and the signs' variances.

    Off the diagonal it is four times the excess of an orthant probability over that of independent variables
    (plackett1954), $\\frac2\\pi \\int_0^{\\arcsin\\rho} \\exp\\Big(-\\frac{a^2 + b^2 - 2 a b \\sin t}{2 \\cos^2 t}\\Big) dt$:
    no difference of nearly equal numbers is taken. At $a = b = 0$ it is $\\frac2\\pi \\arcsin\\rho$.
    """
    nodes, weights = _rule()
    angle = jnp.arcsin(jnp.clip(correlation, -1, 1))
    t = 0.5 * angle[..., None] * jnp.asarray(1 + nodes, ratio.dtype)[None, None]
    # Infinite ratios would leave differences of infinities. Beyond the edge the integrand is 0 in any precision.
    ratio = jnp.clip(ratio, -_EDGE, _EDGE)
    a, b = ratio[:, None, None], ratio[None, :, None]
    sine, cosine = jnp.sin(t), jnp.cos(t)
    # Written by squares, which stay finite together with the exponent where the ratios are large.
    exponent = -((a - b) ** 2 + 2 * a * b * (1 - sine)) / (2 * cosine**2)
    integral = 0.5 * angle * jnp.sum(jnp.exp(exponent) * jnp.asarray(weights, ratio.dtype)[None, None], axis=-1)
    own = jnp.eye(ratio.shape[0], dtype=bool)
    return jnp.where(own, variance, 2 / np.pi * integral)
