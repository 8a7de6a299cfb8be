"""Laws of the gradient noise Z: the stochastic gradient is the gradient plus Z.

Each law knows how to draw a stochastic gradient, its covariance, and how likely the sign of a coordinate is flipped:
all that the optimizers' SDEs ask for.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _checks
from .._tree import flat
from .._typing import ArrayLike
from ._numbers import check_keys, real


class Signs(NamedTuple):
    """The signs of a stochastic gradient's coordinates, as far as SignSGD's SDE asks for their law."""

    mean: PyTree
    root: Callable[[PyTree], PyTree]
    """A linear map R with R R' their covariance."""


class AbstractNoise(eqx.Module):
    """The law of a stochastic gradient around the gradient."""

    @property
    @abc.abstractmethod
    def independent(self) -> bool:
        """Whether the coordinates of the noise are independent of each other."""

    @property
    def independent_signs(self) -> bool:
        """Whether SignSGD's SDE takes the signs of the coordinates for independent of each other."""
        return self.independent

    @property
    @abc.abstractmethod
    def has_variance(self) -> bool:
        """Whether the variance is finite, as far as that is known: numbers being traced pass."""

    @abc.abstractmethod
    def validate(self, params: PyTree) -> None:
        """Raises `ValueError` where this noise does not fit parameters like `params`."""

    @abc.abstractmethod
    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: Any) -> PyTree:
        """One draw of the stochastic gradient of `loss` at `params`, with a JAX key or with what `take` returns."""

    @property
    def period(self) -> int:
        """How many steps of a chain draw from one supply: those number b `period`, ..., (b + 1) `period` - 1."""
        return 1

    def supply(self, key: PRNGKeyArray) -> Any:
        """What the gradients of one period of a chain are drawn from."""
        return key

    def take(self, supply: Any, place: Int[Array, ""]) -> Any:
        """What `stochastic_gradient` takes as its key at the period's step number `place`, from 0 to `period` - 1."""
        del place
        return supply

    @abc.abstractmethod
    def variance(self, params: PyTree) -> PyTree:
        """The variance of each coordinate, shaped like `params`."""

    @abc.abstractmethod
    def root(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        """A linear map R with R R' the covariance, from pytrees shaped like `increments_like(params)` to `params`."""

    def increments_like(self, params: PyTree) -> PyTree:
        """What increments the map `root` takes, as a pytree of that structure, shapes and dtypes."""
        return params

    @abc.abstractmethod
    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        """The covariance matrix over the raveled coordinates."""

    @abc.abstractmethod
    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        """The mean of the sign of each coordinate of the stochastic gradient, given the gradient."""

    @abc.abstractmethod
    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        """The probability that a coordinate of the stochastic gradient is negative, given the gradient."""

    @abc.abstractmethod
    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        """The probability that a coordinate of the stochastic gradient is not 0, given the gradient: the mean square of
        its sign."""

    def sign_moments(self, gradient: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        """`mean_sign` and `prob_nonzero` together, for noise to which one costs as much as both."""
        return self.mean_sign(gradient, params), self.prob_nonzero(gradient, params)

    @property
    @abc.abstractmethod
    def slope(self) -> Float[Array, ""]:
        """The derivative at 0 of u -> E sign(u + Z / scale), which is twice the density of Z / scale at 0."""

    @abc.abstractmethod
    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        """The covariance of the signs of the stochastic gradient's coordinates, raveled, given the gradient."""

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        """The law of the signs, given the gradient; the map takes pytrees shaped like `sign_increments_like(params)`."""
        mean, nonzero = self.sign_moments(gradient, params)
        if self.independent_signs:
            return Signs(mean, eqx.Partial(scaled, jax.tree.map(sign_deviation, mean, nonzero)))
        return Signs(mean, eqx.Partial(mixed, symmetric_root(self.sign_covariance(gradient, params))))

    def sign_increments_like(self, params: PyTree) -> PyTree:
        """What increments the root of `signs` takes, as a pytree of that structure, shapes and dtypes."""
        return params


class AbstractIndependentNoise(AbstractNoise):
    """Noise with independent coordinates of one law, each with a scale of its own."""

    scale: eqx.AbstractVar[PyTree[Array]]

    @abc.abstractmethod
    def _sample(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        """Draws from the law of scale 1."""

    @abc.abstractmethod
    def _central(self, x: Array) -> Array:
        """P(|Z| < |x|) with the sign of x under the law of scale 1, which is the mean of sign(x + Z)."""

    @abc.abstractmethod
    def _density(self, x: Array) -> Array:
        """The density of the law of scale 1, half the derivative of `_central`."""

    @abc.abstractmethod
    def _unit_variance(self, dtype: Any) -> Array:
        """The variance of the law of scale 1, infinite where there is none."""

    def __check_init__(self):
        for leaf in jax.tree.leaves(self.scale):
            _checks.number("scale", leaf, low=0.0, closed="low")

    @property
    def independent(self) -> bool:
        return True

    def validate(self, params: PyTree) -> None:
        fit(self.scale, params, "scale")

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: PRNGKeyArray) -> PyTree:
        noise = scaled(fit(self.scale, params, "scale"), draw(self._sample, key, params))
        return jax.tree.map(jnp.add, jax.grad(loss)(params), noise)

    def variance(self, params: PyTree) -> PyTree:
        return jax.tree.map(lambda s: self._unit_variance(s.dtype) * s * s, fit(self.scale, params, "scale"))

    def root(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        return eqx.Partial(scaled, jax.tree.map(jnp.sqrt, self.variance(params)))

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        return jnp.diag(flat(self.variance(params)))

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda g, s: _central(self, over(g, s)), gradient, fit(self.scale, params, "scale"))

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda s, p: 0.5 * (p - s), *self.sign_moments(gradient, params))

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        return signs_of_noise(self.mean_sign(gradient, params), fit(self.scale, params, "scale"))

    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(nonzero, gradient, fit(self.scale, params, "scale"))

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        return independent_signs(*self.sign_moments(gradient, params))


@eqx.filter_custom_jvp
def _central(noise: AbstractIndependentNoise, x: Array) -> Array:
    return noise._central(x)


@_central.def_jvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array | None]:
    # The formulas for the probability have no derivative at 0, or lose its digits: it is twice the density.
    (noise, x), (d_noise, dx) = primals, tangents
    value, by_noise = noise._central(x), None
    if jax.tree.leaves(d_noise):
        value, by_noise = eqx.filter_jvp(lambda noise: noise._central(x), (noise,), (d_noise,))
    by_x = None if dx is None else 2 * noise._density(x) * dx
    changes = [change for change in (by_x, by_noise) if change is not None]
    return value, functools.reduce(jnp.add, changes) if changes else None


