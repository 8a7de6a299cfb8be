"""`stationary`: the stationary law of a process, estimated over seeds and time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import _checks, _random
from .._tree import drawn, flat, size
from .._typing import Key
from ..processes import SDE, Chain, Coupled
from ..simulation import Histogram, Jackknife, Moments, Samples, simulate
from ._control import (
    TRAJECTORY,
    controlled,
    couple,
    expected_controls,
    linear_noise_law,
    observables,
    plain_observables,
    usable,
)
from ._diagnostics import effective_sample_size, r_hat
from ._divergence import check_seeds_left
from ._law import BinnedLaw, Bins, bins_for, group_counts, observed
from ._statistics import extrapolate, extrapolated_stderr
from ._time_averages import PairedMeans, StationaryErrors, averages, better_of, moment_functions, without_trend

# The largest number of coordinates for which R-hat and effective samples are computed, of more those of as many, evenly spaced;
# and the largest number for which variances are.
_DIAGNOSED, _MOST_VARIANCES = 64, 2**14

# The largest number of laws, one for each number of an observable, times that of groups: each takes some 54 kB for all times.
_MOST_NUMBERS = 2**13

# About how many times are recorded, and how many steps the first run has if nothing tells how many it takes.
_RECORDS, _FIRST_STEPS = 64, 512

# The companion has settled when its moments are within the first number, a share of the stationary variance, of their
# limits. The first run is longer by the second number: R-hat needs seeds that have forgotten their starts several times.
_SETTLED, _LENGTHS = 1e-7, 6

# Seeds have mixed when R-hat is below this (vehtari2021 advises 1.01 for chains that are much longer).
_MIXED = 1.05

# The run that counts has this number over that of seeds as its share of the run in which seeds mixed, within these limits.
# Many seeds need half of it. Fewer seeds need more: the standard error takes the averages of groups of seeds for normal,
# and averages over longer times are closer to that.
_MANY, _SHARES = 256, (0.5, 4.0)

_NO_LAW = "there is no stationary law to estimate"


class Stationary(NamedTuple):
    """What [`stationary`][] returns: estimates for the law of the parameters, raveled to `d` coordinates."""

    mean: np.ndarray
    covariance: Any
    """None for more than 64 coordinates."""
    loss: np.ndarray
    variance: np.ndarray
    """The diagonal of the covariance, which is estimated for more coordinates too."""
    stderr: StationaryErrors
    reduction: StationaryErrors
    """By how much control variates divided the variance of each estimate."""
    effective_samples: np.ndarray
    """Of each coordinate, over all seeds and recorded times (bulk, rank-normalised); of 64 evenly spaced ones of more."""
    r_hat: np.ndarray
    """Of each coordinate, rank-normalised and split. It is near 1 if each seed has seen the same law. It is larger if the run
    is short, or if seeds are stuck in different places."""
    settled: bool
    """Whether no curve of means over seeds shows a trend after `burn_in`, R-hat is below 1.05 in all coordinates, and no seed
    has diverged. The verdict cannot see a part of the law that no seed has reached, such as another well of the loss."""
    burn_in: float
    """The time at which averages start."""
    ts: np.ndarray
    samples: np.ndarray
    """Parameters of the diagnostic seeds at recorded times of the second half of their run, shape `(times, seeds, d)`, or 64
    of them."""
    diverged: int
    seeds: int
    steps: int
    laws: Mapping[str, BinnedLaw]
    """The laws of what was observed, from all seeds at all recorded times after `burn_in`."""


def stationary(
    process: Chain | SDE,
    x0: Any,
    *,
    key: Key,
    seeds: int = 4096,
    steps: int | None = None,
    substeps: int = 1,
    observe: Mapping[str, Callable[[PyTree], Any]] | None = None,
    groups: int = 32,
    diagnostic_seeds: int = 256,
    max_steps: int = 2**17,
    progress: bool = True,
) -> Stationary:
    """Estimates the stationary law of a process over seeds and over the second half of a run: its moments, and the whole
    laws of parameters, loss and any other observable.

    Standard errors come from a jackknife over groups of seeds, which are independent, so the correlation in time does not
    matter. Intervals are Student's, with one degree of freedom less than groups. If the process has a linearisation, control
    variates with exactly known expectations take most of the sampling noise out of mean, covariance and loss, as in
    [`expectations`][].

    Times are recorded at an odd stride, and averaged in pairs: SignSGD's chain is on every second point of its lattice at
    even steps and on the others at odd ones, and its stationary law is the mean of the two.

    `.settled` says that the means over seeds show no trend, that R-hat over seeds is below 1.05, and that no seed has
    diverged. It cannot see what no seed has reached: if all seeds start in one well of the loss and none leaves it, the law
    is that of the well. To find out, start the seeds apart, with `x0` a function that draws from a law wider than the
    stationary one.

    **Arguments:**

    - `process`: an optimizer's `chain(problem)` or `sde(problem)`.
    - `x0`: where all seeds start, a pytree of parameters, or a function `key -> pytree`.
    - `key`, `seeds`, `substeps`, `progress`: as in [`simulate`][]. An SDE's law is that of its solver with these
      `substeps`; two runs show what is left of the step.
    - `steps`: about how many optimizer steps to run. By default the number is doubled until the run has settled.
    - `observe`: functions of the parameters, by name, whose laws are kept in `.laws`; by default
      `{"x": parameters, "loss": loss}`, without the parameters if they are more than 64. A law needs Gaussian increments of
      an SDE: `{}` keeps none, and an SDE then takes two-point ones, which are faster and serve its moments.
    - `groups`: the number of groups of seeds for the jackknife.
    - `diagnostic_seeds`: the number of seeds that are run before the others and give the samples for quantiles, R-hat and
      effective sample sizes.
    - `max_steps`: the largest number of steps to try by default.

    **Returns:** a [`Stationary`][]: `.mean` `(d,)`, `.covariance` `(d, d)`, `.variance` `(d,)`, `.loss`, `.stderr`,
    `.reduction`, `.laws`, which are [`BinnedLaw`][]s by name, the diagnostics of vehtari2021 and the verdict `.settled`.
    More than 64 coordinates have no `.covariance`.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit; `ValueError` if fewer than two seeds have not
    diverged at the end.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> law = stationary(js.SGD(0.1).chain(problem), jnp.zeros(1), key=jax.random.key(0), seeds=64)
    >>> round(float(law.covariance[0, 0]), 5)  # 0.1 / (2 - 0.1)
    0.05263
    >>> law.laws["x"].quantile([0.05, 0.95]).shape
    (2, 1)
    """
    _checks.instance("process", process, (Chain, SDE), "an optimizer's chain(problem) or sde(problem)")
    _checks.eager("stationary", process, x0, key)
    key = _random.typed_key(key)
    steps = None if steps is None else _checks.count("steps", steps, least=4)
    substeps, max_steps = _checks.count("substeps", substeps), _checks.count("max_steps", max_steps)
    if max_steps >= 2**31:
        raise ValueError(f"max_steps must be below 2**31, as Optax counts them by an int32, got {max_steps}")
    seeds = _checks.count("seeds", seeds, least=2)
    groups = min(_checks.count("groups", groups, least=2), seeds)
    diagnostic_seeds = min(_checks.count("diagnostic_seeds", diagnostic_seeds, least=2), seeds)
    example = process.problem.validate(drawn(x0, key))
    if size(example) > _MOST_VARIANCES:
        raise ValueError(f"stationary keeps variances of at most {_MOST_VARIANCES} coordinates; x0 has {size(example)}")
    observe = observed(observe, process.problem.loss, example, _MOST_NUMBERS // groups)
    increments = "gaussian" if observe and isinstance(process, SDE) else None
    companion = couple(process, x0, substeps, increments)
    common: dict[str, Any] = dict(observe=observe, substeps=substeps, increments=increments, progress=progress)
    fixed = None if steps is None else _Grid.of(steps)
    grid = fixed or _Grid.of(min(_length(companion, max_steps), max_steps))
    while True:
        paths = _paths(process, x0, grid, diagnostic_seeds, jax.random.fold_in(key, 1), **common)
        if not paths.mixed and fixed is None and 2 * grid.steps <= max_steps:
            grid = _Grid.of(2 * grid.steps)
            continue
        length = grid
        if paths.mixed and fixed is None:
            length = _Grid.of(min(round(grid.steps * float(np.clip(_MANY / seeds, *_SHARES))), max_steps))
        law = _estimate(process, companion, x0, key, seeds, length, groups, paths, **common)
        if law.settled or law.diverged or fixed is not None or 2 * grid.steps > max_steps:
            return law
        grid = _Grid.of(2 * grid.steps)


def extrapolate_law(coarse: Stationary, fine: Stationary) -> Stationary:
    """Extrapolates the law of an SDE to a solver step of zero (talay1990).

    **Arguments:** what [`stationary`][] gives with some `substeps` and with twice as many; standard errors take the two runs
    for independent.

    **Returns:** a [`Stationary`][]. Its diagnostics, its laws and the reductions of its variances are those of the finer run.
    """
    known = [name for name, value in fine.stderr._asdict().items() if value is not None]
    values = {name: extrapolate(getattr(coarse, name), getattr(fine, name)) for name in known}
    errors = fine.stderr._replace(
        **{name: extrapolated_stderr(getattr(coarse.stderr, name), getattr(fine.stderr, name)) for name in known}
    )
    return fine._replace(**values, stderr=errors, settled=coarse.settled and fine.settled)


class _Grid(NamedTuple):
    """Says which steps are recorded: `records` of them, a multiple of four, at an odd stride. The second half counts."""

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
        """The first record that counts. With it, an even number of records is left."""
        return self.records // 2 + 1


def _length(companion: Coupled | None, most: int) -> int:
    """Returns how many steps to try first: several times as many as the companion, if there is one, takes to settle."""
    if companion is None:
        return _FIRST_STEPS
    steps = _FIRST_STEPS
    while steps <= most:
        stride = steps // _RECORDS
        law = linear_noise_law(companion, steps, jnp.arange(_RECORDS + 1) * stride)
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
    """The diagnostic seeds: their parameters at the records that count, shape `(times, seeds, d)`, and what these tell."""

    samples: np.ndarray
    r_hat: np.ndarray
    effective: np.ndarray
    """Effective samples per seed."""
    reference: jax.Array
    """A point near the mean. Covariances are computed relative to it, so that they lose no digits to a large mean."""
    bins: Mapping[str, Bins]
    """The bins for each of the laws."""

    @property
    def mixed(self) -> bool:
        """Whether R-hat is known and small in all coordinates."""
        return bool(np.all(self.r_hat < _MIXED))


def _paths(process: Any, x0: Any, grid: _Grid, seeds: int, key: Any, *, observe: Mapping[str, Any], **common: Any) -> _Paths:
    common |= dict(steps=grid.steps, every=grid.stride)
    laws = {_law_of(name): f for name, f in observe.items()}
    functions = {"mean": flat, "x": _evenly_spaced} | laws
    reduce = {name: Moments() if name == "mean" else Samples() for name in functions}
    run = simulate(process, x0, seeds=seeds, key=key, observe=functions, reduce=reduce, **common)
    check_seeds_left(run, _NO_LAW)
    samples = np.asarray(run["x"].values, float)
    finite = np.all(np.isfinite(samples), axis=(0, 2))
    samples = samples[grid.start :, finite]
    mean = run["mean"].mean[-1]
    reference = jnp.where(jnp.isfinite(mean), mean, 0)
    bins = {}
    for name in laws:
        seen = np.asarray(run[name].values)[grid.start :, finite]
        bins[name] = bins_for(seen.reshape(-1, seen.shape[-1]))
    # ArviZ's convention: chains (seeds) first, then draws (recorded times).
    chains = np.swapaxes(samples, 0, 1)
    if chains.shape[0] < 2 or chains.shape[1] < 4:
        nothing = np.full(samples.shape[-1], np.nan)
        return _Paths(samples, nothing, nothing, reference, bins)
    return _Paths(samples, r_hat(chains), effective_sample_size(chains) / chains.shape[0], reference, bins)


def _evenly_spaced(x: PyTree) -> jax.Array:
    """The parameters as a vector, or some of many."""
    vector = flat(x)
    return vector if vector.size <= _DIAGNOSED else vector[np.linspace(0, vector.size - 1, _DIAGNOSED).astype(int)]


def _law_of(name: str) -> str:
    """The name of what is recorded for the law of an observable, which may have a name of ours."""
    return f"law of {name}"


def _estimate(
    process: Any,
    companion: Coupled | None,
    x0: Any,
    key: Any,
    seeds: int,
    grid: _Grid,
    groups: int,
    paths: _Paths,
    *,
    observe: Mapping[str, Any],
    substeps: int,
    increments: str | None,
    progress: bool,
) -> Stationary:
    functions, laws = moment_functions(process.problem.loss, paths.reference), {_law_of(name): f for name, f in observe.items()}
    recorded = functions | laws if companion is None else observables(functions) | plain_observables(laws)
    reduce = {name: Jackknife(Histogram(paths.bins[name].edges) if name in laws else Moments(), groups) for name in recorded}
    solver: dict[str, Any] = dict(substeps=substeps, increments=increments) if companion is None else {}
    run = simulate(
        process if companion is None else companion, x0, steps=grid.steps, every=grid.stride, seeds=seeds, key=key,
        observe=recorded, reduce=reduce, progress=progress, **solver,
    )  # fmt: skip
    check_seeds_left(run, _NO_LAW)
    crude = {n: PairedMeans.of(run[n], grid.start, 0.0) for n in functions}
    fine = crude
    if companion is not None:
        trajectory = np.asarray(run[TRAJECTORY].total.mean, float)
        known = expected_controls(functions, linear_noise_law(companion, grid.steps, run.steps), trajectory)
        fine = {n: PairedMeans.of(run[controlled(n)], grid.start, known[n]) for n in functions}
        for name, curves in fine.items():
            if not usable(run[controlled(name)].total, seeds)[grid.start :].all() or not curves.finite:
                fine[name] = crude[name]
    reference, dtype = np.asarray(paths.reference, float), paths.reference.dtype
    values, errors, factors = better_of(*(averages(c, reference, dtype) for c in (crude, fine)))
    ts = np.asarray(run.ts, float)
    settled = not run.diverged[-1] and paths.mixed and without_trend(fine)
    counts = {name: group_counts(run[_law_of(name)])[:, grid.start :].sum(axis=1) for name in observe}
    kept = {name: paths.bins[_law_of(name)].law(counts[name]) for name in observe}
    return Stationary(
        **values._asdict(), stderr=errors, reduction=factors, effective_samples=paths.effective * seeds, r_hat=paths.r_hat,
        settled=settled, burn_in=float(ts[grid.start]), ts=ts, samples=paths.samples, diverged=int(run.diverged[-1]),
        seeds=seeds, steps=grid.steps, laws=kept,
    )  # fmt: skip
