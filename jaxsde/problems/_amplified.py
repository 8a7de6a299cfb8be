"""The noise of two stochastic gradients of which one is subtracted."""

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._noise import AbstractNoise

_NO_SIGNS = "the signs of SVAG's gradients have no formula here: SVAG serves SGD, RMSprop(W) and Adam(W)"


class AmplifiedNoise(AbstractNoise):
    """The noise of $\\frac{1 + r}2 g_1 + \\frac{1 - r}2 g_2$ with independent stochastic gradients $g_1$ and $g_2$: its
    covariance is $(1 + r^2) / 2$ times that of one of them."""

    noise: AbstractNoise
    spread: float = eqx.field(static=True)

    @property
    def factor(self) -> float:
        """By which the covariance grows."""
        return (1 + self.spread**2) / 2

    @property
    def independent(self) -> bool:
        return self.noise.independent

    @property
    def has_variance(self) -> bool:
        return self.noise.has_variance

    def validate(self, params: PyTree) -> None:
        self.noise.validate(params)

    def increments_like(self, params: PyTree) -> PyTree:
        return self.noise.increments_like(params)

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: PRNGKeyArray) -> PyTree:
        one, other = (self.noise.stochastic_gradient(loss, params, k) for k in jax.random.split(key))
        a, b = (1 + self.spread) / 2, (1 - self.spread) / 2
        return jax.tree.map(lambda g, h: a * g + b * h, one, other)

    def variance(self, params: PyTree) -> PyTree:
        return jax.tree.map(lambda v: self.factor * v, self.noise.variance(params))

    def root(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        root, scale = self.noise.root(params), np.sqrt(self.factor)
        return lambda dw: jax.tree.map(lambda z: scale.astype(z.dtype) * z, root(dw))

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        return self.factor * self.noise.covariance(params)

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        raise ValueError(_NO_SIGNS)

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        return self.mean_sign(gradient, params)

    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        return self.mean_sign(gradient, params)

    @property
    def slope(self) -> Float[Array, ""]:
        raise ValueError(_NO_SIGNS)

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        return self.mean_sign(gradient, params)
