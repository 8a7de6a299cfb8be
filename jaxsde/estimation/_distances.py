"""Distances between laws given as samples, and tests whether two laws differ."""

import itertools
from typing import Any, NamedTuple

import numpy as np

from .. import _checks

# The power of the difference between distribution functions that a distance integrates.
_EXPONENTS = {"wasserstein": 1, "energy": 2, "sliced": 1}
_LEVEL = 0.95
# Samples with larger values are divided by this unit. It and its root are powers of two, so no digit changes.
_LARGE = 2.0**512


class LawComparison(NamedTuple):
    """What [`compare_laws`][] returns."""

    distance: float
    pvalue: float
    """The probability of a distance at least as large if the two laws are one."""
    null_mean: float
    """The mean distance if the two laws are one, from sampling alone."""
    null_quantile: float
    """The 95 % quantile of that distance."""


def wasserstein(a: Any, b: Any) -> np.ndarray:
    """Computes the Wasserstein distance $W_1 = \\int |F_a - F_b|$ between the laws of each coordinate.

    **Arguments:** `a`, `b`: samples, shape `(seeds,)` or `(seeds, d)`, of as many seeds as you like; of an ensemble
    with [`Samples`][], `ensemble["x"].values[i]`.

    **Returns:** the distances, shape `(d,)`, in the units of the samples.

    **Raises:** `ValueError` for shapes that don't fit and samples that are not finite.

    >>> wasserstein(jnp.arange(4.0), jnp.arange(4.0) + 0.5).tolist()
    [0.5]
    """
    a, b, unit = _pair(a, b)
    return _distance(a, b, 1) * unit


def energy(a: Any, b: Any) -> np.ndarray:
    """Computes the energy distance $D$ between the laws of each coordinate.

    $D^2 = 2\\,E|A - B| - E|A - A'| - E|B - B'| = 2 \\int (F_a - F_b)^2$ (szekely2013). Tails weigh less in it
    than in the Wasserstein distance.

    **Arguments:** `a`, `b`: as in [`wasserstein`][].

    **Returns:** the distances, shape `(d,)`, in the square root of the samples' units.

    **Raises:** as [`wasserstein`][].

    >>> energy(jnp.zeros(3), jnp.full(5, 2.0)).tolist()  # two points at a distance of 2
    [2.0]
    """
    a, b, unit = _pair(a, b)
    return _distance(a, b, 2) * np.sqrt(unit)


def sliced_wasserstein(a: Any, b: Any, *, projections: int = 128, seed: int = 0) -> float:
    """Computes the mean of [`wasserstein`][] along random directions, a distance between joint laws.

    $\\int_{S^{d-1}} W_1(\\theta^\\top A, \\theta^\\top B)\\,d\\theta$ (bonneel2015), by Monte Carlo. It sees
    correlations that no coordinate shows.

    **Arguments:** `a`, `b`: samples, shape `(seeds, d)`; `projections`: the number of directions; `seed`: theirs.

    **Returns:** the distance, in the units of the samples.

    **Raises:** as [`wasserstein`][]; `TypeError` or `ValueError` for `projections` or a `seed` that are no whole numbers.

    >>> x = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    >>> sliced_wasserstein(x, x * jnp.array([1.0, -1.0])) > 0.2, float(wasserstein(x, x * jnp.array([1.0, -1.0])).max())
    (True, 0.0)
    """
    projections, seed = _checks.count("projections", projections), _checks.count("seed", seed, least=0)
    a, b, unit = _pair(a, b)
    directions = _directions(a.shape[1], projections, seed)
    return float(np.mean(_distance(a @ directions, b @ directions, 1))) * unit


