"""A run as a value: a chunk of seeds somewhere along the way, which compiled functions begin and advance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .. import _random
from .._tree import as_params, flat, is_finite, is_sampler
from ..processes import AbstractProcess
from . import _devices
from ._reducers import ByObservable

_SEEDS = "jaxsde seeds"  # the name of the axis that trajectories are vmapped over, which no user's mesh has


class Record(NamedTuple):
    """Statistics over the seeds of a chunk; in a buffer with an axis of times first, in a run with one of chunks before it."""

    statistics: dict[str, Any]
    diverged: Int[Array, ""]


class RunState(NamedTuple):
    """All that a run is between two steps: what a checkpoint saves, and what devices hold, a chunk of seeds each.

    Arrays have the seeds of all its chunks, or the chunks, along their first axis; `step` alone is one number for all.
    """

    step: Int[Array, ""]
    """The step that comes next."""
    seeds: Int[Array, " seeds"]
    """The numbers of the seeds."""
    keys: Array
    """The keys of their noise. They are derived once: within the loop's program they would be at each step."""
    states: PyTree
    """The states of the process, with a leading axis of seeds."""
    earlier: dict[str, Array]
    """The values of each seed at earlier records, the latest first, of the observables whose reducers want them."""
    records: Record
    """The records made so far; those to come are zero."""


class Recorder(eqx.Module):
    """What is recorded: observables, reduced over seeds, in `slots` slots of a buffer."""

    observe: dict[str, Callable[[PyTree], PyTree]]
    reducers: ByObservable
    slots: int = eqx.field(static=True)
    seeds: Int[Array, ""]

    def values(self, x: PyTree) -> dict[str, Array]:
        """The observables at the position `x`, each as a vector in the parameters' precision."""
        dtype = jnp.result_type(*jax.tree.leaves(x))
        return {name: flat(function(x)).astype(dtype) for name, function in self.observe.items()}

    def nothing_earlier(self, x: PyTree) -> dict[str, Array]:
        """What stands for values before the first record."""
        memories = {name: self.reducers[name].memory for name in self.observe if self.reducers[name].memory}
        shapes = jax.eval_shape(self.values, x) if memories else {}  # without evaluating observables, which may cost much
        return {name: jnp.full((n, *shapes[name].shape), jnp.nan, shapes[name].dtype) for name, n in memories.items()}

    def record(
        self, process: AbstractProcess, state: Any, seed: Int[Array, ""], earlier: dict[str, Array]
    ) -> tuple[Record, dict[str, Array]]:
        """The statistics over the seeds of their observables, and what will have been earlier at the next record. For use
        under the vmap over seeds.

        A seed that has diverged is left out; an observable leaves out those where it is not finite itself.
        """
        values = self.values(process.position(state))
        finite = process.is_finite(state)
        wanted = seed < self.seeds  # the last chunk is filled up with seeds that nobody asked for
        keep = {name: wanted & finite & is_finite(value) for name, value in values.items()}
        known = {name: jnp.concatenate([values[name][None], before]) for name, before in earlier.items()}
        seen = values | {name: flat(value) for name, value in known.items()}
        keep, lost, seen = jax.lax.all_gather((keep, wanted & ~finite, seen), _SEEDS)
        reduce = self.reducers
        statistics = {name: reduce[name].update(reduce[name].init(v[0]), v, keep[name]) for name, v in seen.items()}
        return Record(statistics, jnp.sum(lost, dtype=jnp.int32)), {name: value[:-1] for name, value in known.items()}


def start(x0: Any, key: PRNGKeyArray) -> PyTree:
    """The parameters at which the seed with this key starts."""
    return as_params(x0(_random.start_key(key))) if is_sampler(x0) else x0


def _layout(split: Any, whole: Any) -> RunState:
    return RunState(whole, split, split, split, split, split)


@eqx.filter_jit
def begin(
    process: AbstractProcess,
    recorder: Recorder,
    x0: Any,
    key: PRNGKeyArray,
    seeds: Int[Array, " seeds"],
    mesh: Mesh | None = None,
) -> RunState:
    """A run at step 0, which is recorded. Each device of the mesh has a chunk of the seeds."""
    return _devices.on_each(
        mesh, _begin, (process, recorder, x0, key), seeds, lambda split, whole: (split, _layout(split, whole))
    )


def _begin(shared: Any, seeds: Int[Array, " chunk"]) -> RunState:
    process, recorder, x0, key = shared

    def one(seed: Int[Array, ""]) -> tuple[Array, Any, dict[str, Array], Record]:
        mine = _random.seed_key(key, seed)
        state = process.init(start(x0, mine), mine)
        first, earlier = recorder.record(process, state, seed, recorder.nothing_earlier(process.position(state)))
        records = jax.tree.map(lambda r: jnp.zeros((1, recorder.slots, *r.shape), r.dtype).at[0, 0].set(r), first)
        return process.noise_key(mine), state, earlier, records

    keys, states, earlier, records = jax.vmap(one, out_axes=(0, 0, 0, None), axis_name=_SEEDS)(seeds)
    return RunState(jnp.zeros((), jnp.int32), seeds, keys, states, earlier, records)


