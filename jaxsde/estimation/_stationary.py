"""`stationary`: the stationary law of a process, estimated over seeds and time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy  # whose parts load when they are first used
from jaxtyping import PyTree

from .. import _checks, _random
from .._tree import flat, is_sampler, size
from .._typing import Key
from ..processes import SDE, Accompanied, Chain
from ..simulation import Ensemble, Jackknife, Moments, Samples, simulate
from ._control import TRAJECTORY, accompany, better, controlled, expected_controls, observables, rounded, tangent_law, usable
from ._diagnostics import effective_sample_size, r_hat, trendless
from ._divergence import check_seeds_left

# Means and covariances are kept up to this many coordinates.
_KEPT = 64

# About so many times are recorded; where no run is known to be long enough, so many steps are tried first.
_RECORDS, _FIRST_STEPS = 64, 512

# The tangent process has settled where its moments are within this share of the stationary variance; the first run tried is
# this many times as long, so that seeds forget their starts often enough for R-hat to tell.
_SETTLED, _LENGTHS = 1e-7, 6

# Seeds have mixed where R-hat is below this (vehtari2021 advises 1.01 for chains that are much longer).
_MIXED = 1.05

# Where seeds have mixed within the half of a run, half the run is enough to forget the start and to average. But few seeds
# run longer than so many: their standard error takes each one's average for normal, which it is the more the longer it is.
_MANY, _SHARES = 256, (0.5, 4.0)

_NO_LAW = "there is no stationary law to estimate"

# How often a verdict over all curves may find a trend where there is none.
_FALSE_ALARMS = 0.003


class StationaryErrors(NamedTuple):
    """Of the entries of a [`Stationary`][]: standard errors, or factors by which variances were reduced."""

    mean: np.ndarray
    covariance: np.ndarray
    loss: np.ndarray


class Stationary(NamedTuple):
    """What [`stationary`][] returns: estimates for the law of the parameters, raveled to `d` coordinates."""

    mean: np.ndarray
    covariance: np.ndarray
    loss: np.ndarray
    stderr: StationaryErrors
    reduction: StationaryErrors
    """By how much control variates divided the variance of each estimate."""
    effective_samples: np.ndarray
    """Per coordinate, of all seeds and recorded times together (bulk, rank-normalised)."""
    r_hat: np.ndarray
    """Per coordinate, over seeds: rank-normalised and split. Near 1 where each seed has seen the same law; above it where
    runs are short, or seeds are stuck in different places."""
    settled: bool
    """Whether no curve of means over seeds shows a trend after `burn_in`, R-hat is below 1.05 in all coordinates, and no seed
    has diverged. No such verdict sees a part of the law that no seed has reached, as a well that none has left for it."""
    burn_in: float
    """The time from which on averages are taken."""
    ts: np.ndarray
    samples: np.ndarray
    """Parameters of other seeds, at times of the second half of a run of their own, shape `(times, seeds, d)`."""
    diverged: int
    seeds: int
    steps: int

    def quantile(self, q: Any) -> np.ndarray:
        """Quantiles of each coordinate, shape `(*q.shape, d)`, of the samples."""
        return np.quantile(self.samples.reshape(-1, self.samples.shape[-1]), q, axis=0)

    def density(self, bins: Any = 60, coordinate: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """A histogram of the samples of one coordinate: densities and edges, as `numpy.histogram` gives."""
        return np.histogram(self.samples[..., coordinate].ravel(), bins=bins, density=True)


def stationary(
    process: Chain | SDE,
    x0: Any,
    *,
    key: Key,
    seeds: int = 4096,
    steps: int | None = None,
    substeps: int = 1,
    groups: int = 32,
    kept: int = 256,
    most_steps: int = 2**17,
    progress: bool = True,
) -> Stationary:
    """The stationary law of a process: averages over seeds, and over the second half of a run that is long enough.

    Seeds are independent, so standard errors come from a jackknife over groups of seeds, whatever the correlation in
    time: with Student's law of one degree of freedom less than groups. Where the process has a linearisation, most of the
    sampling noise of mean, covariance and loss is taken out by control variates of exactly known expectation, as in
    [`expectations`][].

    Times are recorded at an odd stride, and averaged in pairs: SignSGD's chain is on every second point of its lattice at
    even steps and on the others at odd ones, and its stationary law is the mean of the two.

    `.settled` says that the means over seeds show no trend, that R-hat over seeds is below 1.05, so that each seed has seen
    the same law, and that no seed has diverged. None of these can see what no seed has reached: if all start in one well and
    none leaves it, all are content, and the law is that of the well. Start the seeds apart, with `x0` a function that draws
    from a law wider than the stationary one, to find out.

    **Arguments:**

    - `process`: an optimizer's `chain(problem)` or `sde(problem)`.
    - `x0`: where all seeds start, a pytree of parameters (at most 64 coordinates), or a function `key -> pytree`.
    - `key`, `seeds`, `substeps`, `progress`: as in [`simulate`][]. An SDE's law is that of its solver with these
      `substeps`; two runs show what is left of the step.
    - `steps`: about how many optimizer steps to run; by default as many as it takes to settle, found by doubling, up to
      `most_steps`.
    - `groups`: of seeds, for the jackknife.
    - `kept`: how many seeds, run on their own beforehand, give samples for quantiles, R-hat and effective sample sizes.

    **Returns:** a [`Stationary`][]: `.mean` `(d,)`, `.covariance` `(d, d)`, `.loss`, `.stderr`, `.reduction`, the
    diagnostics of vehtari2021 and the verdict `.settled`.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit; `ValueError` where fewer than two seeds are left
    of those that have not diverged.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> law = stationary(js.SGD(0.1).chain(problem), jnp.zeros(1), key=jax.random.key(0), seeds=64)
    >>> round(float(law.covariance[0, 0]), 5)  # 0.1 / (2 - 0.1)
    0.05263
    """
    _checks.instance("process", process, (Chain, SDE), "an optimizer's chain(problem) or sde(problem)")
    key = _random.typed_key(key)
    steps = None if steps is None else _checks.count("steps", steps, least=4)
    substeps, most_steps = _checks.count("substeps", substeps), _checks.count("most_steps", most_steps)
    seeds = _checks.count("seeds", seeds, least=2)
    groups = min(_checks.count("groups", groups, least=2), seeds)
    kept = min(_checks.count("kept", kept, least=2), seeds)
    example = process.problem.validate(x0(key) if is_sampler(x0) else x0)
    if size(example) > _KEPT:
        raise ValueError(f"stationary keeps full covariances, for at most {_KEPT} coordinates; x0 has {size(example)}")
    companion = accompany(process, x0, substeps)
    common: dict[str, Any] = dict(substeps=substeps, progress=progress)
    fixed = None if steps is None else _Grid.of(steps)
    grid = fixed or _Grid.of(min(_length(companion, substeps, most_steps), most_steps))
    while True:
        paths = _paths(process, x0, grid, kept, jax.random.fold_in(key, 1), **common)
        if not paths.mixed and fixed is None and 2 * grid.steps <= most_steps:
            grid = _Grid.of(2 * grid.steps)
            continue
        length = grid
        if paths.mixed and fixed is None:
            length = _Grid.of(min(round(grid.steps * float(np.clip(_MANY / seeds, *_SHARES))), most_steps))
        law = _estimate(process, companion, x0, key, seeds, length, groups, paths, **common)
        if law.settled or law.diverged or fixed is not None or 2 * grid.steps > most_steps:
            return law
        grid = _Grid.of(2 * grid.steps)


class _Grid(NamedTuple):
    """Which steps are recorded: `records`, a multiple of four, at an odd stride; the second half of them counts."""

    stride: int
    records: int

    @staticmethod
    def of(steps: int) -> "_Grid":
        stride = 2 * (steps // (2 * _RECORDS)) + 1
        return _Grid(stride, max(4, 4 * (steps // (4 * stride))))

    @property
    def steps(self) -> int:
        return self.stride * self.records

    @property
    def start(self) -> int:
        """The first record that counts; an even number of them follow."""
        return self.records // 2 + 1

    def paired(self, curves: np.ndarray, axis: int) -> np.ndarray:
        """The records that count, averaged two by two along the axis of times."""
        tail = np.moveaxis(curves, axis, 0)[self.start :]
        return np.moveaxis(tail.reshape(-1, 2, *tail.shape[1:]).mean(axis=1), 0, axis)


def _length(companion: Accompanied | None, substeps: int, most: int) -> int:
    """Several times the steps after which the tangent process has settled; where there is none, a first try."""
    if companion is None:
        return _FIRST_STEPS
    steps = _FIRST_STEPS
    while steps <= most:
        stride = steps // _RECORDS
        law = tangent_law(companion, steps, jnp.arange(_RECORDS + 1) * stride, substeps)
        means = np.concatenate([leaf.reshape(_RECORDS + 1, -1) for leaf in jax.tree.leaves(law.mean)], axis=1)
        spread = max(float(np.max(np.diagonal(law.covariance[-1]))), 1e-30)
        with np.errstate(invalid="ignore", divide="ignore"):  # a process that diverges has not settled
            away = np.max(np.abs(means - means[-1]), axis=1) / np.sqrt(spread)
            away = np.maximum(away, np.max(np.abs(law.covariance - law.covariance[-1]), axis=(1, 2)) / spread)
        late = np.flatnonzero(~(away <= _SETTLED))
        settled = int(late[-1]) + 1 if late.size else 0
        if 2 * settled <= _RECORDS:
            return max(_LENGTHS * settled * stride, _FIRST_STEPS // 4)
        steps *= 2
    return most


class _Paths(NamedTuple):
    """Some seeds of their own: their parameters at the records that count, shape `(times, seeds, d)`, and what they tell."""

    samples: np.ndarray
    r_hat: np.ndarray
    effective: np.ndarray
    """Effective samples per seed."""
    reference: jax.Array
    """A point in the law, relative to which covariances lose no digits."""

    @property
    def mixed(self) -> bool:
        """Whether R-hat is known and small in all coordinates."""
        return bool(np.all(self.r_hat < _MIXED))


def _paths(process: Any, x0: Any, grid: _Grid, kept: int, key: Any, **common: Any) -> _Paths:
    common |= dict(steps=grid.steps, every=grid.stride)
    run = simulate(process, x0, seeds=kept, key=key, observe={"x": flat}, reduce=Samples(), **common)
    check_seeds_left(run, _NO_LAW)
    values = run["x"].values
    samples = np.asarray(values, float)
    finite = np.all(np.isfinite(samples), axis=(0, 2))
    samples = samples[grid.start :, finite]
    reference = jnp.asarray(np.mean(samples[-1], axis=0) if finite.any() else np.zeros(samples.shape[-1]), values.dtype)
    # ArviZ's convention: chains (seeds) first, then draws (recorded times).
    chains = np.swapaxes(samples, 0, 1)
    if chains.shape[0] < 2 or chains.shape[1] < 4:
        nothing = np.full(samples.shape[-1], np.nan)
        return _Paths(samples, nothing, nothing, reference)
    return _Paths(samples, r_hat(chains), effective_sample_size(chains) / chains.shape[0], reference)


def _estimate(
    process: Any,
    companion: Accompanied | None,
    x0: Any,
    key: Any,
    seeds: int,
    grid: _Grid,
    groups: int,
    paths: _Paths,
    *,
    substeps: int,
    progress: bool,
) -> Stationary:
    functions = _functions(process.problem.loss, paths.reference)
    observe = functions if companion is None else observables(functions)
    run = simulate(
        process if companion is None else companion, x0, steps=grid.steps, every=grid.stride, seeds=seeds, key=key,
        substeps=substeps, observe=observe, reduce=Jackknife(Moments(), groups), progress=progress,
    )  # fmt: skip
    check_seeds_left(run, _NO_LAW)
    crude = {n: _Curves.of(run, n, grid, 0.0) for n in functions}
    fine = crude
    if companion is not None:
        trajectory = np.asarray(run[TRAJECTORY].total.mean, float)
        known = expected_controls(functions, tangent_law(companion, grid.steps, run.steps, substeps), trajectory)
        fine = {n: _Curves.of(run, controlled(n), grid, known[n]) for n in functions}
        for name, curves in fine.items():
            if not usable(run[controlled(name)].total, seeds)[grid.start :].all() or not curves.finite:
                fine[name] = crude[name]
    reference, dtype = np.asarray(paths.reference, float), paths.reference.dtype
    values, errors, factors = _select(*(_averages(c, reference, dtype) for c in (crude, fine)))
    ts = np.asarray(run.ts, float)
    settled = not run.diverged[-1] and paths.mixed and _without_trend(fine)
    return Stationary(
        values.mean, values.covariance, values.loss, errors, factors, paths.effective * seeds, paths.r_hat, settled,
        float(ts[grid.start]), ts, paths.samples, int(run.diverged[-1]), seeds, grid.steps,
    )  # fmt: skip


def _functions(loss: Callable, reference: jax.Array) -> dict[str, Callable[[PyTree], jax.Array]]:
    return {"mean": eqx.Partial(_offset, reference), "second": eqx.Partial(_square, reference), "loss": loss}


def _offset(reference: jax.Array, x: PyTree) -> jax.Array:
    return flat(x) - reference.astype(flat(x).dtype)


def _square(reference: jax.Array, x: PyTree) -> jax.Array:
    offset = _offset(reference, x)
    return jnp.outer(offset, offset)


class _Curves(NamedTuple):
    """An observable's mean, in pairs of records, over all seeds `(pairs, k)`, and without each group `(groups, pairs, k)`."""

    total: np.ndarray
    without: np.ndarray
    stderr: np.ndarray

    @staticmethod
    def of(run: Ensemble, name: str, grid: _Grid, known: Any) -> "_Curves":
        statistics = run[name]

        def curve(moments: Any) -> np.ndarray:
            mean = np.asarray(moments.mean, float)
            return grid.paired(mean.reshape(*moments.count.shape, -1) + known, axis=moments.count.ndim - 1)

        stderr = np.asarray(statistics.total.stderr, float).reshape(len(run.ts), -1)
        return _Curves(curve(statistics.total), curve(statistics.left_out), grid.paired(stderr, axis=0))

    @property
    def finite(self) -> bool:
        """Whether the means are finite."""
        return bool(np.all(np.isfinite(self.total)))


