"""What a simulation drives: a Markov process with a position."""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .._tree import is_finite
from ..problems import Problem

Own = TypeVar("Own")


class Instant(NamedTuple):
    """A time on an SDE's clock, and the number of the optimizer step that it falls in, from 0 on.

    The step is a whole number of its own, because the quotient t / eta of rounded numbers may fall short of one.
    """

    t: Float[Array, ""]
    step: Int[Array, ""]


Move = Callable[[Any, Instant, Any], Any]


class AbstractProcess(eqx.Module):
    """A Markov process with a position, moved by the steps k = 0, 1, ... of an optimizer.

    One trajectory at a time: `simulate` vmaps over seeds.

    - `problem`: the [`Problem`][] that it belongs to; `learning_rate`: $\\eta$, the length of one step on its clock.
    """

    if TYPE_CHECKING:  # fields of some processes and properties of others

        @property
        def problem(self) -> Problem: ...

        @property
        def learning_rate(self) -> Float[Array, ""]: ...

    @abc.abstractmethod
    def init(self, params: PyTree, key: PRNGKeyArray) -> Any:
        """The state at step 0, from the starting parameters and the seed's key."""

    @abc.abstractmethod
    def noise_key(self, key: PRNGKeyArray) -> Array:
        """The key of the noise of all steps, from the seed's key."""

    @abc.abstractmethod
    def run(self, state: Any, start: Int[Array, ""], stop: Int[Array, ""], key: Array) -> Any:
        """The state after the steps from `start` up to, but not including, `stop`, with noise under the noise's `key`."""

    @abc.abstractmethod
    def position(self, state: Any) -> PyTree:
        """What observables see: the parameters."""

    def same_for_all(self, state: Any) -> Any:
        """A pytree of booleans, one for each array of the state: whether it is the same for all seeds at every step, so that
        it need be computed once. Counters, whole numbers, may differ all the same: that is found out."""
        return jax.tree.map(lambda leaf: leaf.dtype == jnp.int32 and jnp.ndim(leaf) == 0, state)

    def is_finite(self, state: Any) -> Bool[Array, ""]:
        """Whether the seed has not diverged."""
        return is_finite(self.position(state))

    def check_steps(self, steps: int) -> None:
        """Raises `ValueError` where the process cannot make so many steps."""
        del steps

    def discretised(self: Own, substeps: int = 1, increments: Any = None, moments_only: bool = True) -> Own:
        """The process itself, which has steps already. Raises `ValueError` where it is asked for others."""
        del moments_only
        if substeps != 1 or increments is not None:
            raise ValueError("substeps and increments belong to SDEs: an optimizer's chain makes its own steps")
        return self


class AbstractDrivenProcess(AbstractProcess):
    """A process whose noise can move something else along with it.

    - `h`: the length of the steps that it makes, on its clock.
    """

    if TYPE_CHECKING:

        @property
        def h(self) -> Float[Array, ""]: ...

    @abc.abstractmethod
    def run_beside(
        self, move: Move, state: Any, other: Any, start: Int[Array, ""], stop: Int[Array, ""], key: Array
    ) -> tuple[Any, Any]:
        """As `run`, with `move(other, now, driver)` called at each step: the states of the process and of the other.

        `now` is the [`Instant`][] at which the step of length `h` begins, `driver` what drives it.
        """
