"""`mixing`: how fast the law of a process comes to its stationary law."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from .. import _checks, _random
from .._tree import drawn
from .._typing import Key
from ..processes import SDE, Chain
from ..simulation import Histogram, Jackknife, Samples, simulate
from ._divergence import check_seeds_left
from ._law import LEVEL, contributions, cumulative, group_counts, multiplied, observed
from ._rates import ConvergenceRate, MeanCurves, fit_rate
from ._stationary import stationary
from ._statistics import jackknife_stderr

# At least how many pairs of times are recorded; the seeds that are run first, for the number of steps and for the bins; and how
# many times as long as the approach a run is.
_PAIRS, _FIRST_SEEDS, _LENGTHS = 128, 256, 4

# Bins hold about equal shares of the first seeds' values at all times; beyond these are more, each twice as far out.
_BINS, _BEYOND = 256, 12

# The laws of at most so many numbers are kept: each takes some 9 MB in 32 groups.
_MOST_NUMBERS = 64

# A law has mixed when its distribution function is this near to the stationary one.
_NEAR = 0.25

# A rate is fitted while the distance is between these shares of its start, and so many times what sampling alone makes of it.
_BEGIN, _END, _CLEAR = 0.8, 0.1, 3.0

_NO_LAW = "there is no law to settle"

# How often the noise of a distance is drawn.
_DRAWS = 400


class Approach(NamedTuple):
    """How the laws of an observable's `k` numbers come to the stationary ones, at `n` times."""

    distance: np.ndarray
    """The Wasserstein distance $W_1$ between the law at each time and the stationary law, shape `(n, k)`."""
    stderr: np.ndarray
    chance: np.ndarray
    """What the distance of two equal laws stays below in 95 % of all runs, as its size comes of sampling alone."""
    rates: tuple[ConvergenceRate | None, ...]
    """The rates at which the distances fall, with confidence intervals; None where none falls clearly enough."""
    mixing_time: np.ndarray
    """From when on the distribution function is within 1/4 of the stationary one everywhere, shape `(k,)`."""
    mixing_time_stderr: np.ndarray


class Mixing(NamedTuple):
    """What [`mixing`][] returns."""

    ts: np.ndarray
    """The times, shape `(n,)`: of pairs of records."""
    laws: Mapping[str, Approach]
    """By the names of what was observed."""
    diverged: int
    seeds: int
    steps: int


