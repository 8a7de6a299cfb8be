"""The stepping loop, compiled: one for chains and SDEs, over a chunk of seeds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .. import _random
from .._tree import as_params, flat, is_finite, is_sampler
from ._reducers import AbstractReducer
from ._steppers import AbstractStepper

_SEEDS = "seeds"  # the name of the axis that trajectories are vmapped over


class Record(NamedTuple):
    """Statistics over the seeds of a chunk; in a buffer, with a leading axis of times."""

    statistics: dict[str, Any]
    diverged: Int[Array, ""]


class Recorder(eqx.Module):
    """What is recorded: observables, reduced over seeds, in `slots` slots of a buffer."""

    observe: dict[str, Callable[[PyTree], PyTree]]
    reducer: AbstractReducer
    slots: int = eqx.field(static=True)
    seeds: Int[Array, ""]

    def values(self, x: PyTree) -> dict[str, Array]:
        """The observables at the parameters `x`, each as a vector in the parameters' precision."""
        dtype = jnp.result_type(*jax.tree.leaves(x))
        return {name: flat(function(x)).astype(dtype) for name, function in self.observe.items()}

    def record(self, params: PyTree, view: PyTree, seed: Int[Array, ""]) -> Record:
        """The statistics over the seeds of what observables make of `view`. For use under the vmap over seeds.

        A seed is lost where its parameters are not finite; an observable leaves out those where it is not finite itself.
        """
        values = self.values(view)
        finite = is_finite(params)
        wanted = seed < self.seeds  # the last chunk is filled up with seeds that nobody asked for
        keep = {name: wanted & finite & is_finite(value) for name, value in values.items()}
        keep, lost, values = jax.lax.all_gather((keep, wanted & ~finite, values), _SEEDS)
        reduce = self.reducer
        statistics = {name: reduce.update(reduce.init(v[0]), v, keep[name]) for name, v in values.items()}
        return Record(statistics, jnp.sum(lost, dtype=jnp.int32))


def start(x0: Any, key: PRNGKeyArray) -> PyTree:
    """The parameters at which the seed with this key starts."""
    return as_params(x0(_random.start_key(key))) if is_sampler(x0) else x0


@eqx.filter_jit
def begin(
    stepper: AbstractStepper, recorder: Recorder, x0: Any, key: PRNGKeyArray, ids: Int[Array, " chunk"]
) -> tuple[Any, Record]:
    """The states of a chunk of seeds at step 0, and a buffer with that step recorded."""

    def one(seed: Int[Array, ""]) -> tuple[Any, Record]:
        state = stepper.init(start(x0, _random.seed_key(key, seed)))
        first = recorder.record(stepper.position(state), stepper.view(state), seed)
        return state, jax.tree.map(lambda r: jnp.zeros((recorder.slots, *r.shape), r.dtype).at[0].set(r), first)

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
        def observed(state: Any) -> Record:
            return recorder.record(stepper.position(state), stepper.view(state), seed)

        def segment(carry: tuple[Array, Any, Record]) -> tuple[Array, Any, Record]:
            n, state, buffer = carry
            end = jnp.minimum(stop, (n // every + 1) * every)
            state = stepper.run(state, n, end, stream)
            # Where the host has cut a run between two records, nothing is looked at: an observable may cost many steps.
            due = end % every == 0
            slot = jnp.where(due, end // every, recorder.slots)  # beyond the last one, it goes nowhere
            record = jax.lax.cond(due, observed, lambda _: jax.tree.map(lambda b: b[0], buffer), state)
            buffer = jax.tree.map(lambda b, r: b.at[slot].set(r, mode="drop"), buffer, record)
            return end, state, buffer

        _, state, filled = jax.lax.while_loop(lambda carry: carry[0] < stop, segment, (start, state, buffer))
        return state, filled

    leaves, structure = jax.tree.flatten(state)
    axes = _seed_axes(stepper, leaves, structure, keys)

    def on_leaves(leaves: list[Array], stream: Array, seed: Int[Array, ""]) -> tuple[list[Array], Record]:
        state, filled = one(jax.tree.unflatten(structure, leaves), stream, seed)
        return jax.tree.leaves(state), filled

    once = [leaf if axis == 0 else leaf[0] for leaf, axis in zip(leaves, axes, strict=True)]
    moved, filled = jax.vmap(on_leaves, (axes, 0, 0), (axes, None), axis_name=_SEEDS)(once, keys, ids)
    moved = [new if axis == 0 else jnp.full_like(old, new) for old, new, axis in zip(leaves, moved, axes, strict=True)]
    return jax.tree.unflatten(structure, moved), filled


def _seed_axes(stepper: AbstractStepper, leaves: list[Array], structure: Any, keys: Array) -> list[int | None]:
    """The axis of seeds of each leaf of the state: None for what is the same for all of them, as a step counter is.

    Adam's corrections of its start are powers with the counter as exponent: dear if every seed computes its own.
    """
    counters: list[int | None] = [None if leaf.dtype == jnp.int32 and leaf.ndim == 1 else 0 for leaf in leaves]
    each: list[int | None] = [0] * len(leaves)
    if counters == each:
        return each

    def step(leaves: list[Array], stream: Array) -> list[Array]:
        zero = jnp.zeros((), jnp.int32)
        return jax.tree.leaves(stepper.run(jax.tree.unflatten(structure, leaves), zero, zero + 1, stream))

    once = [leaf if axis == 0 else leaf[0] for leaf, axis in zip(leaves, counters, strict=True)]
    try:
        jax.eval_shape(jax.vmap(step, (counters, 0), counters), once, keys)
    except ValueError:  # a count that depends on the seed's own course
        return each
    return counters


@eqx.filter_jit
def merge(reducer: AbstractReducer, a: Record, b: Record) -> Record:
    """The records of the seeds of both buffers."""
    statistics = {name: jax.vmap(reducer.merge)(a.statistics[name], b.statistics[name]) for name in a.statistics}
    return Record(statistics, a.diverged + b.diverged)
