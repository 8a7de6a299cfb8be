"""The noise of two stochastic gradients of which one is subtracted."""

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._noise import AbstractNoise
from ._noise_of import AbstractNoiseOf


class AmplifiedNoise(AbstractNoiseOf):
    """The noise of $\\frac{1 + r}2 g_1 + \\frac{1 - r}2 g_2$ with independent stochastic gradients $g_1$ and $g_2$: its
    covariance is $(1 + r^2) / 2$ times that of one of them."""

    noise: AbstractNoise
    spread: float = eqx.field(static=True)

    @property
    def factor(self) -> float:
        """By which the covariance grows."""
        return (1 + self.spread**2) / 2

    def sample(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        return self._amplify(lambda k: self.noise.sample(params, k), key)

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: PRNGKeyArray) -> PyTree:
        return self._amplify(lambda k: self.noise.stochastic_gradient(loss, params, k), key)

    def _amplify(self, draw: Callable[[PRNGKeyArray], PyTree], key: PRNGKeyArray) -> PyTree:
        one, other = (draw(k) for k in jax.random.split(key))
        a, b = (1 + self.spread) / 2, (1 - self.spread) / 2
        return jax.tree.map(lambda g, h: a * g + b * h, one, other)

    def variance(self, params: PyTree) -> PyTree:
        return jax.tree.map(lambda v: self.factor * v, self.noise.variance(params))

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        root, scale = self.noise.sqrt_covariance(params), np.sqrt(self.factor)
        return lambda dw: jax.tree.map(lambda z: scale.astype(z.dtype) * z, root(dw))

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        return self.factor * self.noise.covariance(params)
