"""What the commands share that work for long: they go on where they were cut off."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Annotated

import tyro

from ..simulation import checkpoints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resumable:
    """The option of work that can be cut off."""

    checkpoint: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """A folder for the state of the simulations. The same command goes on from there after it was cut off."""

    @contextlib.contextmanager
    def resumed(self) -> Iterator[None]:
        """The context in which simulations go on from the folder's states."""
        with contextlib.nullcontext() if self.checkpoint is None else checkpoints(self.checkpoint):
            yield
