"""Gaussian noise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks, _threefry
from .._linalg import matmul, matvec
from .._special import SIGN_SLOPE
from .._tree import flat, size
from .._typing import ArrayLike
from . import _normal_signs
from ._noise import AbstractNoise
from ._numbers import real
from ._quantile_law import AbstractQuantileLaw
from ._scale import as_scale, broadcast_scale, multiply, safe_divide
from ._sign_covariance import sign_covariance
from ._sign_law import AbstractSignLaw, Signs, prob_nonzero, signs_under_noise

# Of the largest eigenvalue of a covariance: below this share there is no noise.
_NEGLIGIBLE = 1e-12


class Gaussian(AbstractNoise, AbstractSignLaw, AbstractQuantileLaw):
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
    def independent_signs(self) -> bool:
        return self.matrix is None

    def validate(self, params: PyTree) -> None:
        if self.matrix is None:
            broadcast_scale(self.scale, params, "scale")
        elif self.matrix.shape[0] != size(params):
            raise ValueError(
                f"a covariance over {self.matrix.shape[0]} coordinates does not fit parameters with {size(params)}"
            )

    def sample(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        return self.sqrt_covariance(params)(_threefry.normals(_threefry.key_words(key), 0, params))

    def variance(self, params: PyTree) -> PyTree:
        if self.matrix is None:
            return jax.tree.map(jnp.square, broadcast_scale(self.scale, params, "scale"))
        return ravel_pytree(params)[1](jnp.diagonal(self.matrix))

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        if self.matrix is None:
            return eqx.Partial(multiply, broadcast_scale(self.scale, params, "scale"))
        return eqx.Partial(matvec, self._factor)

    def whiten(self, noise: PyTree) -> PyTree:
        """Gives the increment that the map `sqrt_covariance` takes to this noise, which is correlated."""
        assert self._inverse is not None
        return matvec(self._inverse, noise)

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        if self.matrix is None:
            return jnp.diag(flat(self.variance(params)))
        return self.matrix

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return _normal_signs.mean_sign(gradient, self.scales(params))

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        return _normal_signs.prob_negative(gradient, self.scales(params))

    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(prob_nonzero, gradient, self.scales(params))

    def unit_quantile(self, probability: Float[Array, "..."]) -> Float[Array, "..."]:
        return ndtri(probability)

    def scales(self, params: PyTree) -> PyTree:
        """Gives the standard deviation of each coordinate, shaped like `params`."""
        if self.matrix is None:
            return broadcast_scale(self.scale, params, "scale")
        return jax.tree.map(jnp.sqrt, self.variance(params))

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        if self.matrix is None:
            return signs_under_noise(self.mean_sign(gradient, params), self.scales(params))
        return super().signs(gradient, params)

    @property
    def slope(self) -> Float[Array, ""]:
        """The derivative at 0 of u -> E sign(u + Z / std), which is twice the density of Z / std at 0."""
        return jnp.asarray(SIGN_SLOPE)

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        if self.matrix is None:
            return super().sign_covariance(gradient, params)
        std = self.scales(params)
        ratio, one = flat(jax.tree.map(safe_divide, gradient, std)), flat(std)
        variance = jax.tree.map(lambda m, p: p - m * m, *self.sign_moments(gradient, params))
        # A division by either would be one by their product to some compilers, which two small numbers have none of.
        inverse = jnp.where(one > 0, 1 / jnp.where(one > 0, one, 1), 0)
        correlation = self.matrix.astype(ratio.dtype) * inverse[:, None] * inverse[None]
        return sign_covariance(ratio, flat(variance), correlation)


def _checked_factor(covariance: Array) -> tuple[Array, Array, Array]:
    """Checks a covariance; returns it, its symmetric square root, and the inverse of that in the directions that have noise."""
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance must be a matrix of shape (d, d), got shape {covariance.shape}")
    # In double precision, where the numbers are known: single precision leaves nothing of small eigenvalues.
    known = _checks.is_concrete(covariance)
    xp: Any = np if known else jnp
    product = np.matmul if known else matmul
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
    root, inverse = (jnp.asarray(product(vectors * scale[None], vectors.T), covariance.dtype) for scale in scales)
    return covariance, root, inverse
