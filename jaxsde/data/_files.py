"""The published file formats of image collections: MNIST's IDX, CIFAR-10's binary. Files are not trusted: nothing in them is
run, and no more is read than they should hold."""

import gzip
import math
import pathlib
import zlib
from typing import Any

import numpy as np

# The third byte of an IDX file names its type of number; images and labels are unsigned bytes.
_UNSIGNED_BYTE = 8

_CIFAR10_SHAPE = (3, 32, 32)

# How many bytes are asked for at a time: memory is taken for what a file has, not for what its head says.
_PIECE = 2**20


def read_idx(path: pathlib.Path, axes: int) -> np.ndarray:
    """The array of so many axes in an IDX file, gzipped if its name ends on .gz.

    **Raises:** `ValueError` for any other file. Of a compressed one, no more is expanded than the head says, and one byte.
    """
    try:
        opened: IO[Any] = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[assignment]
        with opened as file:
            return _read_idx(path, file, axes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from None


def _read_idx(path: pathlib.Path, file: Any, axes: int) -> np.ndarray:
    head = _read(file, 4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UNSIGNED_BYTE:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    if head[3] != axes:
        raise ValueError(f"{path} should hold an array of {axes} axes, but its head says {head[3]}")
    lengths = _read(file, 4 * axes)
    if len(lengths) < 4 * axes:
        raise ValueError(f"{path} ends within its head")
    shape = tuple(int(n) for n in np.frombuffer(lengths, dtype=">u4"))
    size = math.prod(shape)
    if size == 0:
        raise ValueError(f"{path} holds no examples: its head says an array of shape {shape}")
    content = _read(file, size + 1)
    if len(content) != size:
        has = "more" if len(content) > size else len(content)
        raise ValueError(f"{path} should hold an array of shape {shape}, {size} bytes, but has {has} after its head")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read(file: Any, most: int) -> bytearray:
    """So many bytes, or fewer where the file ends."""
    content = bytearray()
    while len(content) < most:
        piece = file.read(min(_PIECE, most - len(content)))
        if not piece:
            break
        content += piece
    return content


def find_idx(folder: pathlib.Path, stem: str) -> pathlib.Path | None:
    """The file of that name in the folder, with or without .gz."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def check_labels(path: pathlib.Path, labels: np.ndarray, what: str) -> None:
    """Raises unless the labels name ten classes."""
    if labels.max() > 9:
        raise ValueError(f"{path} is no {what}: it has a label {labels.max()}, above 9")


def read_cifar10(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Images of shape `(n, 3, 32, 32)` and labels: a record is a byte for the label and then the pixels, by channel.

    **Raises:** `ValueError` for any other file.
    """
    record, size = 1 + math.prod(_CIFAR10_SHAPE), path.stat().st_size
    if size == 0 or size % record:
        raise ValueError(f"{path} is no CIFAR-10 batch in binary format: {size} bytes are no multiple of {record}")
    with path.open("rb") as file:
        content = _read(file, size)
    rows = np.frombuffer(content, np.uint8, len(content) // record * record).reshape(-1, record)
    check_labels(path, rows[:, 0], "CIFAR-10 batch in binary format")
    return rows[:, 1:].reshape(-1, *_CIFAR10_SHAPE), rows[:, 0]
