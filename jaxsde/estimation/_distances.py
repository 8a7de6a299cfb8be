"""Distances between two laws, given as samples, with permutation tests."""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike
from scipy.stats import energy_distance, wasserstein_distance

from .. import _checks


class LawComparison(NamedTuple):
    """What [`compare_laws`][] returns."""

    distance: float
    null_mean: float
    """The distance's mean if the two laws are one, by permutation."""
    pvalue: float


def wasserstein(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """The Wasserstein-1 distance between two laws, coordinate by coordinate.

    **Arguments:** `a`, `b`: samples, shapes `(m,)` or `(m, d)` and `(n,)` or `(n, d)`.

    **Returns:** shape `(d,)`, in the units of the samples.

    **Raises:** `ValueError` for shapes that don't fit, or samples that are not finite.

    >>> wasserstein(jnp.zeros(3), jnp.ones(4)).tolist()
    [1.0]
    """
    first, second = _samples(a, b)
    return np.array([wasserstein_distance(x, y) for x, y in zip(first.T, second.T, strict=True)])


def energy(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """The energy distance between two laws, coordinate by coordinate:
    $\\sqrt{2 E|X - Y| - E|X - X'| - E|Y - Y'|}$ (Székely and Rizzo).

    **Arguments, returns, raises:** as those of [`wasserstein`][].

    >>> energy(jnp.zeros(3), jnp.ones(4)).round(4).tolist()
    [1.4142]
    """
    first, second = _samples(a, b)
    return np.array([energy_distance(x, y) for x, y in zip(first.T, second.T, strict=True)])


def sliced_wasserstein(a: ArrayLike, b: ArrayLike, *, projections: int = 64, seed: int = 0) -> float:
    """The mean Wasserstein-1 distance of the projections of two laws on random directions: sees all coordinates at once.

    **Arguments:** `a`, `b`: samples, shapes `(m, d)` and `(n, d)`; `projections`: how many; `seed`: of the directions.

    **Returns:** a number in the units of the samples.

    **Raises:** as [`wasserstein`][].

    >>> round(sliced_wasserstein(jnp.zeros((3, 1)), jnp.ones((4, 1))), 6)
    1.0
    """
    first, second = _samples(a, b)
    directions = _directions(first.shape[1], projections, seed)
    return float(np.mean(wasserstein(first @ directions, second @ directions)))


_STATISTICS = ("wasserstein", "energy", "sliced")


def compare_laws(
    a: ArrayLike, b: ArrayLike, *, statistic: str = "sliced", permutations: int = 199, projections: int = 64, seed: int = 0
) -> LawComparison:
    """The distance between two laws, and how often samples of one single law would be as far apart.

    **Arguments:**

    - `a`, `b`: independent samples, shapes `(m, d)` and `(n, d)`, e.g. `Samples().values` of two runs at one time.
    - `statistic`: `"sliced"` ([`sliced_wasserstein`][]), or `"wasserstein"` or `"energy"`, the largest over coordinates.
    - `permutations`: how many random relabellings; the smallest p-value is one over that plus one.

    **Returns:** a [`LawComparison`][].

    **Raises:** as [`wasserstein`][].

    >>> same = compare_laws(jnp.arange(20.0), jnp.arange(20.0) + 0.1)
    >>> same.pvalue > 0.1
    True
    """
    _checks.choice("statistic", statistic, _STATISTICS)
    permutations = _checks.count("permutations", permutations)
    first, second = _samples(a, b)
    if statistic == "sliced":
        directions = _directions(first.shape[1], projections, seed)
        first, second = first @ directions, second @ directions

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        values = (energy if statistic == "energy" else wasserstein)(x, y)
        return float(np.mean(values) if statistic == "sliced" else np.max(values))

    seen = distance(first, second)
    pooled, rng = np.concatenate([first, second]), np.random.default_rng(seed)
    null = np.empty(permutations)
    for i in range(permutations):
        order = rng.permutation(len(pooled))
        null[i] = distance(pooled[order[: len(first)]], pooled[order[len(first) :]])
    return LawComparison(seen, float(null.mean()), float((1 + np.sum(null >= seen)) / (1 + permutations)))


def _samples(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(s, float) for s in (a, b))
    first, second = (s[:, None] if s.ndim == 1 else s for s in (first, second))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"samples must have shapes (m, d) and (n, d) with the same d, got {np.shape(a)} and {np.shape(b)}")
    for name, s in (("a", first), ("b", second)):
        lost = int(np.sum(~np.all(np.isfinite(s), axis=1)))
        if lost or not len(s):
            raise ValueError(f"{name} must hold finite samples, but {lost} of {len(s)} are not: leave them out, and say so")
    return first, second


def _directions(d: int, projections: int, seed: int) -> np.ndarray:
    """Unit vectors, as columns; in one dimension the only one there is."""
    if d == 1:
        return np.ones((1, 1))
    raw = np.random.default_rng(seed).standard_normal((d, _checks.count("projections", projections)))
    return raw / np.linalg.norm(raw, axis=0)
