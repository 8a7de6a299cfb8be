"""The stepping loop, compiled: one for chains and SDEs, over a chunk of seeds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .. import _random
from .._tree import as_params, flat, is_finite
from ._reducers import AbstractReducer
from ._steppers import AbstractStepper

_SEEDS = "seeds"  # the name of the axis that trajectories are vmapped over


class Record(NamedTuple):
    """Statistics over the seeds of a chunk; in a buffer, with a leading axis of times."""

    statistics: dict[str, Any]
    diverged: Int[Array, ""]


class Recorder(eqx.Module):
    """What is recorded: observables, reduced over seeds, in `slots` slots of a buffer plus one for scratch."""

    observe: dict[str, Callable[[PyTree], PyTree]]
    reducer: AbstractReducer
    slots: int = eqx.field(static=True)
    seeds: Int[Array, ""]

    def values(self, x: PyTree) -> dict[str, Array]:
        """The observables at the parameters `x`, each as a vector in the parameters' precision."""
        dtype = jnp.result_type(*jax.tree.leaves(x))
        return {name: flat(function(x)).astype(dtype) for name, function in self.observe.items()}

    def record(self, x: PyTree, seed: Int[Array, ""]) -> Record:
        """The statistics over the seeds' parameters `x`. For use under the vmap over seeds."""
        values = self.values(x)
        finite = is_finite((x, values))
        wanted = seed < self.seeds  # the last chunk is filled up with seeds that nobody asked for
        keep, lost, values = jax.lax.all_gather((wanted & finite, wanted & ~finite, values), _SEEDS)
        reduce = self.reducer
        statistics = {name: reduce.update(reduce.init(v[0]), v, keep) for name, v in values.items()}
        return Record(statistics, jnp.sum(lost, dtype=jnp.int32))


@eqx.filter_jit
def begin(
    stepper: AbstractStepper, recorder: Recorder, x0: Any, key: PRNGKeyArray, ids: Int[Array, " chunk"]
) -> tuple[Any, Record]:
    """The states of a chunk of seeds at step 0, and a buffer with that step recorded."""

    def one(seed: Int[Array, ""]) -> tuple[Any, Record]:
        start = as_params(x0(_random.start_key(_random.seed_key(key, seed)))) if callable(x0) else x0
        state = stepper.init(start)
        first = recorder.record(stepper.view(state), seed)
        return state, jax.tree.map(lambda r: jnp.zeros((recorder.slots + 1, *r.shape), r.dtype).at[0].set(r), first)

    return jax.vmap(one, out_axes=(0, None), axis_name=_SEEDS)(ids)


@eqx.filter_jit
def streams(stepper: AbstractStepper, key: PRNGKeyArray, ids: Int[Array, " chunk"]) -> Array:
    """The keys of the noise of a chunk of seeds. Derived once, here: within the loop's program it would be each time."""
    return jax.vmap(lambda seed: stepper.stream(_random.seed_key(key, seed)))(ids)


@eqx.filter_jit
def hand_over(stepper: AbstractStepper, state: Any) -> Any:
    """The SDE's states that go with the chain's."""
    return jax.vmap(stepper.init)(state)


@eqx.filter_jit
def advance(
    stepper: AbstractStepper,
    recorder: Recorder,
    state: Any,
    buffer: Record,
    keys: Array,
    ids: Int[Array, " chunk"],
    start: Int[Array, ""],
    stop: Int[Array, ""],
    every: Int[Array, ""],
) -> tuple[Any, Record]:
    """Moves a chunk of seeds, with noise under `keys`, from step `start` to `stop`, recording at multiples of `every`.

    The bounds are data: runs of any length, cut anywhere, share one program.
    """

    def one(state: Any, stream: Array, seed: Int[Array, ""]) -> tuple[Any, Record]:
        def segment(carry: tuple[Array, Any, Record]) -> tuple[Array, Any, Record]:
            n, state, buffer = carry
            end = jnp.minimum(stop, (n // every + 1) * every)
            state = stepper.run(state, n, end, stream)
            slot = jnp.where(end % every == 0, end // every, recorder.slots)
            record = recorder.record(stepper.view(state), seed)
            buffer = jax.tree.map(lambda b, r: b.at[slot].set(r), buffer, record)
            return end, state, buffer

        _, state, filled = jax.lax.while_loop(lambda carry: carry[0] < stop, segment, (start, state, buffer))
        return state, filled

    return jax.vmap(one, out_axes=(0, None), axis_name=_SEEDS)(state, keys, ids)


@eqx.filter_jit
def merge(reducer: AbstractReducer, a: Record, b: Record) -> Record:
    """The records of the seeds of both buffers."""
    statistics = {name: jax.vmap(reducer.merge)(a.statistics[name], b.statistics[name]) for name in a.statistics}
    return Record(statistics, a.diverged + b.diverged)