@eqx.filter_jit
def advance(
    process: AbstractProcess,
    recorder: Recorder,
    run: RunState,
    stop: Int[Array, ""],
    every: Int[Array, ""],
    mesh: Mesh | None = None,
) -> RunState:
    """The run at step `stop`, with the steps on the way recorded that are multiples of `every`.

    The bounds are data: runs of any length, cut anywhere, share one program.
    """
    layouts = lambda split, whole: (_layout(split, whole), _layout(split, whole))
    return _devices.on_each(mesh, _advance, (process, recorder, stop, every), run, layouts)


def _advance(shared: Any, run: RunState) -> RunState:
    process, recorder, stop, every = shared

    def one(state: Any, earlier: Any, key: Array, seed: Int[Array, ""]) -> tuple[Any, Any, Record]:
        def segment(carry: tuple[Array, Any, Any, Record]) -> tuple[Array, Any, Any, Record]:
            n, state, earlier, records = carry
            end = n + jnp.minimum(stop - n, every - n % every)
            state = process.run(state, n, end, key)
            # Where the host has cut a run between two records, nothing is looked at: an observable may cost many steps.
            is_record_step = end % every == 0
            slot = jnp.where(is_record_step, end // every, recorder.slots)  # beyond the last one, it goes nowhere
            observed = lambda state, earlier: recorder.record(process, state, seed, earlier)
            unseen = lambda state, earlier: (jax.tree.map(lambda r: r[0, 0], records), earlier)
            record, earlier = jax.lax.cond(is_record_step, observed, unseen, state, earlier)
            records = jax.tree.map(lambda rs, r: rs.at[0, slot].set(r, mode="drop"), records, record)
            return end, state, earlier, records

        return jax.lax.while_loop(lambda carry: carry[0] < stop, segment, (run.step, state, earlier, run.records))[1:]

    leaves, structure = jax.tree.flatten(run.states)
    axes = _seed_axes(process, run.states, run.keys)

    def on_leaves(leaves: list[Array], earlier: Any, key: Array, seed: Int[Array, ""]) -> tuple[list[Array], Any, Record]:
        state, earlier, records = one(jax.tree.unflatten(structure, leaves), earlier, key, seed)
        return jax.tree.leaves(state), earlier, records

    once = [leaf if axis == 0 else leaf[0] for leaf, axis in zip(leaves, axes, strict=True)]
    over_seeds = jax.vmap(on_leaves, (axes, 0, 0, 0), (axes, 0, None), axis_name=_SEEDS)
    moved, earlier, records = over_seeds(once, run.earlier, run.keys, run.seeds)
    moved = [new if axis == 0 else jnp.broadcast_to(new, old.shape) for old, new, axis in zip(leaves, moved, axes, strict=True)]
    return RunState(jnp.maximum(run.step, stop), run.seeds, run.keys, jax.tree.unflatten(structure, moved), earlier, records)


def _seed_axes(process: AbstractProcess, states: Any, keys: Array) -> list[int | None]:
    """The axis of seeds of each leaf of the states: None for what is the same for all of them, as a step counter is.

    Adam's corrections of its start are powers with the counter as exponent: dear if every seed computes its own.
    """
    leaves, structure = jax.tree.flatten(states)
    same = jax.tree.leaves(process.same_for_all(jax.tree.map(lambda leaf: leaf[0], states)))
    axes: list[int | None] = [None if one else 0 for one in same]
    each: list[int | None] = [0] * len(leaves)
    if axes == each:
        return each

    def step(leaves: list[Array], key: Array) -> list[Array]:
        zero = jnp.zeros((), jnp.int32)
        return jax.tree.leaves(process.run(jax.tree.unflatten(structure, leaves), zero, zero + 1, key))

    once = [leaf if axis == 0 else leaf[0] for leaf, axis in zip(leaves, axes, strict=True)]
    try:
        jax.eval_shape(jax.vmap(step, (axes, 0), axes), once, keys)
    except ValueError:  # a count that depends on the seed's own course
        return each
    return axes


@eqx.filter_jit
def merge(reducers: ByObservable, a: Record, b: Record) -> Record:
    """The records of the seeds of both."""
    statistics = {name: jax.vmap(reducers[name].merge)(a.statistics[name], b.statistics[name]) for name in a.statistics}
    return Record(statistics, a.diverged + b.diverged)
