"""Gaussian noise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks, _threefry
from .._special import SIGN_SLOPE
from .._tree import flat, size
from .._typing import ArrayLike
from . import _normal_signs
from ._noise import AbstractNoise, Signs, as_scale, fit, independent_signs, mixed, nonzero, over, scaled, signs_of_noise
from ._numbers import real
from ._sign_covariance import sign_covariance

# Of the largest eigenvalue of a covariance: below this share there is no noise.
_NEGLIGIBLE = 1e-12


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
    _inverse: Float[Array, "d d"] | None

    def __init__(self, scale: PyTree[ArrayLike] | None = None, *, covariance: ArrayLike | None = None):
        if (scale is None) == (covariance is None):
            raise TypeError("Gaussian takes either scale or covariance=, and exactly one of them")
        self.scale = None if scale is None else as_scale(scale, "scale")
        self.matrix = self._factor = self._inverse = None
        if covariance is not None:
            self.matrix, self._factor, self._inverse = _checked_factor(real("covariance", covariance))

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
            fit(self.scale, params, "scale")
        elif self.matrix.shape[0] != size(params):
            raise ValueError(
                f"a covariance over {self.matrix.shape[0]} coordinates does not fit parameters with {size(params)}"
            )

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: PRNGKeyArray) -> PyTree:
        normal = _threefry.normals(_threefry.key_words(key), 0, params)
        return jax.tree.map(jnp.add, jax.grad(loss)(params), self.root(params)(normal))

    def variance(self, params: PyTree) -> PyTree:
        if self.matrix is None:
            return jax.tree.map(jnp.square, fit(self.scale, params, "scale"))
        return ravel_pytree(params)[1](jnp.diagonal(self.matrix))

    def root(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        if self.matrix is None:
            return eqx.Partial(scaled, fit(self.scale, params, "scale"))
        return eqx.Partial(mixed, self._factor)

    def whiten(self, noise: PyTree) -> PyTree:
        """The increment that the map `root` takes to this noise; correlated noise alone has need of it."""
        assert self._inverse is not None
        return mixed(self._inverse, noise)

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        if self.matrix is None:
            return jnp.diag(flat(self.variance(params)))
        return self.matrix

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return _normal_signs.mean_sign(gradient, self._std(params))

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        return _normal_signs.prob_negative(gradient, self._std(params))

    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(nonzero, gradient, self._std(params))

    def _std(self, params: PyTree) -> PyTree:
        if self.matrix is None:
            return fit(self.scale, params, "scale")
        return jax.tree.map(jnp.sqrt, self.variance(params))

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        if self.matrix is None:
            return signs_of_noise(self.mean_sign(gradient, params), self._std(params))
        return super().signs(gradient, params)

    @property
    def slope(self) -> Float[Array, ""]:
        return jnp.asarray(SIGN_SLOPE)

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        if self.matrix is None:
            return independent_signs(*self.sign_moments(gradient, params))
        std = self._std(params)
        ratio, one = flat(jax.tree.map(over, gradient, std)), flat(std)
        variance = jax.tree.map(lambda m, p: p - m * m, *self.sign_moments(gradient, params))
        return sign_covariance(ratio, flat(variance), over(over(self.matrix.astype(ratio.dtype), one[:, None]), one))


def _checked_factor(covariance: Array) -> tuple[Array, Array, Array]:
    """A covariance, its symmetric square root, and the inverse of that, where there is noise."""
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance must be a matrix of shape (d, d), got shape {covariance.shape}")
    # In double precision, where the numbers are known: single precision leaves nothing of small eigenvalues.
    known = _checks.is_concrete(covariance)
    xp: Any = np if known else jnp
    values, vectors = xp.linalg.eigh(xp.asarray(covariance, float if known else covariance.dtype))
    if known:
        matrix, spectrum = np.asarray(covariance), np.asarray(values, covariance.dtype)
        if not np.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-7):
            raise ValueError(f"covariance must be symmetric, got {matrix}")
        if spectrum[0] < -1e-5 * max(abs(spectrum[-1]), np.finfo(spectrum.dtype).tiny):
            raise ValueError(f"covariance must be positive semi-definite, but has the eigenvalue {spectrum[0]:.4g}")
    kept = values > _NEGLIGIBLE * xp.max(values)
    deviations = xp.sqrt(xp.where(kept, values, 1))
    scales = xp.where(kept, deviations, 0), xp.where(kept, 1 / deviations, 0)
    root, inverse = (jnp.asarray((vectors * scale) @ vectors.T, covariance.dtype) for scale in scales)
    return covariance, root, inverse
