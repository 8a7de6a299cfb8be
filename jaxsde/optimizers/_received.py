"""What an optimizer receives instead of one stochastic gradient: the mean of workers' messages, or a gradient elsewhere."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from ..problems import AbstractNoise, AbstractSource, Problem


class AbstractReceived(AbstractNoise):
    """What a chain's transform is given in place of a stochastic gradient of `problem`.

    It stands where a noise law stands, so that every transform runs on it, but its mean need not be the gradient, and its
    covariance is what the optimizer's SDE says.
    """

    problem: eqx.AbstractVar[Problem]

    @abc.abstractmethod
    def receive(self, params: PyTree, draw: Any) -> PyTree:
        """What is received at `params`, for what the source's `read_step` returns."""

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: Any) -> PyTree:
        del loss  # the problem has it
        fresh = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        draw = self.source.read_step(self.source.draw_block(key), jnp.asarray(0)) if fresh else key
        return self.receive(params, draw)

    def sample(self, params: PyTree, key: Any) -> PyTree:
        """Draws what is received minus the gradient."""
        received = self.stochastic_gradient(self.problem.loss, params, key)
        return jax.tree.map(jnp.subtract, received, self.problem.gradient(params))

    @property
    def has_exact_moments(self) -> bool:
        return False

    def validate(self, params: PyTree) -> None:
        self.problem.noise.validate(params)

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        raise ValueError("what this chain receives is no gradient plus noise: the covariance is that of the optimizer's SDE")


class WorkersDraws(NamedTuple):
    """What the workers draw at one step: each of them for its stochastic gradient, and a key for all else."""

    gradients: Any
    key: PRNGKeyArray


class Workers(AbstractSource):
    """Independent draws from one source for each of some workers."""

    source: AbstractSource
    count: int = eqx.field(static=True)

    @property
    def period(self) -> int:
        return self.source.period

    def draw_block(self, key: PRNGKeyArray) -> Any:
        own, rest = jax.random.split(key)
        return jax.vmap(self.source.draw_block)(jax.random.split(own, self.count)), rest

    def read_step(self, block: Any, place: Int[Array, ""]) -> WorkersDraws:
        blocks, rest = block
        return WorkersDraws(jax.vmap(lambda b: self.source.read_step(b, place))(blocks), jax.random.fold_in(rest, place))


def each_gradient(problem: Problem, params: PyTree, draws: WorkersDraws) -> PyTree:
    """The stochastic gradients of all workers, with a leading axis."""
    return jax.vmap(lambda draw: problem.stochastic_gradient(params, draw))(draws.gradients)


def received_problem(received: AbstractReceived) -> Problem:
    """The problem on which a chain runs with what it receives."""
    return Problem(received.problem.loss, received)
