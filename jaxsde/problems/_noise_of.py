"""Noise that is made of another."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ._noise import AbstractNoise


class AbstractNoiseOf(AbstractNoise):
    """Noise made of another, `noise`, with all that it does not change: a law gives `sample`, and what differs."""

    noise: eqx.AbstractVar[AbstractNoise]

    @property
    def independent(self) -> bool:
        return self.noise.independent

    @property
    def has_variance(self) -> bool:
        return self.noise.has_variance

    @property
    def has_exact_moments(self) -> bool:
        return self.noise.has_exact_moments

    def validate(self, params: PyTree) -> None:
        self.noise.validate(params)

    def increments_like(self, params: PyTree) -> PyTree:
        return self.noise.increments_like(params)

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        return self.noise.sqrt_covariance(params)

    def variance(self, params: PyTree) -> PyTree:
        return self.noise.variance(params)

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        return self.noise.covariance(params)
