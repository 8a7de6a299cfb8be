"""Laws of the gradient noise Z: the stochastic gradient is the gradient plus Z.

Each law knows how to draw a stochastic gradient, its covariance, and how likely the sign of a coordinate is flipped:
all that the optimizers' SDEs ask for.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import betainc, ndtr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from .. import _checks
from .._tree import flat, size


class AbstractNoise(eqx.Module):
    """The law of a stochastic gradient around the gradient."""

    @property
    @abc.abstractmethod
    def independent(self) -> bool:
        """Whether the coordinates of the noise are independent of each other."""

    @property
    @abc.abstractmethod
    def has_variance(self) -> bool:
        """Whether the variance is finite, as far as that is known: numbers being traced pass."""

    @abc.abstractmethod
    def validate(self, params: PyTree) -> None:
        """Raises `ValueError` where this noise does not fit parameters like `params`."""

    @abc.abstractmethod
    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: PRNGKeyArray) -> PyTree:
        """One draw of the stochastic gradient of `loss` at `params`."""

    @abc.abstractmethod
    def variance(self, params: PyTree) -> PyTree:
        """The variance of each coordinate, shaped like `params`."""

    @abc.abstractmethod
    def root(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        """The linear map by a square root of the covariance, on pytrees shaped like `params`."""

    @abc.abstractmethod
    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        """The covariance matrix over the raveled coordinates."""

    @abc.abstractmethod
    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        """The mean of the sign of each coordinate of the stochastic gradient, given the gradient."""

    @abc.abstractmethod
    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        """The probability that a coordinate of the stochastic gradient is negative, given the gradient."""


class Gaussian(AbstractNoise):
    """Gaussian noise of constant covariance.

    **Arguments:**

    - `scale`: the standard deviation: a number for all coordinates, or a pytree shaped like the parameters (a leaf may
      be a number). In units of the gradient.
    - `covariance`: instead of `scale`, a symmetric positive semi-definite matrix of shape `(d, d)` over the raveled
      coordinates.

    **Raises:** `ValueError` for a negative scale, or a covariance that is not symmetric positive semi-definite;
    `TypeError` unless exactly one of the two is given.

    >>> Gaussian(0.5).covariance(jnp.zeros(2)).tolist()
    [[0.25, 0.0], [0.0, 0.25]]
    """

    scale: PyTree[Array] | None
    matrix: Float[Array, "d d"] | None
    _factor: Float[Array, "d d"] | None

    def __init__(self, scale: PyTree[ArrayLike] | None = None, *, covariance: ArrayLike | None = None):
        if (scale is None) == (covariance is None):
            raise TypeError("Gaussian takes either scale or covariance=, and exactly one of them")
        self.scale = None if scale is None else _as_scale(scale, "scale")
        self.matrix = self._factor = None
        if covariance is not None:
            self.matrix, self._factor = _checked_factor(jnp.asarray(covariance))

    def __check_init__(self):
        for leaf in jax.tree.leaves(self.scale):
            _checks.number("scale", leaf, low=0.0, closed="low")

    @property
    def independent(self) -> bool:
        return self.matrix is None

    @property
    def has_variance(self) -> bool:
        return True

    def validate(self, params: PyTree) -> None:
        if self.matrix is None:
            _fit(self.scale, params, "scale")
        elif self.matrix.shape[0] != size(params):
            raise ValueError(
                f"a covariance over {self.matrix.shape[0]} coordinates does not fit parameters with {size(params)}"
            )

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: PRNGKeyArray) -> PyTree:
        normal = _draw(jax.random.normal, key, params)
        return jax.tree.map(jnp.add, jax.grad(loss)(params), self.root(params)(normal))

    def variance(self, params: PyTree) -> PyTree:
        if self.matrix is None:
            return jax.tree.map(jnp.square, _fit(self.scale, params, "scale"))
        return ravel_pytree(params)[1](jnp.diagonal(self.matrix))

    def root(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        if self.matrix is None:
            return eqx.Partial(_scaled, _fit(self.scale, params, "scale"))
        return eqx.Partial(_mixed, self._factor)

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        if self.matrix is None:
            return jnp.diag(flat(self.variance(params)))
        return self.matrix

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(
            lambda g, std: jax.lax.erf(_over(g, std) * np.sqrt(0.5).astype(g.dtype)), gradient, self._std(params)
        )

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda g, std: ndtr(-_over(g, std)), gradient, self._std(params))

    def _std(self, params: PyTree) -> PyTree:
        if self.matrix is None:
            return _fit(self.scale, params, "scale")
        return jax.tree.map(jnp.sqrt, self.variance(params))


class StudentT(AbstractNoise):
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
        _checks.number("df", df, low=0.0)
        self.df = jnp.asarray(df) if hasattr(df, "dtype") else jnp.asarray(float(df))  # type: ignore[arg-type]
        if self.df.ndim:
            raise ValueError(f"df must be one number, got shape {self.df.shape}")
        self.scale = _as_scale(scale, "scale")
        # The t-CDF is elementary for these; for others it takes an incomplete beta function, far slower.
        elementary = _checks.is_concrete(df) and float(self.df) in _ELEMENTARY
        self._closed = int(float(self.df)) if elementary else None

    def __check_init__(self):
        for leaf in jax.tree.leaves(self.scale):
            _checks.number("scale", leaf, low=0.0, closed="low")

    @property
    def independent(self) -> bool:
        return True

    @property
    def has_variance(self) -> bool:
        return not _checks.is_concrete(self.df) or float(self.df) > 2

    def validate(self, params: PyTree) -> None:
        _fit(self.scale, params, "scale")

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: PRNGKeyArray) -> PyTree:
        noise = _draw(lambda k, shape, dtype: _sample_t(k, self.df, shape, dtype), key, params)
        return jax.tree.map(jnp.add, jax.grad(loss)(params), self._scaled(noise, params))

    def variance(self, params: PyTree) -> PyTree:
        """The variance of each coordinate; infinite for `df` of 2 and below."""
        factor = jnp.where(self.df > 2, self.df / jnp.where(self.df > 2, self.df - 2, 1), jnp.inf)
        return jax.tree.map(lambda s: factor.astype(s.dtype) * s * s, _fit(self.scale, params, "scale"))

    def root(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        return eqx.Partial(_scaled, jax.tree.map(jnp.sqrt, self.variance(params)))

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        return jnp.diag(flat(self.variance(params)))

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda g, s: self._central(_over(g, s)), gradient, _fit(self.scale, params, "scale"))

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        def tail(g: Array, s: Array) -> Array:
            ratio = _over(g, s)
            half = 0.5 * _tail(ratio, self.df.astype(g.dtype))
            return jnp.where(ratio > 0, half, 1 - half)

        return jax.tree.map(tail, gradient, _fit(self.scale, params, "scale"))

    def _scaled(self, noise: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(jnp.multiply, noise, _fit(self.scale, params, "scale"))

    def _central(self, x: Array) -> Array:
        """P(|t| < |x|) with the sign of x, which is 2 F(x) - 1."""
        if self._closed is not None:
            most = jnp.finfo(x.dtype).max  # inf / inf is no number, while the largest number has the same sign law
            return _ELEMENTARY[self._closed](jnp.clip(x, -most, most))
        # Of the two forms of the incomplete beta function, this one keeps its digits for small x.
        df, square = self.df.astype(x.dtype), x * x
        return jnp.sign(x) * betainc(jnp.asarray(0.5, x.dtype), df / 2, 1 / (1 + df / square))


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
    """Student-t draws by Bailey's polar formula (1994), sqrt(df (u^(-2/df) - 1)) cos(2 pi v): exact, no rejection."""
    u, v = jax.random.uniform(key, (2, *shape), dtype)
    df = df.astype(dtype)
    radius = jnp.sqrt(df * jnp.expm1(-2 / df * jnp.log1p(-u)))
    return radius * jnp.cos(2 * np.pi * v)


