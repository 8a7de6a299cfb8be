"""Checkpoints: how far a simulation is, on disk, so that the same call goes on where it was cut off."""

import contextlib
import contextvars
import functools
import hashlib
import io
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from .. import _checks
from .._write import clear_drafts, write
from . import _together
from ._identity import differences
from ._work import Standing, Task

_FORMAT = 1

# Two generations, written in turn: while one is replaced the other is whole.
_NAMES = "checkpoint-0.npz", "checkpoint-1.npz"
_LOCK = "lock"

_MOST_TOLD = 8  # differences


class Checkpoint:
    """A folder that holds the two last states of one simulation.

    **Arguments:** `folder`: made where there is none; `every`: how many seconds lie between two states; `identity`: what
    tells the simulation from others; `extensible`: whether to keep what a simulation of more steps goes on from.

    **Raises:** `ValueError` where another run works in the folder; `OSError` where it cannot be made or written.
    """

    def __init__(self, folder: Any, every: float, identity: dict[str, str], *, extensible: bool):
        self.folder, self._every, self._identity, self.extensible = pathlib.Path(folder), every, identity, extensible
        self._serial, self._saved = 0, time.monotonic()
        self._lock = _locked(self.folder) if _together.is_first() else None
        if self._lock is not None:
            clear_drafts(self.folder)  # of runs that were killed while they wrote

    def close(self) -> None:
        """Lets others work in the folder."""
        if self._lock is not None:
            self._lock.close()

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved >= self._every

    def save(self, standing: Standing, task: Task) -> None:
        """Writes a state, with the chunks on the devices. Where it cannot be written the last one remains."""
        standing = standing.on_host(task)
        if _together.is_first():
            about = {
                "format": _FORMAT,
                "serial": self._serial,
                "identity": self._identity,
                "steps": task.steps,
                "seeds": task.seeds,
                "every": task.every,
                "chunk": task.chunk,
                "merged": standing.merged,
                "parts": [int(part is not None) for part in (standing.total, standing.full)],
                "runs": [len(standing.pending), len(standing.kept)],
            }
            leaves = jax.tree.leaves((standing.total, standing.full, standing.pending, standing.kept))
            self._write(about, leaves)
        self._serial, self._saved = self._serial + 1, time.monotonic()

    @functools.cached_property
    def found(self) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """What the last state that can be read is about, and its arrays; None where there is none."""
        content = _together.from_first(self._newest() if _together.is_first() else b"")
        if not content:
            return None
        about, arrays = _read(content)
        self._serial = about["serial"] + 1
        return about, arrays

    @property
    def chunk(self) -> int | None:
        """How many seeds ran at a time, where there is a state."""
        return None if self.found is None else self.found[0]["chunk"]

    def standing(self, task: Task) -> Standing:
        """Where the task goes on. Raises `ValueError` where the state is of another run, with what differs."""
        if self.found is None:
            return Standing()
        about, leaves = self.found
        differing = differences(about["identity"], self._identity)
        if task.seeds < about["seeds"]:
            differing.append(f"seeds were {about['seeds']} and are {task.seeds}, which is fewer")
        elif task.chunk != about["chunk"]:
            differing.append(f"chunk was {about['chunk']} and is {task.chunk}")
        if differing:
            more = f"; and {len(differing) - _MOST_TOLD} more" if len(differing) > _MOST_TOLD else ""
            raise ValueError(
                f"checkpoint: {self.folder} holds another run: {'; '.join(differing[:_MOST_TOLD])}{more}. Choose another "
                "folder, or delete this one to begin anew"
            )
        standing = _unpacked(about, leaves, task)
        if task.seeds != about["seeds"]:
            standing = standing.with_more_seeds(task, about["seeds"])
        if (task.steps, task.every) != (about["steps"], about["every"]):
            standing = standing.with_more_steps(task, about["steps"], about["every"])
        return standing

    def _write(self, about: dict[str, Any], leaves: list[np.ndarray]) -> None:
        path = self.folder / _NAMES[self._serial % len(_NAMES)]
        arrays = {str(i): leaf for i, leaf in enumerate(leaves)}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        savez: Any = np.savez  # a type checker takes the arrays for its options
        try:
            write(path, lambda draft: savez(draft, **arrays), overwrite=True)
        except OSError as error:
            intact = any((self.folder / name).exists() for name in _NAMES if name != path.name)
            left = "the one before it is intact" if intact else "there is none before it"
            why = f"the checkpoint could not be written ({error.strerror or error}); {left}"
            raise OSError(error.errno, why, str(path)) from error

    def _newest(self) -> bytes:
        paths = [path for name in _NAMES if (path := self.folder / name).exists()]
        found: list[tuple[int, bytes]] = []
        for path in paths:
            content = path.read_bytes()
            try:
                found.append((_read(content)[0]["serial"], content))
            except Exception as error:  # a damaged file may break whatever reads it
                warnings.warn(f"the checkpoint {path} is damaged ({error}): the other one is used", stacklevel=2)
        if paths and not found:
            raise ValueError(f"checkpoint: no checkpoint in {self.folder} can be read; delete the folder to begin anew")
        return max(found, default=(0, b""))[1]