def compare_laws(
    a: Any, b: Any, *, statistic: str = "wasserstein", permutations: int = 999, projections: int = 128, seed: int = 0
) -> LawComparison:
    """Computes the distance between two laws, and tests by permutations whether they are one.

    If they are, dealing the seeds out anew between the two does not change the law of the distance. The p-value is the share
    of deals, the given one included, with at least the given distance. It is exact for any number of seeds.

    **Arguments:**

    - `a`, `b`: samples as in [`wasserstein`][], independent of each other: simulate them with different keys.
    - `statistic`: `"wasserstein"` or `"energy"`, the largest over coordinates, or `"sliced"`
      ([`sliced_wasserstein`][]), for the joint law.
    - `permutations`: the number of deals; the smallest p-value is one over this and one.
    - `projections`: for `"sliced"`.
    - `seed`: of the deals and the directions.

    **Returns:** a [`LawComparison`][]: `.distance`, `.pvalue`, `.null_mean`, `.null_quantile`.

    **Raises:** as [`sliced_wasserstein`][].

    >>> x, y = jax.random.normal(jax.random.key(0), (2, 200))
    >>> compare_laws(x, y).pvalue > 0.01, compare_laws(x, y + 1).pvalue
    (True, 0.001)
    """
    exponent = _EXPONENTS[_checks.choice("statistic", statistic, tuple(_EXPONENTS))]
    permutations, projections = _checks.count("permutations", permutations), _checks.count("projections", projections)
    seed = _checks.count("seed", seed, least=0)
    a, b, unit = _pair(a, b)
    if statistic == "sliced":
        directions = _directions(a.shape[1], projections, seed)
        a, b = a @ directions, b @ directions
    combine = np.mean if statistic == "sliced" else np.max
    # All seeds are sorted once. Dealing them out anew permutes their weights.
    order, gaps = _sorted(a, b)
    weights = _weights(a, b)
    rng = np.random.default_rng([seed, 1])
    deals = itertools.chain([weights], (rng.permutation(weights) for _ in range(permutations)))
    distance, *null = (float(combine(_integral(w[order], gaps, exponent))) for w in deals)
    # Equal distances may differ in the last digits.
    reached = int(np.count_nonzero(np.array(null) >= distance * (1 - 1e-12)))
    pvalue = (1 + reached) / (1 + permutations)
    unit = unit ** (1 / exponent)
    return LawComparison(unit * distance, pvalue, unit * float(np.mean(null)), unit * float(np.quantile(null, _LEVEL)))


def _distance(a: np.ndarray, b: np.ndarray, exponent: int) -> np.ndarray:
    order, gaps = _sorted(a, b)
    return _integral(_weights(a, b)[order], gaps, exponent)


def _sorted(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts both samples together: the order, shape `(d, n)`, and the gaps between neighbours, for each coordinate."""
    both = np.ascontiguousarray(np.concatenate([a, b]).T)
    order = np.argsort(both, axis=1)
    return order, np.diff(np.take_along_axis(both, order, axis=1), axis=1)


def _weights(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the steps of $F_a - F_b$ at each seed of both samples."""
    return np.concatenate([np.full(len(a), 1 / len(a)), np.full(len(b), -1 / len(b))])


def _integral(steps: np.ndarray, gaps: np.ndarray, exponent: int) -> np.ndarray:
    """Computes $\\int |F_a - F_b|$, or $(2 \\int (F_a - F_b)^2)^{1/2}$, for each coordinate."""
    difference = np.cumsum(steps[:, :-1], axis=1)
    if exponent == 1:
        return np.vecdot(np.abs(difference, out=difference), gaps)
    return np.sqrt(2 * np.einsum("ds,ds,ds->d", difference, difference, gaps))


def _directions(d: int, projections: int, seed: int) -> np.ndarray:
    """Draws unit vectors, as columns. On a line there is only one."""
    if d == 1:
        return np.ones((1, 1))
    normal = np.random.default_rng([seed, 0]).standard_normal((d, projections))
    return normal / np.linalg.norm(normal, axis=0)


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns both samples with shape `(seeds, d)`, in a unit in which their sums do not overflow, and that unit."""
    first, second = _samples("a", a), _samples("b", b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"a and b must be samples of the same coordinates, got shapes {first.shape} and {second.shape}")
    largest = max(np.max(np.abs(first)), np.max(np.abs(second)))
    unit = _LARGE if largest > _LARGE else 1.0
    return first / unit, second / unit, unit


def _samples(name: str, values: Any) -> np.ndarray:
    samples = _checks.as_float64(name, values)
    if samples.ndim not in (1, 2) or not samples.size:
        raise ValueError(f"{name} must be samples of shape (seeds,) or (seeds, d), got shape {samples.shape}")
    samples = samples.reshape(len(samples), -1)
    bad = np.count_nonzero(~np.isfinite(samples).all(axis=1))
    if bad:
        raise ValueError(f"{name} must be finite, but {bad} of its {len(samples)} seeds are not: leave out those that diverged")
    return samples
