"""The host's loop: chunks are begun, advanced piece by piece, merged and saved, until all is done."""

import math
import time
from typing import Any

import jax
import numpy as np

from . import _run, _together
from ._checkpoint import Checkpoint
from ._work import Standing, Task

# How often the host looks in, in seconds: for the progress bar, for a checkpoint and for an interrupt from the keyboard.
_POLL_SECONDS = 0.25

# The host looks in first after this share of a run, to see how fast it goes.
_FIRST_SHARE = 1 / 32

_MOST_STEPS = 2**30


class Stopped(Exception):
    """The loop was interrupted; `standing` is what is done."""

    def __init__(self, standing: Standing):
        super().__init__()
        self.standing = standing


def complete(task: Task, standing: Standing, bar: Any, store: Checkpoint | None) -> Standing:
    """The standing at the end of the task. Raises `Stopped` where it is interrupted, once the state is saved in the store."""
    bar.update(_steps_done(task, standing))
    try:
        while standing.merged < task.chunks:
            standing = standing.drawn(task)
            count, pace, step = standing.count(task), _Pace(task.steps), standing.step
            while step < task.steps:
                stop = min(step + pace.length, task.steps)
                standing = standing.advanced(task, stop)
                bar.update((stop - step) * count)
                if pace.look_in(stop - step, store is not None and store.is_due) and store is not None:
                    store.save(standing, task)
                step = stop
            standing = standing.finished(task, keep=store is not None and store.extensible)
        if store is not None:
            store.save(standing, task)
    except KeyboardInterrupt:
        if store is not None:
            store.save(standing, task)
        raise Stopped(standing) from None
    return standing


def completed_within_a_trace(task: Task) -> _run.Record:
    """The records of the whole task as part of a program that is being traced: the host can't look in."""
    total = None
    for first in range(0, task.chunks, task.devices):
        records = task.advance(task.begin(first), task.steps).records
        for place in range(min(task.devices, task.chunks - first)):
            one = jax.tree.map(lambda leaf, place=place: leaf[place], records)
            total = one if total is None else _run.merge(task.recorder.reducers, total, one)
    assert total is not None  # there is a chunk
    return total


def _steps_done(task: Task, standing: Standing) -> int:
    begun = sum(len(run.seeds) // task.chunk * int(run.step) for run in standing.pending)
    return standing.merged * task.steps + begun


class _Pace:
    """How many steps the devices make before the host looks in. Processes that run together agree on it."""

    def __init__(self, steps: int):
        self.length = max(1, math.ceil(_FIRST_SHARE * steps))
        self._begun = time.perf_counter()

    def look_in(self, made: int, is_due: bool) -> bool:
        """Called after a piece of `made` steps: whether to save. Raises `KeyboardInterrupt` where a process was interrupted."""
        now = time.perf_counter()
        length = math.ceil(made * _POLL_SECONDS / max(now - self._begun, 1e-6))
        told = _together.gathered(np.asarray([min(length, _MOST_STEPS), is_due, _together.interrupted()], np.int32))
        if told[:, 2].any():
            raise KeyboardInterrupt
        self.length, self._begun = int(told[0, 0]), time.perf_counter()
        return bool(told[0, 1])
