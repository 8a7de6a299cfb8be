"""A process and its linear noise approximation, driven by the same noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ..problems import Problem
from ._linear_noise import LinearNoiseApproximation, LinearNoiseState
from ._process import AbstractDrivenProcess, AbstractProcess, Instant


class CoupledState(NamedTuple):
    """The states of the process and of its companion."""

    process: Any
    companion: LinearNoiseState


class CoupledPosition(NamedTuple):
    """The parameters of the process, those of the noiseless trajectory, and the deviation from it to first order."""

    x: PyTree
    mean: PyTree
    deviation: PyTree


class Coupled(AbstractProcess):
    """A process with its linear noise approximation beside it, driven by the same noise.

    - `process`: the process; `companion`: the approximation.
    - `as_increment`: `(h, parameters of the noiseless trajectory, what drives a step of the process)` to the companion's
      increment over h that stands for it.
    """

    process: AbstractDrivenProcess
    companion: LinearNoiseApproximation
    as_increment: Callable[[Float[Array, ""], PyTree, Any], PyTree]

    @property
    def problem(self) -> Problem:
        return self.process.problem

    @property
    def learning_rate(self) -> Float[Array, ""]:
        return self.process.learning_rate

    def init(self, params: PyTree, key: PRNGKeyArray) -> CoupledState:
        return CoupledState(self.process.init(params, key), self.companion.init(params))

    def noise_key(self, key: PRNGKeyArray) -> Array:
        return self.process.noise_key(key)

    def run(self, state: CoupledState, start: Int[Array, ""], stop: Int[Array, ""], key: Array) -> CoupledState:
        def move(companion: LinearNoiseState, now: Instant, driver: Any) -> LinearNoiseState:
            h = self.process.h
            increment = self.as_increment(h, self.companion.sde.position(companion.mean), driver)
            return self.companion.step(companion, now, h, increment)

        return CoupledState(*self.process.run_beside(move, state.process, state.companion, start, stop, key))

    def position(self, state: CoupledState) -> CoupledPosition:
        of = self.companion.sde.position
        return CoupledPosition(self.process.position(state.process), of(state.companion.mean), of(state.companion.deviation))

    def same_for_all(self, state: CoupledState) -> CoupledState:
        return CoupledState(self.process.same_for_all(state.process), self.companion.same_for_all(state.companion))

    def is_finite(self, state: CoupledState) -> Bool[Array, ""]:
        """Whether the seed has not diverged, whatever its companion does."""
        return self.process.is_finite(state.process)
