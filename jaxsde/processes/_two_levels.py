"""A discretised SDE beside itself with steps twice as long, driven by the same noise."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ..problems import Problem
from ._coupled import CoupledPosition
from ._linear_noise import LinearNoiseApproximation, LinearNoiseState
from ._process import AbstractProcess, Instant
from ._sde import DiscretisedSDE, DiscretisedState


class TwoLevelsState(NamedTuple):
    """The states at both levels, and those of their companions where these have any."""

    fine: DiscretisedState
    coarse: PyTree
    """The SDE's state alone: the block of random numbers and the way to the start are those of the fine level."""
    companions: tuple[LinearNoiseState, LinearNoiseState] | None


class TwoLevelsPosition(NamedTuple):
    """What observables see of both levels: the parameters, with a companion's where there is one."""

    fine: PyTree | CoupledPosition
    coarse: PyTree | CoupledPosition


class TwoLevels(AbstractProcess):
    """An SDE discretised with steps $h$, and with steps $2h$ driven by the sums of each two increments (giles2008).

    The two stay close, so the mean of a difference between them takes few seeds.

    - `fine`: the SDE with an even number of steps for each of the optimizer's, and three-point increments. Their sums have
      the fourth moment of a normal number as well, so the errors of both levels have the same leading constant, and
      extrapolation removes it. Sums of two-point increments do not.
    - `companion`: its linear noise approximation, run beside both; `None` where there is none.
    """

    fine: DiscretisedSDE
    companion: LinearNoiseApproximation | None = None

    @property
    def problem(self) -> Problem:
        return self.fine.problem

    @property
    def learning_rate(self) -> Float[Array, ""]:
        return self.fine.learning_rate

    @property
    def coarse(self) -> DiscretisedSDE:
        """The SDE with steps twice as long."""
        return eqx.tree_at(lambda process: process.h, self.fine, 2 * self.fine.h)

    def init(self, params: PyTree, key: PRNGKeyArray) -> TwoLevelsState:
        fine = self.fine.init(params, key)
        companions = None if self.companion is None else (self.companion.init(params), self.companion.init(params))
        return TwoLevelsState(fine, fine.y, companions)

    def noise_key(self, key: PRNGKeyArray) -> Array:
        return self.fine.noise_key(key)

    def run(self, state: TwoLevelsState, start: Array, stop: Array, key: Array) -> TwoLevelsState:
        fine, coarse = self.fine, self.coarse

        def beside(companions: Any, now: Instant, dw: PyTree, then: Instant, more: PyTree, both: PyTree) -> Any:
            if self.companion is None:
                return None
            one, other = companions
            one = self.companion.step(self.companion.step(one, now, fine.h, dw), then, fine.h, more)
            return one, self.companion.step(other, now, coarse.h, both)

        def step(moved: tuple[PyTree, PyTree, Any], taken: tuple[tuple[Instant, PyTree], ...]) -> tuple[PyTree, PyTree, Any]:
            (y, slow, companions), ((now, dw), (then, more)) = moved, taken
            both = jax.tree.map(jnp.add, dw, more)
            y = fine.step(fine.step(y, now, dw), then, more)
            return y, coarse.step(slow, now, both), beside(companions, now, dw, then, more, both)

        moved = state.fine.y, state.coarse, state.companions
        (y, slow, companions), block = fine.drive(step, moved, state.fine, start, stop, key, together=2)
        return TwoLevelsState(state.fine.moved(stop, y, block), slow, companions)

    def position(self, state: TwoLevelsState) -> TwoLevelsPosition:
        params = [self.fine.position(state.fine._replace(y=y)) for y in (state.fine.y, state.coarse)]
        if state.companions is None:
            return TwoLevelsPosition(*params)
        of = self.fine.sde.position
        beside = [(of(companion.mean), of(companion.deviation)) for companion in state.companions]
        return TwoLevelsPosition(*(CoupledPosition(x, *more) for x, more in zip(params, beside, strict=True)))

    def same_for_all(self, state: TwoLevelsState) -> TwoLevelsState:
        same = super().same_for_all(state)
        if self.companion is None:
            return same
        return same._replace(companions=tuple(self.companion.same_for_all(one) for one in state.companions or ()))

    def is_finite(self, state: TwoLevelsState) -> Bool[Array, ""]:
        """Whether the seed has diverged at neither level, whatever its companions do."""
        return self.fine.is_finite(state.fine) & self.fine.is_finite(state.fine._replace(y=state.coarse))

    def check_steps(self, steps: int) -> None:
        self.fine.check_steps(steps)