def _read(content: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        about = json.loads(bytes(file["about"]))
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']}, and that of this version of jaxsde is {_FORMAT}")
        return about, [file[str(i)] for i in range(len(file.files) - 1)]


def _unpacked(about: dict[str, Any], leaves: list[np.ndarray], task: Task) -> Standing:
    run = task.shapes
    total, full = (run.records if there else None for there in about["parts"])
    pending, kept = ((run,) * number for number in about["runs"])
    return Standing(about["merged"], *jax.tree.unflatten(jax.tree.structure((total, full, pending, kept)), leaves))


def _locked(folder: pathlib.Path) -> Any:
    """An open file that no other process can lock until it is closed, or its process ends in whatever way."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / _LOCK, "ab")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows has other locks; there two runs in a folder are the user's to avoid
        pass
    except OSError:
        file.close()
        raise ValueError(f"checkpoint: another run works in {folder}; give each run a folder of its own") from None
    return file


_AMBIENT: contextvars.ContextVar[tuple[pathlib.Path, float] | None] = contextvars.ContextVar("checkpoints", default=None)


@contextlib.contextmanager
def checkpoints(folder: str | os.PathLike[str], every: float = 60.0) -> Iterator[None]:
    """Within this context every simulation has a checkpoint: those of [`compare`][], [`stationary`][] and all other estimates.

    Each simulation has a folder of its own, named by what it simulates. When the same work is done again after it was cut
    off, simulations that were complete are read, and the one that was not goes on.

    **Arguments:** `folder`: holds the folders; `every`: seconds between two states of a simulation.

    **Raises:** `ValueError` where `every` is not positive.

    >>> import tempfile, jax, jax.numpy as jnp, jaxsde as js
    >>> chain = js.SGD(0.1).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))
    >>> with tempfile.TemporaryDirectory() as folder, checkpoints(folder):
    ...     law = js.stationary(chain, jnp.ones(1), key=jax.random.key(0), seeds=64)
    """
    _checks.number("every", every, low=0.0)
    token = _AMBIENT.set((pathlib.Path(folder), float(every)))
    try:
        yield
    finally:
        _AMBIENT.reset(token)


@contextlib.contextmanager
def opened(
    folder: Any, every: float, identity: Callable[[], dict[str, str]], numbers: dict[str, Any]
) -> Iterator[Checkpoint | None]:
    """The checkpoint of a simulation: in the `folder` given, or within `checkpoints` in one of its own; None without both."""
    outer, extensible = _AMBIENT.get(), folder is not None
    if folder is None and outer is None:
        yield None
        return
    if folder is None:
        assert outer is not None
        name = hashlib.sha256(json.dumps([identity(), numbers], sort_keys=True).encode()).hexdigest()[:16]
        folder, every = outer[0] / name, outer[1]
    with contextlib.closing(Checkpoint(folder, every, identity(), extensible=extensible)) as checkpoint:
        yield checkpoint
