"""The published file formats of image collections: MNIST's IDX, CIFAR-10's binary."""

import gzip
import pathlib

import numpy as np

# The third byte of an IDX file names its type of number; images and labels are unsigned bytes.
_UNSIGNED_BYTE = 8

_CIFAR10_SHAPE = (3, 32, 32)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """The array in an IDX file, gzipped if its name ends on .gz."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    axes = content[3]
    start = 4 + 4 * axes
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], dtype=">u4"))
    if len(content) != start + int(np.prod(shape)):
        raise ValueError(f"{path} should hold an array of shape {shape}, but has {len(content) - start} bytes after its head")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def find_idx(folder: pathlib.Path, stem: str) -> pathlib.Path | None:
    """The file of that name in the folder, with or without .gz."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def read_cifar10(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Images of shape `(n, 3, 32, 32)` and labels: a record is a byte for the label and then the pixels, by channel."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    record = 1 + int(np.prod(_CIFAR10_SHAPE))
    if content.size == 0 or content.size % record:
        raise ValueError(f"{path} is no CIFAR-10 batch in binary format: {content.size} bytes are no multiple of {record}")
    rows = content.reshape(-1, record)
    if rows[:, 0].max() > 9:
        raise ValueError(f"{path} is no CIFAR-10 batch in binary format: it has a label {rows[:, 0].max()}, above 9")
    return rows[:, 1:].reshape(-1, *_CIFAR10_SHAPE), rows[:, 0]