def _without_trend(curves: Mapping[str, _Curves]) -> bool:
    """Whether no curve shows a trend; the more curves, the larger the trend that chance makes."""
    groups, count = next(iter(curves.values())).without.shape[0], sum(c.total.shape[1] for c in curves.values())
    limit = float(scipy.special.stdtrit(groups - 1, 1 - _FALSE_ALARMS / (2 * count)))
    return all(
        trendless(c.total[:, i], c.stderr[:, i], c.without[..., i], limit)
        for c in curves.values()
        for i in range(c.total.shape[1])
    )


def _averages(curves: Mapping[str, _Curves], reference: np.ndarray, dtype: Any) -> tuple[Any, Any]:
    """Time averages of mean, covariance and loss, and their standard errors: jackknife, and a few roundings."""
    d = reference.size

    def quantities(pick: Callable[[_Curves], np.ndarray]) -> list[np.ndarray]:
        mean, second, loss = (pick(curves[n]).mean(axis=-2) for n in ("mean", "second", "loss"))
        product = mean[..., :, None] * mean[..., None, :]
        return [mean + reference, second.reshape(*second.shape[:-1], d, d) - product, loss[..., 0]]

    values, parts = quantities(lambda c: c.total), quantities(lambda c: c.without)
    groups = parts[0].shape[0]
    sampling = [np.sqrt((groups - 1) / groups * np.sum((p - p.mean(axis=0)) ** 2, axis=0)) for p in parts]
    errors = [np.hypot(error, rounded(value, dtype)) for error, value in zip(sampling, values, strict=True)]
    return StationaryErrors(*values), StationaryErrors(*errors)


def _select(plain: tuple[Any, Any], best: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """Entry by entry the estimate of the smaller standard error."""
    chosen = [better(*entries) for entries in zip(plain[0], plain[1], best[0], best[1], strict=True)]
    values, errors, factors = (StationaryErrors(*entries) for entries in zip(*chosen, strict=True))
    return values, errors, factors
