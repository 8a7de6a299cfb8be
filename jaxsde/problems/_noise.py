"""The gradient noise Z: a stochastic gradient is the gradient plus Z."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._linalg import matmul
from .._traced import shape_of
from .._tree import flat
from ._scale import multiply
from ._source import AbstractSource, FreshKeys


class AbstractNoise(eqx.Module):
    """The law of the gradient noise.

    A law gives two methods, `sample` and `sqrt_covariance`: the chain of any optimizer asks for the first, SGD's SDE for the
    second. Variance and covariance follow from that, by a matrix of all coordinates; a law that knows them without one says so.
    Where the coordinates are independent, [`AbstractIndependentNoise`][] asks for the variance instead.

    SignSGD's SDE asks for the law of the signs, an [`AbstractSignLaw`][], from which a noise may derive as well.

    >>> class Rotated(AbstractNoise):
    ...     matrix: Array
    ...     def sample(self, params, key):
    ...         return self.sqrt_covariance(params)(jax.random.rademacher(key, params.shape, params.dtype))
    ...     def sqrt_covariance(self, params):
    ...         return lambda increment: self.matrix @ increment
    >>> Rotated(jnp.array([[1.0, 1.0], [0.0, 2.0]])).covariance(jnp.zeros(2)).tolist()
    [[2.0, 2.0], [2.0, 4.0]]
    """

    @abc.abstractmethod
    def sample(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        """Draws the noise at `params`, shaped like these, with mean 0."""

    @abc.abstractmethod
    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        """Gives a linear map R with R R' the covariance, from pytrees shaped like `increments_like(params)` to `params`."""

    @property
    def independent(self) -> bool:
        """Whether the coordinates of the noise are independent of each other."""
        return False

    @property
    def has_variance(self) -> bool:
        """Whether the variance is finite, as far as that is known: numbers being traced pass."""
        return True

    @property
    def has_exact_moments(self) -> bool:
        """Whether the mean of a stochastic gradient is that of the loss, and `covariance` its covariance: exactly, and not an
        estimate of them."""
        return True

    @property
    def source(self) -> AbstractSource:
        """What a chain's stochastic gradients are drawn from."""
        return FreshKeys()

    def validate(self, params: PyTree) -> None:
        """Raises `ValueError` where this noise does not fit parameters like `params`."""
        describe = lambda tree: jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
        wanted = describe(params)
        try:
            drawn = describe(shape_of(self.sample, params, jax.random.key(0)))
        except Exception as error:  # whatever goes wrong in a user's law
            like = "" if eqx.is_array(params) else ", as a pytree like these"
            raise ValueError(
                f"{type(self).__name__}.sample(params, key) must draw noise at the parameters {wanted}{like}, but raised "
                f"{type(error).__name__}: {error}"
            ) from error
        if drawn != wanted:
            raise ValueError(f"{type(self).__name__}.sample must return noise like the parameters, {wanted}, got {drawn}")
        self._validate_root(params)

    def _validate_root(self, params: PyTree) -> None:
        """Raises `TypeError` where a law has a matrix, say, in place of a map."""
        found: list[Any] = []
        try:
            jax.eval_shape(lambda x: found.append(self.sqrt_covariance(x)), params)
        except Exception:  # a law that has no covariance refuses whoever asks for it, and a chain does not
            return
        if not callable(found[0]):
            raise TypeError(
                f"{type(self).__name__}.sqrt_covariance(params) must return a function of an increment, as in "
                f"`return lambda increment: root @ increment`, got an object of the type {type(found[0]).__name__}"
            )

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: Any) -> PyTree:
        """Draws the stochastic gradient of `loss` at `params`, with a JAX key or with what the source's `read_step` returns."""
        return jax.tree.map(jnp.add, jax.grad(loss)(params), self.sample(params, key))

    def increments_like(self, params: PyTree) -> PyTree:
        """Gives a pytree with the structure, shapes and dtypes of the increments that `sqrt_covariance` takes."""
        return params

    def variance(self, params: PyTree) -> PyTree:
        """Computes the variance of each coordinate, shaped like `params`."""
        return ravel_pytree(params)[1](jnp.sum(_matrix(self, params) ** 2, axis=1))

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        """Computes the covariance matrix over the raveled coordinates."""
        matrix = _matrix(self, params)
        return matmul(matrix, matrix.T)


class AbstractIndependentNoise(AbstractNoise):
    """Noise with independent coordinates. A law gives `sample` and `variance`.

    >>> class Multiplicative(AbstractIndependentNoise):
    ...     def sample(self, params, key):
    ...         return params * jax.random.normal(key, params.shape, params.dtype)
    ...     def variance(self, params):
    ...         return params**2
    >>> Multiplicative().sqrt_covariance(jnp.array([3.0, -2.0]))(jnp.ones(2)).tolist()
    [3.0, 2.0]
    """

    @abc.abstractmethod
    def variance(self, params: PyTree) -> PyTree:
        """Computes the variance of each coordinate, shaped like `params`."""

    @property
    def independent(self) -> bool:
        return True

    @property
    def independent_signs(self) -> bool:
        """Whether the signs are independent of each other, as an [`AbstractSignLaw`][] has to say."""
        return True

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        return eqx.Partial(multiply, jax.tree.map(jnp.sqrt, self.variance(params)))

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        return jnp.diag(flat(self.variance(params)))


def _matrix(noise: AbstractNoise, params: PyTree) -> Float[Array, "d m"]:
    """The map `sqrt_covariance` as a matrix."""
    increment, unravel = ravel_pytree(noise.increments_like(params))
    root = noise.sqrt_covariance(params)
    return jax.vmap(lambda w: flat(root(unravel(w))), out_axes=1)(jnp.eye(increment.size, dtype=increment.dtype))
