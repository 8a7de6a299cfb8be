"""Both kinds of process, a chain and an SDE, as one thing: a state that a numbered step moves on."""

import abc
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _random
from ..processes import SDE, Chain
from ._increments import AbstractIncrements
from ._solver import IndexedEuler


class AbstractStepper(eqx.Module):
    """What the simulation loop drives: one seed's state, moved by step number n = 0, 1, ..."""

    @abc.abstractmethod
    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        """The key of this process's noise, from the seed's key."""

    @abc.abstractmethod
    def init(self, start: Any) -> Any:
        """The state that goes with parameters (a chain) or with an SDE's state."""

    @abc.abstractmethod
    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        """The state after step `n`."""

    @abc.abstractmethod
    def position(self, state: Any) -> PyTree:
        """The parameters."""


class ChainStepper(AbstractStepper):
    """Steps of an optimizer."""

    chain: Chain

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.gradient_key(key)

    def init(self, start: PyTree) -> Any:
        return self.chain.init(start)

    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        return self.chain.step(state, jax.random.fold_in(stream, n))

    def position(self, state: Any) -> PyTree:
        return self.chain.position(state)


class SDEStepper(AbstractStepper):
    """Steps of length `h` of an SDE, from step `first` on, by [`IndexedEuler`][]."""

    sde: SDE
    increments: AbstractIncrements
    h: Float[Array, ""]
    first: Int[Array, ""]

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.brownian_key(key)

    def init(self, start: Any) -> Any:
        return start, self.increments.init(self.sde.position(start))

    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        y, memory = state
        solver = IndexedEuler(self.h, stream, self.increments, self.first, noise_like=self.sde.position)
        t0, t1 = n * self.h, (n + 1) * self.h
        y, _, _, (_, memory), _ = solver.step(self.sde.term, t0, t1, y, None, (n, memory), False)
        return y, memory

    def position(self, state: Any) -> PyTree:
        return self.sde.position(state[0])
