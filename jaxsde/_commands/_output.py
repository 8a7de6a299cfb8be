"""The files that commands write."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import tempfile
from collections.abc import Mapping

from .._extras import require
from .._write import Writer, draft, publish


@dataclasses.dataclass(frozen=True)
class Output:
    """Where the files go."""

    out: pathlib.Path = pathlib.Path(".")
    """The folder to write to."""
    force: bool = False
    """Overwrite files of earlier runs. By default they are kept, and the names of new ones get a number."""


def prepare(folder: pathlib.Path) -> None:
    """Makes the folder; raises `OSError` where nothing can be written to it. That should show before the work is done."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def prepare_picture_and_numbers(folder: pathlib.Path) -> None:
    """As `prepare`; raises `ImportError` as well where what writes the two is missing."""
    require("matplotlib", extra="plots", purpose="the picture")
    for package in ("xarray", "h5netcdf", "h5py"):
        require(package, extra="files", purpose="the file of numbers")
    prepare(folder)


def write_files(folder: pathlib.Path, writers: Mapping[str, Writer], *, force: bool) -> list[pathlib.Path]:
    """Writes files of these names to a folder: all of them whole, or none.

    Where one of the names is taken, all get the same number, as in name-2.png and name-2.nc; or else, with `force`, the files
    are overwritten.

    **Returns:** their paths.
    """
    with contextlib.ExitStack() as stack:
        drafts = [stack.enter_context(draft(folder / name, writer)) for name, writer in writers.items()]
        for number in itertools.count(1):
            paths = [folder / name for name in writers]
            if number > 1:
                paths = [path.with_stem(f"{path.stem}-{number}") for path in paths]
            if not force and any(map(os.path.lexists, paths)):
                continue
            # The first file decides whose the number is, where two commands write at the same time.
            with contextlib.suppress(FileExistsError):
                for written, path in zip(drafts, paths, strict=True):
                    publish(written, path, overwrite=force)
                return paths
    raise AssertionError
