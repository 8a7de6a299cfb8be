"""Rates of convergence, fitted to the mean of an observable over seeds."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # whose parts load when they are first used

from .. import _checks
from ..simulation import JackknifeStatistics, MomentStatistics, SampleStatistics
from ._diagnostics import burn_in
from ._divergence import divergence
from ._statistics import jackknife_stderr, slope_weights

# In the default window the excess over the floor is between these shares of its start, and above so many standard errors.
_BEGIN, _END, _CLEAR = 0.8, 0.1, 5
# The default window of a power law starts at this share of the last time.
_LATE = 0.1
# A drift of the floor by less than this share of the whole fall does not change the rate.
_NEGLIGIBLE = 1e-4
# The largest number of groups into which samples are put for the jackknife.
_GROUPS = 40


class ConvergenceRate(NamedTuple):
    """What [`convergence_rate`][] returns."""

    rate: float
    """The rate per unit of time, or the exponent of a power law; positive if the mean falls."""
    stderr: float
    interval: tuple[float, float]
    """The confidence interval."""
    floor: float
    """The floor that was subtracted from the mean."""
    window: tuple[float, float]
    """The first and the last time of the fit."""
    records: int
    """How many recorded times are in the window."""


class _Kind(NamedTuple):
    """A kind of decay, under which `transform(excess)` against `clock(t)` is a straight line."""

    transform: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]  # the transform's derivative
    clock: Callable[[np.ndarray], np.ndarray]


_KINDS = {
    "exponential": _Kind(np.log, lambda e: 1 / e, lambda t: t),
    "sqrt": _Kind(np.sqrt, lambda e: 0.5 / np.sqrt(e), lambda t: t),
    "power": _Kind(np.log, lambda e: 1 / e, np.log),
}


class MeanCurves(NamedTuple):
    """A mean over time: of all seeds `(n,)`, its standard error, and without each group of seeds `(groups, n)`."""

    ts: np.ndarray
    mean: np.ndarray
    stderr: np.ndarray
    without: np.ndarray | None


class _Floor(NamedTuple):
    """A number plus a linear function of the curve: the average of its tail."""

    fixed: float
    tail: np.ndarray

    def of(self, mean: np.ndarray) -> Any:
        return self.fixed + mean @ self.tail


def convergence_rate(
    statistics: MomentStatistics | JackknifeStatistics | SampleStatistics,
    *,
    floor: float | None = None,
    window: tuple[float, float] | None = None,
    kind: str = "exponential",
    level: float = 0.95,
) -> ConvergenceRate:
    """Fits the rate at which the mean $m_t$ of an observable falls to its floor $m_\\infty$, with a confidence interval.

    The rate is minus the slope of a straight line, fitted by weighted least squares:

    - `"exponential"`: $\\log(m_t - m_\\infty)$ against $t$, as under the bounds $S_0 e^{-2 \\mu \\Delta t}$ of Phases 2
      and 3 (compagnoni2025, Lemma 3.5);
    - `"sqrt"`: $\\sqrt{m_t - m_\\infty}$ against $t$, as in Phase 1, where the loss is a square that reaches zero;
    - `"power"`: $\\log(m_t - m_\\infty)$ against $\\log t$: $m_t - m_\\infty \\propto t^{-p}$.

    With `Jackknife` statistics and with `Samples` (in up to 40 groups) the standard error is that of a jackknife over groups
    of seeds: floor and slope are computed without each group, in the same window. Plain `Moments` do not hold the
    correlation between times; their standard error is the bound $\\sum_i |\\partial \\text{rate} / \\partial m_i|
    \\, \\mathrm{se}_i$, valid for any correlation, and often several times too large.

    **Arguments:**

    - `statistics`: of a scalar observable, such as `ensemble["loss"]`.
    - `floor`: $m_\\infty$; by default, for `"exponential"` the average after the burn-in of the run's second half
      ([`burn_in`][]), else 0. Of SignSGD with noise narrow against its steps, record at an odd `every`: its chain is on
      every second point of its lattice at even steps, and both curve and floor at these alone are others.
    - `window`: first and last time of the fit; by default from where the excess $m_t - m_\\infty$ first falls below 80 %
      of its start to where it first falls below 10 % of it, or below five standard errors. For `"power"`, whose slope
      is one of late times, from a tenth of the last time on, while the excess is above five standard errors.
    - `kind`: `"exponential"`, `"sqrt"` or `"power"`.
    - `level`: of the confidence interval: Student's with one degree of freedom less than groups, or a normal one.

    **Returns:** a [`ConvergenceRate`][]: `.rate`, `.stderr`, `.interval`, `.floor`, `.window`.

    **Raises:** `TypeError` for other statistics; `ValueError` for a kind, level, floor or window that is none, an observable
    that is not a scalar, a mean that does not fall or has not settled where its floor is wanted, a window of fewer than three
    records, or a mean not above the floor there.

    >>> import jaxsde as js
    >>> run = js.simulate(
    ...     js.SGD(0.1).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.01))), jnp.ones(1),
    ...     steps=100, seeds=100, key=jax.random.key(0), every=1, observe={"loss": lambda x: 0.5 * x[0] ** 2},
    ... )
    >>> round(convergence_rate(run["loss"]).rate, 2)  # -2 log(1 - 0.1) / 0.1
    2.11
    """
    _checks.choice("kind", kind, tuple(_KINDS))
    _check_fit(floor, level)
    if window is not None:
        _check_window(window)
    return fit_rate(_curves(statistics), floor, window, kind, level)


def phase_rates(
    statistics: MomentStatistics | JackknifeStatistics | SampleStatistics,
    boundaries: Sequence[float],
    *,
    kinds: Sequence[str] | None = None,
    floor: float | None = None,
    level: float = 0.95,
) -> list[ConvergenceRate | None]:
    """Fits the rate in each of the phases through which a mean falls, one after the other.

    Where phases end at known times, [`convergence_rate`][] takes each as its `window`.

    **Arguments:**

    - `statistics`: of a scalar observable, such as `ensemble["loss"]`.
    - `boundaries`: the values that cut the run into phases, falling. A phase starts with the first record at or below
      its boundary; the last one ends where the mean is no longer five standard errors above its floor.
    - `kinds`: what decays how, one more than boundaries, by default all `"exponential"`; for SignSGD
      `("sqrt", "exponential", "exponential")` (compagnoni2025, Lemma 3.5).
    - `floor`, `level`: as in [`convergence_rate`][], for every phase.

    **Returns:** a [`ConvergenceRate`][] per phase; None where a phase has fewer than three records.

    **Raises:** as [`convergence_rate`][]; `ValueError` for boundaries that do not fall or do not fit `kinds`.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([2.0]), js.Gaussian(0.01))
    >>> run = js.simulate(
    ...     js.SignSGD(0.01).chain(problem), jnp.ones(1), steps=90, seeds=10, every=1, key=jax.random.key(0)
    ... )
    >>> phases = phase_rates(run["loss"], [0.1], kinds=("sqrt", "sqrt"), floor=0.0)
    >>> round(phases[0].rate, 3)  # sqrt(mu / 2)
    1.0
    """
    kinds = ("exponential",) * (len(boundaries) + 1) if kinds is None else tuple(kinds)
    if len(kinds) != len(boundaries) + 1:
        raise ValueError(f"kinds must be one more than boundaries, got {len(kinds)} and {len(boundaries)}")
    _checks.number("boundaries", boundaries)
    if not all(a > b for a, b in itertools.pairwise(boundaries)):
        raise ValueError(f"boundaries must fall, got {list(boundaries)}")
    for kind in kinds:
        _checks.choice("kinds", kind, tuple(_KINDS))
    _check_fit(floor, level)
    curves = _curves(statistics)
    base = _floor(curves, floor, kinds[-1])
    unclear = curves.mean - base.of(curves.mean) <= _CLEAR * np.hypot(curves.stderr, curves.stderr @ base.tail)
    ends = [*(curves.mean <= b for b in boundaries), unclear]
    edges = [0, *(int(np.argmax(e)) if np.any(e) else curves.ts.size for e in ends)]
    phases: list[ConvergenceRate | None] = []
    for first, stop, kind in zip(edges, edges[1:], kinds, strict=False):
        if stop - first < 3:
            phases.append(None)
            continue
        window = float(curves.ts[first]), float(curves.ts[stop - 1])
        phases.append(convergence_rate(statistics, floor=floor, window=window, kind=kind, level=level))
    return phases


def fit_rate(
    curves: MeanCurves, floor: float | None, window: tuple[float, float] | None, kind: str = "exponential", level: float = 0.95
) -> ConvergenceRate:
    """The rate at which curves fall; see [`convergence_rate`][]."""
    form = _KINDS[kind]
    base = _floor(curves, floor, kind)
    inside = _window(curves, base, window, kind)

    def excess(mean: np.ndarray) -> np.ndarray:
        above = (mean - base.of(mean)[..., None])[..., inside]
        if not np.all(above > 0):
            raise ValueError(
                f"the mean must stay above its floor {base.of(curves.mean):.4g} in the window: give window or floor"
            )
        return above

    line = _line(form, curves, excess(curves.mean), inside)
    rate = float(form.transform(excess(curves.mean)) @ line)
    if curves.without is None:
        gradient = np.zeros_like(curves.ts)
        gradient[inside] = line * form.slope(excess(curves.mean))
        gradient -= np.sum(gradient) * base.tail
        stderr, quantile = float(np.abs(gradient) @ curves.stderr), scipy.special.ndtri(0.5 + level / 2)
    else:
        parts = form.transform(excess(curves.without)) @ line
        stderr, quantile = float(jackknife_stderr(parts)), scipy.special.stdtrit(len(parts) - 1, 0.5 + level / 2)
    reach, ts = float(quantile) * stderr, curves.ts[inside]
    interval, ends = (rate - reach, rate + reach), (float(ts[0]), float(ts[-1]))
    return ConvergenceRate(rate, stderr, interval, float(base.of(curves.mean)), ends, ts.size)


def _check_fit(floor: Any, level: Any) -> None:
    _checks.scalar("level", level, low=0, high=1)
    if floor is not None:
        _checks.scalar("floor", floor)


def _check_window(window: Any) -> None:
    _checks.number("window", window, closed="low high")
    if np.shape(window) != (2,) or not window[0] < window[1]:
        raise ValueError(f"window must be the first and the last time of the fit, (first, last), got {window}")


def _floor(curves: MeanCurves, floor: float | None, kind: str) -> _Floor:
    tail = np.zeros_like(curves.ts)
    if floor is not None or kind != "exponential":
        return _Floor(0.0 if floor is None else float(floor), tail)
    half = curves.ts.size // 2
    parts = None if curves.without is None else curves.without[:, half:]
    start, settled = burn_in(curves.mean[half:], curves.stderr[half:], parts)
    begin = half + start
    first, second = np.array_split(curves.mean[begin:], 2)
    drift = abs(np.mean(first) - np.mean(second))
    if not settled and drift > _NEGLIGIBLE * abs(curves.mean[0] - np.mean(second)):
        raise ValueError("the curve has not settled, so its floor is unknown: simulate more steps, or give floor")
    # An even number of records at an odd stride has as many even steps as odd ones.
    begin += (tail.size - begin) % 2 if tail.size - begin > 1 else 0
    tail[begin:] = 1 / tail[begin:].size
    return _Floor(0.0, tail)


def _window(curves: MeanCurves, base: _Floor, window: tuple[float, float] | None, kind: str) -> np.ndarray:
    """Finds the records to which the line is fitted."""
    ts, excess = curves.ts, curves.mean - base.of(curves.mean)
    if window is not None:
        # Recorded times may be float32.
        slack = 1e-6 * ts[-1]
        inside = (ts >= window[0] - slack) & (ts <= window[1] + slack)
    else:
        late = kind == "power"
        if not late and excess[0] <= 0:
            raise ValueError(f"the mean does not fall: it starts {excess[0]:.4g} above its floor")
        clear = _CLEAR * np.hypot(curves.stderr, curves.stderr @ base.tail)
        begun = ts >= _LATE * ts[-1] if late else excess < _BEGIN * excess[0]
        ended = excess < (clear if late else np.maximum(_END * excess[0], clear))
        begun = np.logical_or.accumulate(begun)
        inside = begun & ~np.logical_or.accumulate(begun & ended)
    if kind == "power":
        inside &= ts > 0
    records = np.count_nonzero(inside)
    if records < 3:
        which = "the default window" if window is None else f"window {window}"
        raise ValueError(f"{which} holds {records} recorded times, a line takes 3: record more often, or give another window")
    return inside


def _line(form: _Kind, curves: MeanCurves, excess: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns the numbers whose product with the transformed excess is minus its slope."""
    x, stderr = form.clock(curves.ts[inside]), curves.stderr[inside]
    # Near a start common to all seeds there is almost no noise. No record counts as sharper than the root mean square of all
    # standard errors, so that such records do not outweigh the others.
    noise = np.maximum(stderr, np.sqrt(np.mean(stderr**2)))
    noise = noise if np.all(noise > 0) else np.ones_like(noise)
    weight = 1 / (noise * form.slope(excess)) ** 2
    return -slope_weights(x, weight)


