"""`convergence_rate`: how fast an expected observable falls, with a confidence interval."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _checks
from ..simulation import JackknifeStatistics, MomentStatistics, SampleStatistics

_LAWS: dict[str, tuple[Callable, Callable, str]] = {
    "exponential": (lambda y: np.log(y), lambda t: -t, "mean - floor = C exp(-rate t)"),
    "power": (lambda y: np.log(y), lambda t: -np.log(t), "mean - floor = C t^-rate"),
    "root": (lambda y: np.sqrt(y), lambda t: -t, "sqrt(mean - floor) = C - rate t"),
}
_QUANTILE, _GROUPS, _HIGH, _LOW, _SEEN = 1.96, 20, 0.8, 0.1, 3.0


class ConvergenceRate(NamedTuple):
    """What [`convergence_rate`][] returns."""

    rate: float
    stderr: float
    interval: tuple[float, float]
    """The 95 % confidence interval."""
    floor: float
    window: tuple[float, float]
    """The times between which the rate is fitted."""


def convergence_rate(
    statistics: MomentStatistics | JackknifeStatistics | SampleStatistics,
    *,
    kind: str = "exponential",
    floor: float | None = None,
    window: tuple[float, float] | None = None,
) -> ConvergenceRate:
    """The rate at which the mean of a recorded scalar falls to its floor.

    A weighted least-squares fit of the mean above its floor, each time weighted by its standard error:

    - `"exponential"`: $\\bar y_t - f = C e^{-rt}$, the rate per unit of time.
    - `"power"`: $\\bar y_t - f = C t^{-r}$, the exponent.
    - `"root"`: $\\sqrt{\\bar y_t - f} = C - rt$, the law of SignSGD's loss in Phase 1 (Lemma 3.5).

    The standard error comes from a jackknife over groups of seeds where the statistics allow it: those of
    `Jackknife(Moments())`, and of `Samples()`. Those of `Moments()` do not say how errors at different times go
    together; the standard error is then the largest that any such correlation can give, $\\sum |w_i| s_i$.

    **Arguments:**

    - `statistics`: `ensemble[name]` of a scalar observable, such as `ensemble["loss"]`.
    - `kind`: the law that is fitted.
    - `floor`: $f$; by default the mean over the last quarter of the run, for `"power"` 0.
    - `window`: from which time to which; by default from where the mean above the floor has fallen to 80 % of its start
      to where it has fallen to 10 %, or to three standard errors if that is earlier.

    **Returns:** a [`ConvergenceRate`][].

    **Raises:** `ValueError` where there is nothing to fit: the observable is not a scalar, does not fall, or has fewer
    than three times in the window; `TypeError` for other statistics.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.01))
    >>> run = js.simulate(js.SGD(0.1).chain(problem), jnp.ones(1), steps=80, every=1, seeds=50, key=jax.random.key(0))
    >>> round(convergence_rate(run["loss"]).rate, 2)  # -2 log(1 - 0.1) / 0.1
    2.11
    """
    transform, clock, _ = _LAWS[_checks.choice("kind", kind, tuple(_LAWS))]
    ts, total, stderr, parts = _curves(statistics)
    rest = _floor(total, kind) if floor is None else float(floor)
    begin, end = _window(ts, total - rest, stderr, kind) if window is None else window
    inside = (ts >= begin) & (ts <= end) & (total - rest > 0) & ((ts > 0) | (kind != "power"))
    if np.sum(inside) < 3:
        raise ValueError(
            f"a rate needs the mean above its floor {rest:.4g} at three recorded times or more, got {np.sum(inside)} between "
            f"{begin:.4g} and {end:.4g}: record more often (every=), or choose floor= and window="
        )
    x, excess = clock(ts[inside]), total[inside] - rest
    # By the delta method, from the error of the mean to that of its transform.
    slope_of = np.abs(1 / excess if kind != "root" else 0.5 / np.sqrt(excess))
    errors = np.maximum(stderr[inside], 1e-7 * np.abs(total[inside]))
    weight = 1 / (slope_of * errors) ** 2
    weight = weight / weight.sum()
    centred = x - np.sum(weight * x)
    coefficients = weight * centred / np.sum(weight * centred**2)
    rate = float(np.sum(coefficients * transform(excess)))
    if parts is None:
        error = float(np.sum(np.abs(coefficients) * slope_of * stderr[inside]))
    else:
        floors = [_floor(p, kind) if floor is None else rest for p in parts]
        with np.errstate(invalid="ignore"):
            rates = np.array([np.sum(coefficients * transform(p[inside] - f)) for p, f in zip(parts, floors, strict=True)])
        groups = len(rates)
        error = float(np.sqrt((groups - 1) / groups * np.sum((rates - rates.mean()) ** 2)))
    interval = rate - _QUANTILE * error, rate + _QUANTILE * error
    return ConvergenceRate(rate, error, interval, rest, (float(ts[inside][0]), float(ts[inside][-1])))


def phase_rates(statistics: Any, boundaries: Sequence[float], *, floor: float | None = None) -> list[ConvergenceRate | None]:
    """The exponential rate in each of the phases that `boundaries`, values of the mean in falling order, cut a run into.

    **Arguments:** `statistics`, `floor`: as in [`convergence_rate`][]; `boundaries`: such as the losses at which
    SignSGD's phases end.

    **Returns:** one rate per phase, `len(boundaries) + 1` of them; None where a phase has fewer than three records.

    **Raises:** as [`convergence_rate`][].

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1))
    >>> run = dict(steps=60, every=1, seeds=50, key=jax.random.key(0))
    >>> rates = phase_rates(js.simulate(js.SGD(0.1).chain(problem), jnp.ones(1), **run)["loss"], [0.1])
    >>> len(rates)
    2
    """
    if any(a <= b for a, b in zip(boundaries, boundaries[1:], strict=False)):
        raise ValueError(f"boundaries must fall, got {list(boundaries)}")
    ts, total, stderr, _ = _curves(statistics)
    rest = _floor(total, "exponential") if floor is None else float(floor)
    edges = [np.inf, *boundaries, -np.inf]
    last = _window(ts, total - rest, stderr, "exponential")[1]
    rates: list[ConvergenceRate | None] = []
    for high, low in zip(edges, edges[1:], strict=False):
        inside = (total <= high) & (total > low) & (ts <= last)
        if np.sum(inside) < 3:
            rates.append(None)
            continue
        window = float(ts[inside][0]), float(ts[inside][-1])
        rates.append(convergence_rate(statistics, floor=rest, window=window))
    return rates


def _curves(statistics: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray] | None]:
    """Times, mean, its standard error, and the means without each group of seeds where there are groups."""
    if isinstance(statistics, SampleStatistics):
        values = np.asarray(statistics.values, float)
        _check_scalar(values[:, 0])
        groups = min(_GROUPS, values.shape[1])
        parts = [np.delete(values, np.s_[g::groups], axis=1).mean(axis=1) for g in range(groups)]
        error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        return np.asarray(statistics.ts, float), values.mean(axis=1), error, parts
    if not isinstance(statistics, (MomentStatistics, JackknifeStatistics)):
        raise TypeError(f"statistics must be those of an observable, such as ensemble['loss'], got {statistics!r}")
    total = statistics.total if isinstance(statistics, JackknifeStatistics) else statistics
    mean, stderr = np.asarray(total.mean, float), np.asarray(total.stderr, float)
    _check_scalar(mean)
    parts = None
    if isinstance(statistics, JackknifeStatistics):
        parts = [np.asarray(p.mean, float) for p in statistics.without]
    return np.asarray(total.ts, float), mean, stderr, parts


def _check_scalar(mean: np.ndarray) -> None:
    if mean.ndim != 1:
        raise ValueError(f"a rate is that of a scalar observable, this one has shape {mean.shape[1:]}")


def _floor(mean: np.ndarray, kind: str) -> float:
    return 0.0 if kind == "power" else float(mean[len(mean) - 1 - (len(mean) - 1) // 4 :].mean())


def _window(ts: np.ndarray, excess: np.ndarray, stderr: np.ndarray, kind: str) -> tuple[float, float]:
    if kind == "power":
        return float(ts[len(ts) // 2]), float(ts[-1])
    if not np.isfinite(excess[0]) or excess[0] <= 0:
        raise ValueError(f"the mean does not fall: it starts {excess[0]:.4g} above its floor")
    fallen = np.flatnonzero(excess < _HIGH * excess[0])
    done = np.flatnonzero(excess < np.maximum(_LOW * excess[0], _SEEN * stderr))
    begin = int(fallen[0]) if fallen.size else 0
    end = int(done[done > begin][0]) - 1 if np.any(done > begin) else len(ts) - 1
    return float(ts[begin]), float(ts[max(end, begin)])