def mixing(
    process: Chain | SDE,
    x0: Any,
    *,
    key: Key,
    seeds: int = 4096,
    steps: int | None = None,
    substeps: int = 1,
    observe: Mapping[str, Callable[[PyTree], Any]] | None = None,
    groups: int = 32,
    max_steps: int = 2**17,
    progress: bool = True,
) -> Mixing:
    """Measures how fast the law of a process comes to its stationary law from a start: in Wasserstein distance at each time,
    its rate, and the mixing time.

    The stationary law is that of the same run's second half. Times are recorded at an odd stride and taken in pairs, as
    SignSGD's chain is on every second point of its lattice at even steps and on the others at odd ones. The mixing time is
    that of levin2017, but for the largest difference of distribution functions, which total variation is no smaller than.

    **Arguments:**

    - `process`, `x0`, `key`, `substeps`, `progress`: as in [`simulate`][]. An SDE takes Gaussian increments.
    - `seeds`: the laws are known to about one over the square root of their number.
    - `steps`: the number of optimizer steps, in whose first half the law must settle. By default a run as long as
      [`stationary`][] takes tells it.
    - `observe`: functions of the parameters, by name, of at most 64 numbers each; by default
      `{"x": parameters, "loss": loss}`, without the parameters if they are more.
    - `groups`: the number of groups of seeds for the jackknife.
    - `max_steps`: the largest number of steps to try by default.

    **Returns:** a [`Mixing`][]: `.ts`, and `.laws` by name, with `.distance`, `.rates` and `.mixing_time`.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit; `ValueError` if the process has not settled within
    `max_steps`, or fewer than two seeds have not diverged.

    >>> import jaxsde as js
    >>> chain = js.SGD(0.1).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))
    >>> found = mixing(chain, jnp.full(1, 5.0), key=jax.random.key(0), steps=512, seeds=2048, progress=False)
    >>> 0.9 < found.laws["x"].rates[0].rate < 1.2  # log(1 - 0.1) / -0.1 = 1.05
    True
    """
    _checks.instance("process", process, (Chain, SDE), "an optimizer's chain(problem) or sde(problem)")
    _checks.eager("mixing", process, x0, key)
    key = _random.typed_key(key)
    steps = None if steps is None else _checks.count("steps", steps, least=2 * _PAIRS)
    seeds = _checks.count("seeds", seeds, least=2)
    groups = min(_checks.count("groups", groups, least=2), seeds)
    example = process.problem.validate(drawn(x0, key))
    observe = observed(observe, process.problem.loss, example, _MOST_NUMBERS)
    if not observe:
        raise ValueError("observe must hold at least one function, whose law comes to the stationary one")
    common: dict[str, Any] = dict(observe=observe, seeds=seeds, groups=groups, substeps=substeps, progress=progress)
    if steps is not None:
        return _mixing(process, x0, key, steps, **common)
    settled = stationary(
        process, x0, key=jax.random.fold_in(key, 2), seeds=min(seeds, _FIRST_SEEDS), substeps=substeps, observe={},
        max_steps=max_steps, progress=progress,
    )  # fmt: skip
    if not settled.settled:
        raise ValueError(f"the process has not settled within {settled.steps} steps: give steps, or more max_steps")
    found = _mixing(process, x0, key, max(settled.steps, 2 * _PAIRS), **common)
    # Most of that run may be stationary.
    steps = max(_LENGTHS * _approached(found), 2 * _PAIRS)
    return _mixing(process, x0, key, steps, **common) if 2 * steps < found.steps else found