def _as_scale(scale: PyTree[ArrayLike], name: str) -> PyTree[Array]:
    if not jax.tree.leaves(scale):
        raise ValueError(f"{name} must be a number or a pytree of arrays, got {scale!r}")

    def convert(leaf: ArrayLike) -> Array:
        array = jnp.asarray(leaf)
        # A whole number means a real one here; `+ 0.0` keeps Python numbers weakly typed.
        return array if jnp.issubdtype(array.dtype, jnp.floating) else array + 0.0

    return jax.tree.map(convert, scale)


def _fit(scale: PyTree[Array], params: PyTree, name: str) -> PyTree[Array]:
    """`scale` broadcast to the structure, shapes and dtypes of `params`."""
    leaves = jax.tree.leaves(scale)
    if len(leaves) == 1 and leaves[0].ndim == 0:
        return jax.tree.map(lambda p: jnp.broadcast_to(leaves[0].astype(p.dtype), p.shape), params)
    if jax.tree.structure(scale) != jax.tree.structure(params):
        raise ValueError(
            f"{name} must be a number or a pytree like the parameters: "
            f"got {jax.tree.structure(scale)} for parameters {jax.tree.structure(params)}"
        )

    def check(s: Array, p: Array) -> Array:
        if s.shape not in ((), p.shape):
            raise ValueError(f"a leaf of {name} has shape {s.shape}, the parameters' leaf has {p.shape}")
        return jnp.broadcast_to(s.astype(p.dtype), p.shape)

    return jax.tree.map(check, scale, params)


def _checked_factor(covariance: Array) -> tuple[Array, Array]:
    """A covariance and its symmetric square root."""
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance must be a matrix of shape (d, d), got shape {covariance.shape}")
    covariance = covariance if jnp.issubdtype(covariance.dtype, jnp.floating) else covariance.astype(float)
    values, vectors = jnp.linalg.eigh(covariance)
    if _checks.is_concrete(covariance):
        matrix, spectrum = np.asarray(covariance), np.asarray(values)
        if not np.all(np.isfinite(matrix)) or not np.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-7):
            raise ValueError(f"covariance must be finite and symmetric, got {matrix}")
        if spectrum[0] < -1e-5 * max(abs(spectrum[-1]), np.finfo(spectrum.dtype).tiny):
            raise ValueError(f"covariance must be positive semi-definite, but has the eigenvalue {spectrum[0]:.4g}")
    return covariance, (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T


def _over(gradient: Array, scale: Array) -> Array:
    """The ratio gradient / scale with the limits that a scale of zero has: infinite, and 0 where both are 0."""
    return gradient / jnp.maximum(scale, jnp.finfo(gradient.dtype).tiny)


def _draw(sampler: Callable[..., Array], key: PRNGKeyArray, params: PyTree) -> PyTree:
    """Independent draws for every leaf of `params`."""
    leaves, structure = jax.tree.flatten(params)
    draws = [sampler(jax.random.fold_in(key, i), p.shape, p.dtype) for i, p in enumerate(leaves)]
    return jax.tree.unflatten(structure, draws)


def _scaled(scale: PyTree, increment: PyTree) -> PyTree:
    return jax.tree.map(jnp.multiply, scale, increment)


def _mixed(factor: Array, increment: PyTree) -> PyTree:
    vector, unravel = ravel_pytree(increment)
    return unravel(factor.astype(vector.dtype) @ vector)
