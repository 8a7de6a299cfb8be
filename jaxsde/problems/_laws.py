"""Laplace, uniform and alpha-stable noise."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks
from .._typing import ArrayLike
from ._scale import as_scale
from ._scale_family import AbstractScaleFamily

_LEAST_ALPHA, _TABLE, _GAP = 0.5, 8192, 0.15


class Laplace(AbstractScaleFamily):
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
    def slope(self) -> Float[Array, ""]:
        return jnp.asarray(1.0)

    def _sample_unit(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.laplace(key, shape, dtype)

    def _central(self, x: Array) -> Array:
        return -jnp.sign(x) * jnp.expm1(-jnp.abs(x))

    def _density(self, x: Array) -> Array:
        return 0.5 * jnp.exp(-jnp.abs(x))

    def unit_quantile(self, probability: Float[Array, "..."]) -> Float[Array, "..."]:
        return -jnp.sign(probability - 0.5) * jnp.log(2 * jnp.minimum(probability, 1 - probability))

    def _unit_variance(self, dtype: Any) -> Array:
        return jnp.asarray(2.0, dtype)


class Uniform(AbstractScaleFamily):
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
    def slope(self) -> Float[Array, ""]:
        return jnp.asarray(1.0)

    def _sample_unit(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, minval=-1, maxval=1)

    def _central(self, x: Array) -> Array:
        return jnp.clip(x, -1, 1)

    def _density(self, x: Array) -> Array:
        return 0.25 * (jnp.sign(1 - x) + jnp.sign(1 + x))

    def unit_quantile(self, probability: Float[Array, "..."]) -> Float[Array, "..."]:
        return 2 * probability - 1

    def _unit_variance(self, dtype: Any) -> Array:
        return jnp.asarray(1 / 3, dtype)


class AlphaStable(AbstractScaleFamily):
    """Symmetric alpha-stable noise, independent over coordinates: $E e^{itZ} = e^{-|st|^\\alpha}$.

    The law of sums of heavy-tailed terms. Its tails fall as $|z|^{-\\alpha}$ and its variance is infinite, but for
    $\\alpha = 2$: Gaussian noise of variance $2 s^2$. With $\\alpha = 1$ it is Cauchy noise.

    **Arguments:**

    - `alpha`: $\\alpha$ in [0.5, 2], one number, known when the noise is made: its distribution function is tabulated, and
      the derivative of the signs' law with respect to it counts as 0.
    - `scale`: $s$, a number or a pytree shaped like the parameters, in units of the gradient.

    **Raises:** `ValueError` for `alpha` or `scale` out of range.

    >>> round(AlphaStable(1.0, 1.0).mean_sign(jnp.array(1.0), jnp.array(0.0)).item(), 4)
    0.5
    """

    alpha: Float[Array, ""]
    scale: PyTree[Array]
    _table: Float[Array, " n"]
    _rate: Float[Array, " n"]

    def __init__(self, alpha: ArrayLike, scale: PyTree[ArrayLike]):
        if not _checks.is_concrete(alpha):
            raise TypeError("alpha must be known when the noise is made, got a traced value")
        _checks.number("alpha", alpha, low=_LEAST_ALPHA, high=2.0, closed="low high")
        if np.ndim(alpha):
            raise ValueError(f"alpha must be one number, got shape {np.shape(alpha)}")
        self.alpha = jnp.asarray(float(alpha))  # type: ignore[arg-type]
        self.scale = as_scale(scale, "scale")
        tables = _tabulated(float(alpha))  # type: ignore[arg-type]
        self._table, self._rate = (jnp.asarray(table, self.alpha.dtype) for table in tables)

    @property
    def has_variance(self) -> bool:
        return not _checks.is_concrete(self.alpha) or float(self.alpha) == 2

    @property
    def slope(self) -> Float[Array, ""]:
        return 2 / np.pi * jnp.exp(jax.scipy.special.gammaln(1 + 1 / self.alpha))

    def _sample_unit(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """The formula of Chambers, Mallows and Stuck (chambers1976), exact for any alpha."""
        angle_key, size_key = jax.random.split(key)
        alpha = self.alpha.astype(dtype)
        angle = jax.random.uniform(angle_key, shape, dtype, minval=-np.pi / 2, maxval=np.pi / 2)
        size = jax.random.exponential(size_key, shape, dtype)
        # At the very ends of their ranges both would make infinite numbers of finite ones.
        cosine, size = (jnp.maximum(v, jnp.finfo(dtype).tiny) for v in (jnp.cos(angle), size))
        log = (1 - alpha) / alpha * (jnp.log(jnp.cos((1 - alpha) * angle)) - jnp.log(size)) - jnp.log(cosine) / alpha
        return jnp.sin(alpha * angle) * jnp.exp(log)

    def _central(self, x: Array) -> Array:
        return jnp.sign(x) * _between(self._table, self._place(x))

    def _density(self, x: Array) -> Array:
        u = self._place(x)
        by_place = self.alpha.astype(x.dtype) * (1 - u) / (1 + jnp.abs(x))  # du / dx
        return 0.5 * _between(self._rate, u) * by_place

    def _place(self, x: Array) -> Array:
        """u = 1 - (1 + |x|)^-alpha, in which P(|Z| < |x|) is nearly straight from the centre to the end of the tail."""
        alpha = jax.lax.stop_gradient(self.alpha).astype(x.dtype)  # the tables are those of this alpha
        return -jnp.expm1(-alpha * jnp.log1p(jnp.abs(x)))

    def _unit_variance(self, dtype: Any) -> Array:
        return jnp.where(self.alpha == 2, 2.0, jnp.inf).astype(dtype)


def _between(table: Float[Array, " n"], u: Array) -> Array:
    """A function of u in [0, 1], given at equidistant places."""
    place = u * (_TABLE - 1)
    below = jnp.clip(jnp.floor(place), 0, _TABLE - 2)
    table, i = table.astype(u.dtype), below.astype(jnp.int32)
    return table[i] + (place - below) * (table[i + 1] - table[i])


@functools.lru_cache(maxsize=8)
def _tabulated(alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """P(|Z| < x) and its derivative by u, at equidistant u = 1 - (1 + x)^-alpha from 0 to 1, in double precision.

    The probability is $\\frac2\\pi \\int_0^\\infty \\sin(x t)\\,e^{-t^\\alpha} dt / t$. On a ray $t = e^{i \\varphi} s$ with
    $\\varphi = \\pi / 4 \\alpha$ nothing oscillates before it vanishes, and in $\\log s$ equidistant nodes converge
    geometrically, for every alpha.
    """
    u = np.linspace(0, 1, _TABLE)
    x = np.expm1(-np.log1p(-u[1:-1]) / alpha)
    turn, gap = np.pi / (4 * alpha), _GAP / alpha
    # log s times alpha, from where x t and t^alpha are below 1e-15 to where exp(-t^alpha) is.
    power = np.arange(-36 * max(1, alpha) - 10, 4.2, _GAP)
    t, decay = np.exp(power / alpha + 1j * turn), np.exp(power + 0.25j * np.pi)
    inner, rate = np.empty_like(x), np.empty_like(x)
    for i, at in enumerate(x):
        wave = np.exp(1j * at * t - decay)
        inner[i] = turn + gap * np.sum(wave.imag)
        rate[i] = gap * np.sum((wave * t).real)
    rate *= (1 + x) ** (alpha + 1) / alpha
    ends = math.gamma(1 + 1 / alpha) / alpha, math.gamma(alpha) * math.sin(np.pi * alpha / 2)
    inner, rate = 2 / np.pi * inner, 2 / np.pi * np.concatenate([ends[:1], rate, ends[1:]])
    return np.concatenate([[0.0], inner, [1.0]]), np.maximum(rate, 0.0)
