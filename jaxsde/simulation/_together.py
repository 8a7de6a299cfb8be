"""Several processes that run one simulation: what they agree on, and how each sees that another is gone."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_PATIENCE = 45.0
"""How long a process waits for the others where all should be done, in seconds."""

_GONE = (
    "another process of this run has stopped, or has been stuck for more than {patience:g} seconds. Start all processes anew: "
    "with checkpoint= the run goes on from its last checkpoint"
)


_LARGEST = 2**30

_WAITING: list[int] = []  # signals


def is_first() -> bool:
    """Whether this is the process that reads and writes files."""
    return jax.process_index() == 0


def gathered(numbers: np.ndarray) -> np.ndarray:
    """Each process' numbers, with a leading axis of processes."""
    if jax.process_count() == 1:
        return numbers[None]
    with watched():
        return multihost_utils.process_allgather(numbers)


def from_first(content: bytes) -> bytes:
    """What the first process has, on all of them."""
    if jax.process_count() == 1:
        return content
    with watched():
        parts = np.asarray(divmod(len(content), _LARGEST), np.int32)  # a size may be beyond an int32
        high, low = map(int, multihost_utils.broadcast_one_to_all(parts))
        size = high * _LARGEST + low
        text = np.frombuffer(content, np.uint8) if is_first() else np.zeros(size, np.uint8)
        return bytes(np.asarray(multihost_utils.broadcast_one_to_all(text))) if size else b""


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """For waiting on other processes: raises `RuntimeError` where one is gone, and ends this process where one is stuck.

    A process that waits for a stuck one is stuck itself, below Python: no exception can reach it.
    """
    if jax.process_count() == 1:
        yield
        return
    timer = threading.Timer(_PATIENCE, _give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(_GONE.format(patience=_PATIENCE)) from error
    finally:
        timer.cancel()


def _give_up() -> None:
    print(f"jaxsde: {_GONE.format(patience=_PATIENCE)}", file=sys.stderr, flush=True)
    os._exit(1)


@contextlib.contextmanager
def heeding_signals(saves: bool) -> Iterator[None]:
    """Within it a signal waits until the host looks in: where the run `saves` its state, and where processes stop together.

    SIGTERM, by which clusters announce that they take a machine away, is heeded as ctrl-C is. An exception that is raised at
    once could come in a place that swallows it. A second ctrl-C is one that doesn't wait.
    """
    if threading.current_thread() is not threading.main_thread() or not (saves or jax.process_count() > 1):
        yield
        return

    def wait(number: int, frame: Any) -> None:
        del frame
        if _WAITING and number == signal.SIGINT:
            raise KeyboardInterrupt
        _WAITING.append(number)

    _WAITING.clear()
    before = {number: signal.signal(number, wait) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        late = _WAITING[:1]  # all was done by then
    except BaseException:
        late = []
        raise
    finally:
        _WAITING.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in late:
        signal.raise_signal(number)


def interrupted() -> bool:
    """Whether a signal waits."""
    return bool(_WAITING)
