"""All kinds of process, chains and SDEs, alone or accompanied, as one thing: a state that a numbered step moves on."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from .. import _random, _threefry
from ..processes import SDE, Chain, Instant, Tangent
from ._increments import AbstractIncrements, drive, nothing_yet
from ._solver import euler, scaled


class AbstractStepper(eqx.Module):
    """What the simulation loop drives: one seed's state, moved by the steps number n = 0, 1, ..."""

    @abc.abstractmethod
    def stream(self, key: PRNGKeyArray) -> Array:
        """The key of this process's noise, from the seed's key."""

    @abc.abstractmethod
    def init(self, start: Any) -> Any:
        """The state that goes with parameters (a chain) or with the last state of the chain before it (an SDE)."""

    @abc.abstractmethod
    def run(self, state: Any, start: Int[Array, ""], stop: Int[Array, ""], stream: Array) -> Any:
        """The state after the steps from `start` up to, but not including, `stop`."""

    @abc.abstractmethod
    def position(self, state: Any) -> PyTree:
        """The parameters. A seed diverges where these are not finite, whatever a tangent process does."""

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

    def run(self, state: Any, start: Int[Array, ""], stop: Int[Array, ""], stream: Array) -> Any:
        return self.chain.run(state, start, stop, stream)

    def position(self, state: Any) -> PyTree:
        return self.chain.position(state)

    def view(self, state: Any) -> PyTree:
        return self.position(state)


class SDEStepper(AbstractStepper):
    """Steps of length `h` of an SDE, `substeps` to an optimizer step, from step `first` on, as those of [`IndexedEuler`][]."""

    sde: SDE
    increments: AbstractIncrements
    h: Float[Array, ""]
    substeps: Int[Array, ""]
    first: Int[Array, ""]

    def stream(self, key: PRNGKeyArray) -> UInt32[Array, "2"]:
        return _threefry.key_words(_random.brownian_key(key))

    def init(self, start: Any) -> Any:
        y = self.sde.state_from_chain(start)
        return y, nothing_yet(self.increments, self.sde.noise_shaped(y))

    def run(self, state: Any, start: Int[Array, ""], stop: Int[Array, ""], stream: Array) -> Any:
        y, supply = state
        return self.driven(self.moved, y, supply, start, stop, stream, y)

    def driven(
        self, step: Any, state: Any, supply: PyTree, start: Array, stop: Array, stream: Array, y: PyTree
    ) -> tuple[Any, PyTree]:
        """Steps `step(state, n, dW)` of whatever moves with increments shaped like the noise of `y`."""
        like = self.sde.noise_shaped(y)
        return drive(self.increments, step, state, supply, stream, start, stop, self.first, jnp.sqrt(self.h), like)

    def moved(self, y: PyTree, n: Int[Array, ""], dw: PyTree) -> PyTree:
        """The state after step `n` with the increment `dw`."""
        return euler(self.sde.term, Instant(n * self.h, n // self.substeps), self.h, y, dw)

    def position(self, state: Any) -> PyTree:
        return self.sde.position(state[0])

    def view(self, state: Any) -> PyTree:
        return self.position(state)


class AccompaniedChainStepper(AbstractStepper):
    """Steps of an optimizer, and of a tangent process driven by the noise of the same gradients."""

    chain: Chain
    tangent: Tangent
    h: Float[Array, ""]

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.gradient_key(key)

    def init(self, start: PyTree) -> Any:
        return self.chain.init(start), self.tangent.init()

    def run(self, state: Any, start: Int[Array, ""], stop: Int[Array, ""], stream: Array) -> Any:
        def step(state: Any, n: Array, draw: Any) -> Any:
            chain, tangent = state
            gradient = self.chain.problem.stochastic_gradient(chain.x, draw)
            noise = self.tangent.sde.whiten(chain.x, gradient)  # type: ignore[misc]
            return self.chain.apply(chain, gradient), self.tangent.step(tangent, n, self.h, scaled(self.h, noise))

        return self.chain.drive(step, state, start, stop, stream)

    def position(self, state: Any) -> PyTree:
        return self.chain.position(state[0])

    def view(self, state: Any) -> PyTree:
        return self.tangent.sighting(self.position(state), state[1])


class RestingChainStepper(AbstractStepper):
    """Steps of an optimizer that lead to an SDE's start, where the SDE's tangent process waits."""

    chain: Chain
    tangent: Tangent

    def stream(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.gradient_key(key)

    def init(self, start: PyTree) -> Any:
        return self.chain.init(start), self.tangent.init()

    def run(self, state: Any, start: Int[Array, ""], stop: Int[Array, ""], stream: Array) -> Any:
        return self.chain.run(state[0], start, stop, stream), state[1]

    def position(self, state: Any) -> PyTree:
        return self.chain.position(state[0])

    def view(self, state: Any) -> PyTree:
        return self.tangent.sighting(self.position(state), state[1])


class AccompaniedSDEStepper(AbstractStepper):
    """Steps of an SDE, and of a tangent process driven by the same increments."""

    stepper: SDEStepper
    tangent: Tangent

    def stream(self, key: PRNGKeyArray) -> UInt32[Array, "2"]:
        return self.stepper.stream(key)

    def init(self, start: Any) -> Any:
        chain, tangent = start
        return self.stepper.init(chain), tangent

    def run(self, state: Any, start: Int[Array, ""], stop: Int[Array, ""], stream: Array) -> Any:
        def step(state: Any, n: Array, dw: PyTree) -> Any:
            y, tangent = state
            return self.stepper.moved(y, n, dw), self.tangent.step(tangent, n, self.stepper.h, dw)

        (y, supply), tangent = state
        (y, tangent), supply = self.stepper.driven(step, (y, tangent), supply, start, stop, stream, y)
        return (y, supply), tangent

    def position(self, state: Any) -> PyTree:
        return self.stepper.position(state[0])

    def view(self, state: Any) -> PyTree:
        return self.tangent.sighting(self.position(state), state[1])
