"""Laws with independent coordinates, each a scale times a variable of one law."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks
from ._noise import AbstractIndependentNoise
from ._quantile_law import AbstractQuantileLaw
from ._scale import broadcast_scale, multiply, safe_divide
from ._sign_law import AbstractSignLaw, Signs, prob_nonzero, signs_under_noise

# Quantiles are found in t = arsinh(x) by halving [0, _FARTHEST] and then by Newton's method.
_FARTHEST, _HALVINGS, _NEWTON = 85.0, 14, 5


class AbstractScaleFamily(AbstractIndependentNoise, AbstractSignLaw, AbstractQuantileLaw):
    """Noise with independent coordinates of one symmetric law, each times a scale of its own."""

    scale: eqx.AbstractVar[PyTree[Array]]

    @abc.abstractmethod
    def _sample_unit(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
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

    @property
    @abc.abstractmethod
    def slope(self) -> Float[Array, ""]:
        """The derivative at 0 of u -> E sign(u + Z / scale), which is twice the density of Z / scale at 0."""

    def __check_init__(self):
        for leaf in jax.tree.leaves(self.scale):
            _checks.number("scale", leaf, low=0.0, closed="low")

    def validate(self, params: PyTree) -> None:
        self.scales(params)

    def sample(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        return multiply(self.scales(params), _draw(self._sample_unit, key, params))

    def variance(self, params: PyTree) -> PyTree:
        return jax.tree.map(lambda s: self._unit_variance(s.dtype) * s * s, self.scales(params))

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda g, s: _central(self, safe_divide(g, s)), gradient, self.scales(params))

    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(prob_nonzero, gradient, self.scales(params))

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        return signs_under_noise(self.mean_sign(gradient, params), self.scales(params))

    def scales(self, params: PyTree) -> PyTree:
        return broadcast_scale(self.scale, params, "scale")

    def unit_quantile(self, probability: Float[Array, "..."]) -> Float[Array, "..."]:
        side, tail = jnp.sign(probability - 0.5), jnp.minimum(probability, 1 - probability)
        inner = 1 - 2 * tail
        low, high = jnp.zeros_like(tail), jnp.full_like(tail, _FARTHEST)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self._central(jnp.sinh(middle)) < inner
            low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
        t = (low + high) / 2
        for _ in range(_NEWTON):
            x = jnp.sinh(t)
            slope = jnp.maximum(2 * self._density(x) * jnp.cosh(t), jnp.finfo(t.dtype).tiny)
            t = jnp.clip(t - (self._central(x) - inner) / slope, low, high)
        return side * jnp.sinh(t)


@eqx.filter_custom_jvp
def _central(noise: AbstractScaleFamily, x: Array) -> Array:
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


def _draw(sampler: Callable[..., Array], key: PRNGKeyArray, params: PyTree) -> PyTree:
    """Draws independently for every leaf of `params`."""
    leaves, structure = jax.tree.flatten(params)
    draws = [sampler(jax.random.fold_in(key, i), p.shape, p.dtype) for i, p in enumerate(leaves)]
    return jax.tree.unflatten(structure, draws)