def _mixing(
    process: Any, x0: Any, key: Any, steps: int, *, observe: Mapping[str, Any], seeds: int, groups: int, **common: Any
) -> Mixing:
    stride = steps // (2 * _PAIRS)
    stride -= 1 - stride % 2  # odd
    pairs = 2 * (steps // (4 * stride))
    common |= dict(observe=observe, steps=2 * pairs * stride, every=stride)
    pilot = simulate(process, x0, seeds=min(seeds, _FIRST_SEEDS), key=jax.random.fold_in(key, 1), reduce=Samples(), **common)
    check_seeds_left(pilot, _NO_LAW)
    edges = {name: _edges(np.asarray(pilot[name].values)) for name in observe}
    reduce = {name: Jackknife(Histogram(edges[name]), groups) for name in observe}
    run = simulate(process, x0, seeds=seeds, key=key, reduce=reduce, **common)
    check_seeds_left(run, _NO_LAW)
    ts = np.asarray(run.ts, float)[1:].reshape(pairs, 2).mean(axis=1)
    laws = {}
    for name in observe:
        counts = group_counts(run[name])[:, 1:]
        laws[name] = _approach(ts, edges[name].astype(float), counts.reshape(groups, pairs, 2, *counts.shape[2:]).sum(axis=2))
    return Mixing(ts, laws, int(run.diverged[-1]), seeds, 2 * pairs * stride)


def _approached(found: Mixing) -> int:
    """After how many steps no distance is clearly more than sampling makes it."""
    clear = np.zeros(len(found.ts), bool)
    for law in found.laws.values():
        clear |= np.any(law.distance > _CLEAR * law.chance, axis=1)
    pairs = int(np.flatnonzero(clear)[-1]) + 1 if clear.any() else 0
    return pairs * found.steps // len(found.ts)


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of bins for values at all times, shape `(times, seeds, k)`; shape `(k, bins + 1)`. They lie in the middle between
    two values, so that the points of a lattice lie within bins."""
    values = values.reshape(-1, values.shape[-1])
    eps = float(np.finfo(values.dtype).eps)
    return np.stack([_edges_of(column[np.isfinite(column)].astype(float), eps) for column in values.T]).astype(values.dtype)


def _edges_of(values: np.ndarray, eps: float) -> np.ndarray:
    points = np.unique(np.quantile(values, np.linspace(0, 1, _BINS), method="inverted_cdf")) if values.size else np.zeros(1)
    largest = max(np.max(np.abs(points)), 1e-30)
    spread = max(points[-1] - points[0], 1e3 * eps * largest)
    # Neighbours that differ by roundings are one point.
    points = points[np.append(True, np.diff(points) > max(1e-5 * spread, 8 * eps * largest))]
    middles = (points[1:] + points[:-1]) / 2
    missing = _BINS + 1 - middles.size
    below = _BEYOND // 2 + missing // 2
    outwards = lambda count: spread * (0.01 + np.minimum(2.0 ** np.arange(count) - 1, 1e6) + np.arange(count))
    return np.concatenate([points[0] - outwards(below)[::-1], middles, points[-1] + outwards(_BEYOND + missing - below)])


def _approach(ts: np.ndarray, edges: np.ndarray, counts: np.ndarray) -> Approach:
    """From counts for each group of seeds, shape `(groups, pairs, k, places)`."""
    total = counts.sum(axis=0)
    without = total - counts
    distance = _wasserstein(_differences(total), edges)
    left_out = np.stack([_wasserstein(_differences(part), edges) for part in without])
    stderr, chance = jackknife_stderr(left_out), _chance(counts, edges)
    times = np.stack([_mixing_times(ts, _differences(part)) for part in (total, *without)])
    curves = [MeanCurves(ts, distance[:, i], stderr[:, i], left_out[..., i]) for i in range(len(edges))]
    rates = tuple(_rate(curve, chance[:, i]) for i, curve in enumerate(curves))
    return Approach(distance, stderr, chance, rates, times[0], jackknife_stderr(times[1:]))


def _differences(counts: np.ndarray) -> np.ndarray:
    """Distribution functions at each time less the stationary one, from counts of shape `(pairs, k, places)`."""
    return cumulative(counts) - cumulative(_late(counts, 0))


def _late(counts: np.ndarray, axis: int) -> np.ndarray:
    """The counts of the second half along the axis of pairs."""
    return np.split(counts, [counts.shape[axis] // 2], axis=axis)[1].sum(axis=axis)


def _wasserstein(differences: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.trapezoid(np.abs(differences), edges, axis=-1)


def _chance(counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What 95 % of the distances are below that sampling alone makes, one time after the other: all noise at once is large."""
    late, found = contributions(_late(counts, 1)), []
    for now in np.moveaxis(counts, 1, 0):
        noise = multiplied(np.random.default_rng(0), _DRAWS, contributions(now) - late)
        found.append(np.quantile(_wasserstein(noise, edges), LEVEL, axis=0))
    return np.stack(found)


def _mixing_times(ts: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """From when on the largest difference is small, by a straight line between two times; shape `(k,)`."""
    largest = np.max(np.abs(differences), axis=-1)
    times = []
    for curve in largest.T:
        above = np.flatnonzero(~(curve <= _NEAR))
        if not above.size:
            times.append(0.0)
        elif above[-1] == len(ts) - 1:
            times.append(np.inf)
        else:
            i = above[-1]
            times.append(ts[i] + (ts[i + 1] - ts[i]) * (curve[i] - _NEAR) / (curve[i] - curve[i + 1]))
    return np.asarray(times)


def _rate(curve: MeanCurves, chance: np.ndarray) -> ConvergenceRate | None:
    ts, distance = curve.ts, curve.mean
    begun = np.flatnonzero(distance < _BEGIN * distance[0])
    ended = np.flatnonzero(distance < np.maximum(_END * distance[0], _CLEAR * chance))
    if not begun.size or not ended.size or ended[0] - begun[0] < 3:
        return None
    return fit_rate(curve, 0.0, (float(ts[begun[0]]), float(ts[ended[0] - 1])))
