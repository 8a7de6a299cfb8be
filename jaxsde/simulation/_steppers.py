"""All kinds of process, chains and SDEs, alone or accompanied, as one thing: a state that a numbered step moves on."""

import abc
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _random
from ..processes import SDE, Chain, Tangent
from ._increments import AbstractIncrements
from ._solver import euler, scaled


class AbstractStepper(eqx.Module):
    """What the simulation loop drives: one seed's state, moved by step number n = 0, 1, ..."""

    @abc.abstractmethod
    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        """The key of this process's noise, from the seed's key."""

    @abc.abstractmethod
    def init(self, start: Any) -> Any:
        """The state that goes with parameters (a chain) or with the last state of the chain before it (an SDE)."""

    @abc.abstractmethod
    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        """The state after step `n`."""

    @abc.abstractmethod
    def view(self, state: Any) -> PyTree:
        """What observables see: the parameters, with their tangent process where there is one."""


class ChainStepper(AbstractStepper):
    """Steps of an optimizer."""

    chain: Chain

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.gradient_key(key)

    def init(self, start: PyTree) -> Any:
        return self.chain.init(start)

    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        return self.chain.step(state, jax.random.fold_in(stream, n))

    def view(self, state: Any) -> PyTree:
        return self.chain.position(state)


class SDEStepper(AbstractStepper):
    """Steps of length `h` of an SDE, from step `first` on, as those of [`IndexedEuler`][]."""

    sde: SDE
    increments: AbstractIncrements
    h: Float[Array, ""]
    first: Int[Array, ""]

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.brownian_key(key)

    def init(self, start: Any) -> Any:
        y = self.sde.from_chain(start)
        return y, self.increments.init(self.sde.noise_shaped(y))

    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        return self.drawn_step(state, n, stream)[0]

    def drawn_step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> tuple[Any, PyTree]:
        """The state after step `n`, and the increment that moved it."""
        y, memory = state
        noise, memory = self.increments.draw(memory, n, self.first, stream, self.sde.noise_shaped(y))
        dw = scaled(self.h, noise)
        return (euler(self.sde.term, n * self.h, self.h, y, dw), memory), dw

    def view(self, state: Any) -> PyTree:
        return self.sde.position(state[0])


class AccompaniedChainStepper(AbstractStepper):
    """Steps of an optimizer, and of a tangent process driven by the noise of the same gradients."""

    chain: Chain
    tangent: Tangent
    h: Float[Array, ""]

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.gradient_key(key)

    def init(self, start: PyTree) -> Any:
        return self.chain.init(start), self.tangent.init()

    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        chain, tangent = state
        gradient = self.chain.problem.stochastic_gradient(chain.x, jax.random.fold_in(stream, n))
        noise = self.tangent.sde.innovation(chain.x, gradient)  # type: ignore[misc]
        return self.chain.apply(chain, gradient), self.tangent.step(tangent, n, self.h, scaled(self.h, noise))

    def view(self, state: Any) -> PyTree:
        return self.tangent.sighting(self.chain.position(state[0]), state[1])


class RestingChainStepper(AbstractStepper):
    """Steps of an optimizer that lead to an SDE's start, where the SDE's tangent process waits."""

    chain: Chain
    tangent: Tangent

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.gradient_key(key)

    def init(self, start: PyTree) -> Any:
        return self.chain.init(start), self.tangent.init()

    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        chain, tangent = state
        return self.chain.step(chain, jax.random.fold_in(stream, n)), tangent

    def view(self, state: Any) -> PyTree:
        return self.tangent.sighting(self.chain.position(state[0]), state[1])


class AccompaniedSDEStepper(AbstractStepper):
    """Steps of an SDE, and of a tangent process driven by the same increments."""

    stepper: SDEStepper
    tangent: Tangent

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return self.stepper.stream(key)

    def init(self, start: Any) -> Any:
        chain, tangent = start
        return self.stepper.init(chain), tangent

    def step(self, state: Any, n: Int[Array, ""], stream: PRNGKeyArray) -> Any:
        inner, tangent = state
        inner, dw = self.stepper.drawn_step(inner, n, stream)
        return inner, self.tangent.step(tangent, n, self.stepper.h, dw)

    def view(self, state: Any) -> PyTree:
        return self.tangent.sighting(self.stepper.view(state[0]), state[1])
