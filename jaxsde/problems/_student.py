"""Student-t noise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, gammaln
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks
from .._special import SIGN_SLOPE, polynomial
from .._typing import ArrayLike
from ._scale import as_scale, broadcast_scale, safe_divide
from ._scale_family import AbstractScaleFamily
from ._sign_law import prob_nonzero


class StudentT(AbstractScaleFamily):
    """Student-t noise, independent over coordinates: $Z = s \\zeta$, $\\zeta_i \\sim t_\\nu$.

    `scale` is a scale, not a standard deviation: the variance is $s^2 \\nu / (\\nu - 2)$ and infinite for
    $\\nu \\le 2$; for $\\nu = 1$ there is no mean either.

    **Arguments:**

    - `df`: $\\nu > 0$, the degrees of freedom, one number.
    - `scale`: $s$, a number or a pytree shaped like the parameters, in units of the gradient.

    **Raises:** `ValueError` for `df` or `scale` out of range.

    >>> round(StudentT(df=1.0, scale=1.0).mean_sign(jnp.array(1.0), jnp.array(0.0)).item(), 6)
    0.5
    """

    df: Float[Array, ""]
    scale: PyTree[Array]
    _closed: int | None = eqx.field(static=True)

    def __init__(self, df: ArrayLike, scale: PyTree[ArrayLike]):
        _checks.scalar("df", df, low=0.0)
        self.df = jnp.asarray(df) if hasattr(df, "dtype") else jnp.asarray(float(df))  # type: ignore[arg-type]
        self.scale = as_scale(scale, "scale")
        # The t-CDF is elementary for these; for others it takes an incomplete beta function, far slower.
        elementary = _checks.is_concrete(df) and float(self.df) in _ELEMENTARY
        self._closed = int(float(self.df)) if elementary else None

    @property
    def has_variance(self) -> bool:
        return not _checks.is_concrete(self.df) or float(self.df) > 2

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        def tail(g: Array, s: Array) -> Array:
            ratio = safe_divide(g, s)
            half = 0.5 * _tail(ratio, self.df.astype(g.dtype))
            return prob_nonzero(g, s) * jnp.where(ratio > 0, half, 1 - half)

        return jax.tree.map(tail, gradient, broadcast_scale(self.scale, params, "scale"))

    @property
    def slope(self) -> Float[Array, ""]:
        return SIGN_SLOPE.astype(self.df.dtype) * _gamma_ratio(self.df / 2)

    def _sample_unit(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        return _sample_t(key, self.df, shape, dtype)

    def _unit_variance(self, dtype: Any) -> Array:
        return jnp.where(self.df > 2, self.df / jnp.where(self.df > 2, self.df - 2, 1), jnp.inf).astype(dtype)

    def _central(self, x: Array) -> Array:
        """P(|t| < |x|) with the sign of x, which is 2 F(x) - 1."""
        if self._closed is not None:
            most = jnp.finfo(x.dtype).max  # inf / inf is no number, while the largest number has the same sign law
            return _ELEMENTARY[self._closed](jnp.clip(x, -most, most))
        # Of the two forms of the incomplete beta function this one is accurate for small x.
        df, square = self.df.astype(x.dtype), x * x
        return jnp.sign(x) * betainc(jnp.asarray(0.5, x.dtype), df / 2, 1 / (1 + df / square))

    def _density(self, x: Array) -> Array:
        df = self.df.astype(x.dtype)
        # Squares of large numbers are infinite, and the density then 0.
        return 0.5 * self.slope.astype(x.dtype) * jnp.exp(-0.5 * (df + 1) * jnp.log1p(x * x / df))


def _gamma_ratio(h: Array) -> Array:
    """$\\Gamma(h + 1/2) / (\\Gamma(h) \\sqrt h)$. For large h the logarithms of both are large, and their difference has
    lost its digits; a series serves."""
    large = h > _LARGE
    few = jnp.where(large, _LARGE, h)
    series = polynomial(_GAMMA_RATIO, 1 / jnp.where(large, h, _LARGE))
    return jnp.where(large, series, jnp.exp(gammaln(few + 0.5) - gammaln(few)) / jnp.sqrt(few))


# In powers of 1 / h (tricomi1951); what is left out is below 1e-12 for h beyond _LARGE.
_LARGE = 20.0
_GAMMA_RATIO = (1.0, -1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144, 869 / 4194304, 39325 / 33554432)


def _tail(x: Array, df: Array) -> Array:
    """P(|t| > |x|) as a regularised incomplete beta function, accurate in the tails."""
    return betainc(df / 2, jnp.asarray(0.5, x.dtype), df / (df + x * x))


def _hypot(x: Array, c: float) -> Array:
    # Squares of a gradient may overflow; hypot does not.
    return jnp.hypot(x, jnp.asarray(np.sqrt(c), x.dtype))


def _t3(x: Array) -> Array:
    u = x / np.sqrt(3.0).astype(x.dtype)
    return (2 / np.pi) * (jnp.arctan(u) + u / _hypot(u, 1.0) / _hypot(u, 1.0))


def _t4(x: Array) -> Array:
    u = x / _hypot(x, 4.0)
    return u * (1.5 - 0.5 * u * u)


_ELEMENTARY: dict[float, Callable[[Array], Array]] = {
    1: lambda x: (2 / np.pi) * jnp.arctan(x),
    2: lambda x: x / _hypot(x, 2.0),
    3: _t3,
    4: _t4,
}


def _sample_t(key: PRNGKeyArray, df: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Student-t draws by Bailey's polar formula (bailey1994), sqrt(df (u^(-2/df) - 1)) cos(2 pi v): exact, no rejection."""
    u, v = jax.random.uniform(key, (2, *shape), dtype)
    df = df.astype(dtype)
    radius = jnp.sqrt(df * jnp.expm1(-2 / df * jnp.log1p(-u)))
    return radius * jnp.cos(2 * np.pi * v)