def _curves(statistics: Any) -> MeanCurves:
    if isinstance(statistics, JackknifeStatistics):
        total = _curves(statistics.total)
        curves = total._replace(without=_scalar(statistics.left_out.mean, 2))
    elif isinstance(statistics, MomentStatistics):
        curves = MeanCurves(np.asarray(statistics.ts, float), _scalar(statistics.mean, 1), _scalar(statistics.stderr, 1), None)
    elif isinstance(statistics, SampleStatistics):
        curves = _grouped(np.asarray(statistics.ts, float), _scalar(statistics.values, 2))
        rounding = jnp.finfo(jax.tree.leaves(statistics.values)[0].dtype).eps * np.abs(curves.mean)
        curves = curves._replace(stderr=np.hypot(curves.stderr, rounding))
    else:
        raise TypeError(f"statistics must be an observable's of an ensemble, such as ensemble['loss'], got {statistics!r}")
    unknown = ~np.isfinite(curves.mean + curves.stderr)
    if np.any(unknown):
        counts = _counts(statistics)
        most = int(np.max(counts))
        why = divergence(most - counts, most, curves.ts) if most > 1 else f"at no time there are more than {most} finite values"
        raise ValueError(
            f"{why}: a rate needs at least two finite seeds at each time, and there are fewer at "
            f"{np.count_nonzero(unknown)} of {unknown.size} times"
        )
    return curves


