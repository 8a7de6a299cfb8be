"""The law of the signs of a stochastic gradient, which is what SignSGD's SDE asks for."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._linalg import matmul, matvec
from .._tree import flat
from ._scale import multiply


class Signs(NamedTuple):
    """Mean and covariance of the signs of a stochastic gradient's coordinates."""

    mean: PyTree
    sqrt_covariance: Callable[[PyTree], PyTree]
    """A linear map R with R R' the covariance."""


class AbstractSignLaw(eqx.Module):
    """The law of the signs of a stochastic gradient, given the gradient.

    A law gives `mean_sign` and `prob_nonzero`, and says whether the signs are independent of each other, as those of
    [`AbstractIndependentNoise`][] are. Where they are not, it gives their `sign_covariance` as well.
    """

    @abc.abstractmethod
    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        """Computes the mean of the sign of each coordinate."""

    @abc.abstractmethod
    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        """Computes the probability that a coordinate is not 0, which is the mean square of its sign."""

    @property
    @abc.abstractmethod
    def independent_signs(self) -> bool:
        """Whether the signs of the coordinates count as independent of each other."""

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        """Computes the probability that a coordinate is negative."""
        return jax.tree.map(lambda s, p: 0.5 * (p - s), *self.sign_moments(gradient, params))

    def sign_moments(self, gradient: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        """Computes `mean_sign` and `prob_nonzero` together, for laws to which one costs as much as both."""
        return self.mean_sign(gradient, params), self.prob_nonzero(gradient, params)

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        """Computes the covariance of the signs over the raveled coordinates."""
        if not self.independent_signs:
            raise ValueError(f"{type(self).__name__}'s signs are not independent, and it has no method sign_covariance")
        mean, nonzero = self.sign_moments(gradient, params)
        return jnp.diag(flat(jax.tree.map(lambda m, p: p - m * m, mean, nonzero)))

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        """Gives the mean and the root of the covariance, which takes pytrees shaped like `sign_increments_like(params)`."""
        mean, nonzero = self.sign_moments(gradient, params)
        if self.independent_signs:
            return Signs(mean, eqx.Partial(multiply, jax.tree.map(sign_deviation, mean, nonzero)))
        return Signs(mean, eqx.Partial(matvec, _symmetric_sqrt(self.sign_covariance(gradient, params))))

    def sign_increments_like(self, params: PyTree) -> PyTree:
        """Gives a pytree with the structure, shapes and dtypes of the increments that the root of `signs` takes."""
        return params


def sign_law(noise: Any, user: str) -> AbstractSignLaw:
    """`noise` as a law of signs; raises `ValueError` where it is none, in the name of the `user` that needs it."""
    if isinstance(noise, AbstractSignLaw):
        return noise
    name = type(noise).__name__
    raise ValueError(
        f"{user} needs the law of the stochastic gradient's signs, and {name} has no method mean_sign: derive {name} from "
        "jaxsde.problems.AbstractSignLaw as well, with mean_sign(gradient, params), prob_nonzero(gradient, params) and "
        "independent_signs; where this is not true, with sign_covariance(gradient, params), too"
    )


def prob_nonzero(gradient: Array, scale: Array) -> Array:
    """P(g + Z != 0) for noise of a law with a density, times `scale`: 1, unless there is no noise."""
    return jnp.where(scale > 0, jnp.ones_like(gradient), jnp.abs(jnp.sign(gradient)))


def signs_under_noise(mean: PyTree, scale: PyTree) -> Signs:
    """Independent signs of these means under noise of these scales.

    Where the scale is 0 the sign is certain, be it 0 or not: its variance is the positive part of 0 - mean². So nothing is
    asked of the gradient, which in a loop over steps would cost a comparison each.
    """
    noisy = jax.tree.map(lambda s: (s > 0).astype(s.dtype), scale)
    return Signs(mean, eqx.Partial(multiply, jax.tree.map(sign_deviation, mean, noisy)))


def sign_deviation(mean: Array, nonzero: Array) -> Array:
    """The standard deviation of a sign of that mean: its square is 1, with the probability `nonzero`, or 0."""
    return jnp.sqrt(jnp.maximum(nonzero - mean * mean, 0))  # rounding must not make it negative


def _symmetric_sqrt(covariance: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric square root of a covariance; eigenvalues that rounding has made negative count as 0."""
    values, vectors = jnp.linalg.eigh(covariance)
    return matmul(vectors * jnp.sqrt(jnp.maximum(values, 0))[None], vectors.T)