def as_scale(scale: PyTree[ArrayLike], name: str) -> PyTree[Array]:
    """A scale as a pytree of arrays."""
    check_keys(name, scale)
    if not jax.tree.leaves(scale):
        raise ValueError(f"{name} must be a number or a pytree of arrays, got {scale!r}")
    return jax.tree.map(lambda leaf: real(name, leaf), scale)


def fit(scale: PyTree[Array], params: PyTree, name: str) -> PyTree[Array]:
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


@jax.custom_jvp
def over(gradient: Array, scale: Array) -> Array:
    """The ratio gradient / scale with the limits that a scale of zero has: infinite, and 0 where both are 0."""
    return gradient / jnp.maximum(scale, jnp.finfo(gradient.dtype).tiny)


@over.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Without noise the sign is certain: its derivative is 0.
    (_, scale), (dg, ds), ratio = primals, tangents, over(*primals)
    some = scale >= jnp.finfo(ratio.dtype).tiny
    divisor = jnp.where(some, scale, 1)
    by_scale = ratio / divisor
    return ratio, jnp.where(some, dg / divisor - jnp.where(jnp.isfinite(by_scale), by_scale, 0) * ds, 0)


def draw(sampler: Callable[..., Array], key: PRNGKeyArray, params: PyTree) -> PyTree:
    """Independent draws for every leaf of `params`."""
    leaves, structure = jax.tree.flatten(params)
    draws = [sampler(jax.random.fold_in(key, i), p.shape, p.dtype) for i, p in enumerate(leaves)]
    return jax.tree.unflatten(structure, draws)


def scaled(scale: PyTree, increment: PyTree) -> PyTree:
    """An increment times a scale, coordinate by coordinate."""
    return jax.tree.map(jnp.multiply, scale, increment)


def mixed(matrix: Float[Array, "d d"], increment: PyTree) -> PyTree:
    """A matrix times an increment, raveled."""
    vector, unravel = ravel_pytree(increment)
    return unravel(matrix.astype(vector.dtype) @ vector)


def symmetric_root(covariance: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric square root of a covariance; eigenvalues that rounding has made negative count as 0."""
    values, vectors = jnp.linalg.eigh(covariance)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T


def nonzero(gradient: Array, scale: Array) -> Array:
    """P(g + Z != 0) for noise of a law with a density, times `scale`: 1, unless there is no noise."""
    return jnp.where(scale > 0, jnp.ones_like(gradient), jnp.abs(jnp.sign(gradient)))


def signs_of_noise(mean: PyTree, scale: PyTree) -> Signs:
    """Independent signs of these means under noise of these scales.

    Where the scale is 0 the sign is certain, be it 0 or not: its variance is the positive part of 0 - mean². So nothing is
    asked of the gradient, which in a loop over steps would cost a comparison each.
    """
    noisy = jax.tree.map(lambda s: (s > 0).astype(s.dtype), scale)
    return Signs(mean, eqx.Partial(scaled, jax.tree.map(sign_deviation, mean, noisy)))


def sign_deviation(mean: Array, nonzero: Array) -> Array:
    """The standard deviation of a sign of that mean: its square is 1, with the probability `nonzero`, or 0."""
    return jnp.sqrt(jnp.maximum(nonzero - mean * mean, 0))  # rounding must not make it negative


def independent_signs(mean: PyTree, nonzero: PyTree) -> Float[Array, "d d"]:
    """The covariance of independent signs of these means, raveled."""
    return jnp.diag(flat(jax.tree.map(lambda m, p: p - m * m, mean, nonzero)))
