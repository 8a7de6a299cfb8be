"""What is done of a simulation, and what is left: chunks of seeds are begun, completed and merged, in order."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from .._double import in_double
from ..processes import AbstractProcess
from . import _devices, _run
from ._reducers import ByObservable

# The states of finished seeds are kept for a run of more steps where they have no more bytes than this.
_MOST_KEPT = 2**28


class Task(eqx.Module):
    """What is to be simulated."""

    process: AbstractProcess
    recorder: _run.Recorder
    start: Any
    key: Any
    steps: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    seeds: int = eqx.field(static=True)
    chunk: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return _devices.count(self.mesh)

    @property
    def chunks(self) -> int:
        """How many chunks of seeds there are; the last one is filled up."""
        return math.ceil(self.seeds / self.chunk)

    @property
    def shapes(self) -> _run.RunState:
        """The shapes and dtypes of a chunk's run."""
        ids = jax.ShapeDtypeStruct((self.chunk,), jnp.int32)
        return eqx.filter_eval_shape(_run.begin, self.process, self.recorder, self.start, self.key, ids)

    def begin(self, first: int) -> _run.RunState:
        """The chunks from number `first` on, one on each device, at step 0."""
        ids = (first * self.chunk + np.arange(self.devices * self.chunk)).astype(np.int32)
        ids = jnp.asarray(ids) if self.mesh is None else _devices.placed(self.mesh, ids, split=True)
        return _run.begin(self.process, self.recorder, self.start, self.key, ids, self.mesh)

    def advance(self, run: _run.RunState, stop: int) -> _run.RunState:
        """The run at step `stop`."""
        until, every = _devices.placed(self.mesh, tuple(jnp.asarray(n, jnp.int32) for n in (stop, self.every)))
        return _run.advance(self.process, self.recorder, run, until, every, self.mesh)

    def resume(self, run: _run.RunState) -> _run.RunState:
        """A run on the host, of one chunk for each device at most, on the devices. The last one is repeated to fill them."""
        count = len(run.seeds) // self.chunk
        missing = self.devices - count
        fill = lambda leaf, each: np.concatenate([leaf, *[leaf[len(leaf) - each :]] * missing])
        run = _each(run, lambda leaf: fill(leaf, self.chunk), lambda leaf: fill(leaf, 1))
        return _devices.placed(self.mesh, jax.tree.map(_typed, run, self.shapes), split=True)


