"""Writing files so that under their final name there is the whole file or nothing."""

import contextlib
import errno
import io
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from ._extras import require

_DRAFT = ".jaxsde-"

Writer = Callable[[pathlib.Path], Any]
"""Writes a file at a path."""


def write(path: Any, writer: Writer, *, overwrite: bool) -> None:
    """Lets `writer` write a file under another name in the same folder, then renames it to `path`.

    **Raises:** `FileExistsError` where there is one already and it is not to be overwritten; `OSError` where it cannot be
    written.
    """
    path = pathlib.Path(path)
    if not overwrite:
        refuse_existing(path)
    with draft(path, writer) as written:
        publish(written, path, overwrite=overwrite)


def refuse_existing(path: pathlib.Path) -> None:
    """Raises `FileExistsError` where there is something at `path`."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "there is a file already; choose another name, or overwrite=True", str(path))


@contextlib.contextmanager
def draft(path: pathlib.Path, writer: Writer) -> Iterator[pathlib.Path]:
    """A file that is written, and safe on the disk, but has no name for users yet. What is left of it in the end is removed.

    It lies in the folder of `path` and ends as `path` does, which tells some writers the format.
    """
    folder = _target(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to write to", str(folder))
    unnamed = folder / f"{_DRAFT}{secrets.token_hex(8)}{path.suffix}"
    try:
        try:
            writer(unnamed)
            _sync(unnamed)
        except OSError as error:  # whose words name the draft, which nobody has asked for
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(error.errno or errno.EIO, reason, str(path)) from error
        yield unnamed
    finally:
        unnamed.unlink(missing_ok=True)


def clear_drafts(folder: pathlib.Path) -> None:
    """Removes the drafts in a folder that nothing else writes to: those of programs that were killed."""
    for draft in folder.glob(f"{_DRAFT}*"):
        draft.unlink(missing_ok=True)


def publish(written: pathlib.Path, path: pathlib.Path, *, overwrite: bool) -> None:
    """Gives a draft its name; `FileExistsError` where another file has taken it meanwhile."""
    if overwrite:
        os.replace(written, _target(path))
    else:
        try:
            os.link(written, path)  # unlike a renaming, it fails where the name is taken
        except FileExistsError:
            refuse_existing(path)
            raise
        except OSError:  # a file system without links
            refuse_existing(path)
            os.replace(written, path)
    with contextlib.suppress(OSError):  # some systems do not open folders
        _sync(path.parent)


def write_netcdf(dataset: Any, path: Any, *, overwrite: bool) -> None:
    """Writes an xarray `Dataset` to a netCDF file, as `write` does."""
    backends = require("xarray.backends", extra="files", purpose="saving")
    require("h5py", extra="files", purpose="saving")
    h5netcdf = require("h5netcdf", extra="files", purpose="saving")
    # HDF5 cannot cope with a disk that is full, up to crashing, so it writes to memory.
    content = io.BytesIO()
    with h5netcdf.File(content, "w") as file:
        dataset.dump_to_store(backends.H5NetCDFStore(file))
    write(path, lambda to: to.write_bytes(content.getbuffer()), overwrite=overwrite)


def _target(path: pathlib.Path) -> pathlib.Path:
    """Where a link points to, so that its target is written and not the link."""
    return pathlib.Path(os.path.realpath(path))


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
