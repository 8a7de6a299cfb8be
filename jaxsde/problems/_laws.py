"""Laplace, uniform and alpha-stable noise."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from .. import _checks
from ._noise import AbstractIndependentNoise, as_scale

_LEAST_ALPHA, _TABLE, _NODES = 0.5, 8192, 1000


class Laplace(AbstractIndependentNoise):
    """Laplace noise, independent over coordinates, with the density $e^{-|z| / s} / (2s)$ and the variance $2 s^2$.

    **Arguments:** `scale`: $s$, a number or a pytree shaped like the parameters, in units of the gradient.

    **Raises:** `ValueError` for a negative scale.

    >>> round(Laplace(1.0).mean_sign(jnp.array(1.0), jnp.array(0.0)).item(), 4)
    0.6321
    """

    scale: PyTree[Array]

    def __init__(self, scale: PyTree[ArrayLike]):
        self.scale = as_scale(scale, "scale")

    @property
    def has_variance(self) -> bool:
        return True

    @property
    def slope(self) -> Float[Array, ""]:
        return jnp.asarray(1.0)

    def _sample(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.laplace(key, shape, dtype)

    def _central(self, x: Array) -> Array:
        return -jnp.sign(x) * jnp.expm1(-jnp.abs(x))

    def _unit_variance(self, dtype: Any) -> Array:
        return jnp.asarray(2.0, dtype)


class Uniform(AbstractIndependentNoise):
    """Uniform noise on $[-s, s]$, independent over coordinates, with the variance $s^2 / 3$.

    **Arguments:** `scale`: $s$, a number or a pytree shaped like the parameters, in units of the gradient.

    **Raises:** `ValueError` for a negative scale.

    >>> Uniform(2.0).mean_sign(jnp.array(1.0), jnp.array(0.0)).item()
    0.5
    """

    scale: PyTree[Array]

    def __init__(self, scale: PyTree[ArrayLike]):
        self.scale = as_scale(scale, "scale")

    @property
    def has_variance(self) -> bool:
        return True

    @property
    def slope(self) -> Float[Array, ""]:
        return jnp.asarray(1.0)

    def _sample(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, minval=-1, maxval=1)

    def _central(self, x: Array) -> Array:
        return jnp.clip(x, -1, 1)

    def _unit_variance(self, dtype: Any) -> Array:
        return jnp.asarray(1 / 3, dtype)


class AlphaStable(AbstractIndependentNoise):
    """Symmetric alpha-stable noise, independent over coordinates: $E e^{itZ} = e^{-|st|^\\alpha}$.

    The law of sums of heavy-tailed terms. Its tails fall as $|z|^{-\\alpha}$ and its variance is infinite, but for
    $\\alpha = 2$: Gaussian noise of variance $2 s^2$. With $\\alpha = 1$ it is Cauchy noise.

    **Arguments:**

    - `alpha`: $\\alpha$ in [0.5, 2], one number, known when the noise is made: its distribution function is tabulated.
    - `scale`: $s$, a number or a pytree shaped like the parameters, in units of the gradient.

    **Raises:** `ValueError` for `alpha` or `scale` out of range.

    >>> round(AlphaStable(1.0, 1.0).mean_sign(jnp.array(1.0), jnp.array(0.0)).item(), 4)
    0.5
    """

    alpha: Float[Array, ""]
    scale: PyTree[Array]
    _table: Float[Array, " n"]

    def __init__(self, alpha: ArrayLike, scale: PyTree[ArrayLike]):
        if not _checks.is_concrete(alpha):
            raise TypeError("alpha must be known when the noise is made, got a traced value")
        _checks.number("alpha", alpha, low=_LEAST_ALPHA, high=2.0, closed="low high")
        if np.ndim(alpha):
            raise ValueError(f"alpha must be one number, got shape {np.shape(alpha)}")
        self.alpha = jnp.asarray(float(alpha))  # type: ignore[arg-type]
        self.scale = as_scale(scale, "scale")
        self._table = jnp.asarray(_tabulated(float(alpha)), self.alpha.dtype)  # type: ignore[arg-type]

    @property
    def has_variance(self) -> bool:
        return not _checks.is_concrete(self.alpha) or float(self.alpha) == 2

    @property
    def slope(self) -> Float[Array, ""]:
        return 2 / np.pi * jnp.exp(jax.scipy.special.gammaln(1 + 1 / self.alpha))

    def _sample(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """The formula of Chambers, Mallows and Stuck (1976), exact for any alpha."""
        angle_key, size_key = jax.random.split(key)
        alpha = self.alpha.astype(dtype)
        angle = jax.random.uniform(angle_key, shape, dtype, minval=-np.pi / 2, maxval=np.pi / 2)
        size = jax.random.exponential(size_key, shape, dtype)
        # At the very ends of their ranges both would make infinite numbers of finite ones.
        cosine, size = (jnp.maximum(v, jnp.finfo(dtype).tiny) for v in (jnp.cos(angle), size))
        log = (1 - alpha) / alpha * (jnp.log(jnp.cos((1 - alpha) * angle)) - jnp.log(size)) - jnp.log(cosine) / alpha
        return jnp.sin(alpha * angle) * jnp.exp(log)

    def _central(self, x: Array) -> Array:
        # In u = 1 - (1 + |x|)^-alpha the function is nearly straight from the centre to the end of the tail.
        u = -jnp.expm1(-self.alpha.astype(x.dtype) * jnp.log1p(jnp.abs(x)))
        place = u * (_TABLE - 1)
        below = jnp.clip(jnp.floor(place), 0, _TABLE - 2)
        table, i = self._table.astype(x.dtype), below.astype(jnp.int32)
        return jnp.sign(x) * (table[i] + (place - below) * (table[i + 1] - table[i]))

    def _unit_variance(self, dtype: Any) -> Array:
        return jnp.where(self.alpha == 2, 2.0, jnp.inf).astype(dtype)


def _tabulated(alpha: float) -> np.ndarray:
    """P(|Z| < x) at equidistant u = 1 - (1 + x)^-alpha from 0 to 1, in double precision."""
    u = np.linspace(0, 1, _TABLE)[1:-1]
    x = np.expm1(-np.log1p(-u) / alpha)
    if alpha == 1:
        inner = 2 / np.pi * np.arctan(x)
    elif alpha == 2:
        inner = np.array([math.erf(v / 2) for v in x])
    else:
        inner = _zolotarev(alpha, x)
    return np.concatenate([[0.0], inner, [1.0]])


def _zolotarev(alpha: float, x: np.ndarray) -> np.ndarray:
    """P(|Z| < x) by Zolotarev's integral over angles (Nolan, 1997), with nodes that crowd at both ends."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    v, weights = (1 + nodes) / 2, weights / 2
    # From the left end: angle; to the right one: its distance, which keeps its digits.
    angle, rest = np.pi / 2 * v**3 * (10 - 15 * v + 6 * v**2), np.pi / 2 * (1 - v) ** 3 * (1 + 3 * v + 6 * v**2)
    weights = weights * np.pi / 2 * 30 * v**2 * (1 - v) ** 2
    power = alpha / (alpha - 1)
    log_cosine = np.log(np.sin(rest))
    log_v = power * (log_cosine - np.log(np.sin(alpha * angle))) + np.log(np.cos((alpha - 1) * angle)) - log_cosine
    with np.errstate(over="ignore"):
        integral = np.array([np.sum(weights * np.exp(-np.exp(power * math.log(at) + log_v))) for at in x])
    share = 2 / np.pi * integral
    return 1 - share if alpha > 1 else share