def _counts(statistics: Any) -> np.ndarray:
    """Counts the finite seeds at each time."""
    if isinstance(statistics, SampleStatistics):
        return np.count_nonzero(np.isfinite(_scalar(statistics.values, 2)), axis=1)
    return np.asarray(statistics.total.count if isinstance(statistics, JackknifeStatistics) else statistics.count)


def _scalar(leaves: Any, ndim: int) -> np.ndarray:
    arrays = jax.tree.leaves(leaves)
    if len(arrays) != 1 or arrays[0].ndim != ndim:
        shapes = [a.shape[ndim:] for a in arrays]
        raise ValueError(f"statistics must be of a scalar observable, got one whose values have shape {shapes}")
    return np.asarray(arrays[0], float)


def _grouped(ts: np.ndarray, values: np.ndarray) -> MeanCurves:
    """Averages the finite values over seeds, of which every `groups`-th is in the same group."""
    groups = min(_GROUPS, values.shape[1])
    finite = np.isfinite(values)
    kept = np.where(finite, values, 0)
    sums, counts = (np.stack([a[:, g::groups].sum(axis=1) for g in range(groups)]) for a in (kept, finite))
    total, count = np.sum(sums, axis=0), np.sum(counts, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        variance = np.sum(np.where(finite, kept - mean[:, None], 0) ** 2, axis=1) / (count - 1)
        return MeanCurves(ts, mean, np.sqrt(variance / count), (total - sums) / (count - counts))
