"""Stochastic gradients on a noiseless trajectory by the draws of a chain: what drives its linear noise approximation where the
noise cannot be whitened."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..problems import AbstractNoise, AbstractNoiseOf, Problem
from ..processes import SDE, Chain, over_step


class GradientIncrements(AbstractNoiseOf):
    """A noise law whose increments are the noise of the gradient itself, with its covariance in place of the identity."""

    noise: AbstractNoise

    def increments_like(self, params: PyTree) -> PyTree:
        return params

    def sample(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        return self.noise.sample(params, key)

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        return _itself


def driven_by_gradients(chain: Chain, nearest: Callable[[Chain], SDE | None]) -> SDE | None:
    """The `nearest` SDE of a chain, with the noise of the stochastic gradient as its increments; None where that noise has not
    a known mean and covariance given the past, or where the SDE's noise is another, as that of signs."""
    noise = chain.problem.noise
    if not noise.has_exact_moments or noise.source.period > 1:
        return None
    problem = Problem(chain.problem.loss, GradientIncrements(noise))
    sde = nearest(eqx.tree_at(lambda c: c.problem, chain, problem))
    return None if sde is None or sde.noise_like is not None else sde


def noise_by_the_same_draw(problem: Problem, h: Array, mean: PyTree, driver: tuple[PyTree, PyTree, Any]) -> PyTree:
    """The noise at `mean` of the stochastic gradient drawn as the chain's own, as an increment over `h`."""
    gradient = problem.stochastic_gradient(mean, driver[2])
    return over_step(h, jax.tree.map(jnp.subtract, gradient, problem.gradient(mean)))


def noise_covariance(problem: Problem, mean: PyTree) -> Float[Array, "d d"]:
    """The covariance of that noise."""
    return problem.noise.covariance(mean)


def _itself(increment: PyTree) -> PyTree:
    return increment