class Standing(NamedTuple):
    """How far a simulation is: what a checkpoint holds."""

    merged: int = 0
    """How many chunks are merged: those of the first numbers."""
    total: _run.Record | None = None
    """Their records, in float64 where merging rounds."""
    full: _run.Record | None = None
    """The records of those among them that are not filled up with seeds that nobody asked for."""
    pending: tuple[_run.RunState, ...] = ()
    """Chunks begun before, on the host, in order: those of the next numbers."""
    kept: tuple[_run.RunState, ...] = ()
    """Merged chunks in their last state, on the host: those of the first numbers, and none where they are large."""
    current: _run.RunState | None = None
    """The chunks on the devices: those of the numbers next to the merged ones."""

    def drawn(self, task: Task) -> "Standing":
        """With the next chunks on the devices."""
        if not self.pending:
            return self._replace(current=task.begin(self.merged))
        first, *others = self.pending
        size = task.devices * task.chunk
        if len(first.seeds) > size:
            first, rest = divided(first, size // task.chunk, task.chunk)
            others = [rest, *others]
        return self._replace(current=task.resume(first), pending=tuple(others))

    @property
    def step(self) -> int:
        """The step that the chunks on the devices are at."""
        assert self.current is not None
        return int(_devices.on_host(self.current.step))

    def advanced(self, task: Task, stop: int) -> "Standing":
        """With the chunks on the devices at step `stop`."""
        assert self.current is not None
        return self._replace(current=jax.block_until_ready(task.advance(self.current, stop)))

    def finished(self, task: Task, keep: bool) -> "Standing":
        """With the chunks on the devices merged, which have come to their last step."""
        assert self.current is not None
        standing, count = self._replace(current=None), self.count(task)
        records = _devices.on_host(self.current.records)
        for place in range(count):
            one = jax.tree.map(lambda leaf, place=place: leaf[place], records)
            total, merged = merge(task.recorder.reducers, standing.total, one), standing.merged + 1
            full = total if merged * task.chunk <= task.seeds else standing.full
            standing = standing._replace(merged=merged, total=total, full=full)
        if keep and _chunks_of(self.kept, task.chunk) == self.merged:
            kept = (*self.kept, divided(_devices.on_host(self.current), count, task.chunk)[0])
            standing = standing._replace(kept=kept if _bytes(kept) <= _MOST_KEPT else ())
        return standing

    def on_host(self, task: Task) -> "Standing":
        """With the chunks on the devices brought to the host."""
        if self.current is None:
            return self
        run, _ = divided(_devices.on_host(self.current), self.count(task), task.chunk)
        return self._replace(current=None, pending=(run, *self.pending))

    def with_more_seeds(self, task: Task, before: int) -> "Standing":
        """What of a standing is of use in a task of more seeds: what is not filled up with seeds that nobody asked for."""
        whole = before // task.chunk
        merged = min(self.merged, whole)
        pending, kept = _first(self.pending, whole - merged, task.chunk), _first(self.kept, merged, task.chunk)
        return Standing(merged, self.full, self.full, pending, kept)

    def with_more_steps(self, task: Task, steps: int, every: int) -> "Standing":
        """What of a standing is of use in a task of more steps, recorded at multiples of another number perhaps."""
        if task.steps < steps:
            raise ValueError(f"steps must be at least {steps}, those of the checkpoint, got {task.steps}")
        if task.every % every and task.every <= steps:
            raise ValueError(
                f"every must be a multiple of {every}, that of the checkpoint, or more than {steps}, got {task.every}"
            )
        if task.every != every and task.recorder.reducers.memory:
            raise ValueError(f"every must be {every}, as for the checkpoint: lags count records, got {task.every}")
        if task.steps == steps:
            raise ValueError(f"every must be {every}, as for the checkpoint of as many steps, got {task.every}")
        if _chunks_of(self.kept, task.chunk) < self.merged:
            raise ValueError(
                f"steps must be {steps}, those of the checkpoint, got {task.steps}: the states of the seeds that are done have "
                f"more than {_MOST_KEPT / 2**20:g} MiB and were not kept. Begin a longer run in another folder"
            )
        there, slots = range(0, steps + 1, task.every), task.steps // task.every + 1

        def moved(run: _run.RunState) -> _run.RunState:
            places = [n // every for n in there]
            longer = lambda leaf: np.concatenate(
                [leaf[:, places], np.zeros((len(leaf), slots - len(places), *leaf.shape[2:]), leaf.dtype)], axis=1
            )
            return run._replace(records=jax.tree.map(longer, run.records))

        return Standing(pending=tuple(map(moved, (*self.kept, *self.pending))))

    def count(self, task: Task) -> int:
        """How many of the chunks on the devices count. Others fill up the devices: repeated ones, or those behind the last."""
        assert self.current is not None
        numbers = _devices.on_host(self.current.seeds)[:: task.chunk] // task.chunk
        wanted = np.arange(self.merged, self.merged + len(numbers))
        return int(np.sum((numbers == wanted) & (wanted < task.chunks)))


def merge(reducers: ByObservable, total: _run.Record | None, one: _run.Record) -> _run.Record:
    """The records of the seeds of both. Many chunks are merged in float64, as roundings add up over them."""
    if total is None:
        return one
    if not reducers.rounds:
        return jax.tree.map(np.asarray, _run.merge(reducers, total, one))
    return in_double(_run.merge, reducers)(total, one)


def divided(run: _run.RunState, count: int, chunk: int) -> tuple[_run.RunState, _run.RunState]:
    """The first `count` chunks of a run on the host, and the others."""
    size = count * chunk
    return (
        _each(run, lambda leaf: leaf[:size], lambda leaf: leaf[:count]),
        _each(run, lambda leaf: leaf[size:], lambda leaf: leaf[count:]),
    )


def _first(runs: tuple[_run.RunState, ...], count: int, chunk: int) -> tuple[_run.RunState, ...]:
    """The first `count` chunks of runs on the host."""
    found: list[_run.RunState] = []
    for run in runs:
        here = min(count, len(run.seeds) // chunk)
        if here:
            found.append(divided(run, here, chunk)[0])
        count -= here
    return tuple(found)


def _each(run: _run.RunState, of_seeds: Any, of_chunks: Any) -> _run.RunState:
    parts = jax.tree.map(of_seeds, run._replace(step=None, records=None))
    return parts._replace(step=run.step, records=jax.tree.map(of_chunks, run.records))


def _typed(leaf: np.ndarray, shape: Any) -> Any:
    """An array on the host as the array that it was: keys from their data."""
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(jnp.zeros((), shape.dtype)))
    return jnp.asarray(leaf)


def _chunks_of(runs: tuple[_run.RunState, ...], chunk: int) -> int:
    return sum(len(run.seeds) for run in runs) // chunk


def _bytes(tree: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
