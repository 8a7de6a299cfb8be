"""Data in two splits, standardised by the statistics of the first."""

from typing import NamedTuple

import numpy as np

from .. import _checks


class Split(NamedTuple):
    """Examples: arrays with a leading axis each, the `data` of [`Problem.from_data`][] as they are."""

    features: np.ndarray
    """float32 of shape `(N, ...)`; of text, integers of shape `(N, length)`."""
    labels: np.ndarray
    """int32 of shape `(N,)`; of text, of shape `(N, length)`: each position's next character."""


class Dataset(NamedTuple):
    """A data set: `train` and `test` examples in a random but fixed order."""

    train: Split
    test: Split
    classes: int
    """How many values a label may have."""
    vocabulary: str = ""
    """Of text: the character that each number stands for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example's features; images have their channels first."""
        return self.train.features.shape[1:]

    def first(self, count: int) -> "Dataset":
        """With the first `count` training examples only, which are a random subset.

        **Raises:** `ValueError` where there are not that many.

        >>> import jaxsde as js
        >>> js.data.load("digits").first(100).train.features.shape
        (100, 1, 8, 8)
        """
        have = len(self.train.labels)
        if _checks.count("count", count) > have:
            raise ValueError(f"count must be at most the number of training examples, {have}, got {count}")
        return self._replace(train=Split(*(array[:count] for array in self.train)))


def standardised(train: Split, test: Split, axes: tuple[int, ...], classes: int) -> Dataset:
    """Features less their mean over their standard deviation, both over `axes` of the training split; constant ones zero."""
    features = np.asarray(train.features, np.float32)
    mean = features.mean(axis=axes, keepdims=True, dtype=np.float64)
    std = features.std(axis=axes, keepdims=True, dtype=np.float64)
    std = np.where(std > 0, std, 1)

    def standard(split: Split) -> Split:
        values = (split.features - mean) / std
        return Split(values.astype(np.float32), np.asarray(split.labels, np.int32))

    return Dataset(standard(train), standard(test), classes)


def parted(features: np.ndarray, labels: np.ndarray, share: float = 0.2) -> tuple[Split, Split]:
    """All examples in a random but fixed order, the last `share` of them for testing."""
    order = shuffled(len(labels))
    last = len(labels) - round(share * len(labels))
    return Split(features[order[:last]], labels[order[:last]]), Split(features[order[last:]], labels[order[last:]])


def shuffled(count: int) -> np.ndarray:
    """The order of `count` examples."""
    return np.random.default_rng(0).permutation(count)
