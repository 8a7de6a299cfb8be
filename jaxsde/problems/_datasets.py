"""Real data that comes with an installed package: nothing is downloaded."""

from typing import NamedTuple

import numpy as np

from .. import _checks
from .._extras import require


class Dataset(NamedTuple):
    """Standardised features of shape `(N, d)` (float32) and integer labels of shape `(N,)`."""

    features: np.ndarray
    labels: np.ndarray


def load(name: str) -> Dataset:
    """The data set `name`, its features standardised (constant ones left at zero).

    **Arguments:** `name`: `"breast-cancer"` (569 x 30, 2 classes) or `"digits"` (1797 x 64, 10 classes), both as
    shipped by scikit-learn.

    **Raises:** `ValueError` for another name; `ImportError` with a hint where scikit-learn is not installed.

    >>> load("digits").features.shape
    (1797, 64)
    """
    _checks.choice("name", name, ("breast-cancer", "digits"))
    datasets = require("sklearn.datasets", extra="data", purpose=f"the data set {name!r}")
    bunch = datasets.load_breast_cancer() if name == "breast-cancer" else datasets.load_digits()
    features = np.asarray(bunch.data, dtype=np.float64)
    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return Dataset(standard.astype(np.float32), np.asarray(bunch.target, dtype=np.int32))
