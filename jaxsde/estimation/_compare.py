"""`compare`: an optimizer, its SDE and the theory side by side."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import _checks, _random, theory
from .._tree import drawn, flat, is_sampler, size
from .._typing import Key
from ..optimizers import AbstractOptimizer
from ..problems import Problem
from ..processes import SDE, Chain
from ..simulation import Ensemble, Interrupted, Jackknife, Moments, simulate
from ._divergence import divergence
from ._statistics import fit_slope, jackknife_stderr, rounding_stderr

# The largest numbers of coordinates of which means and covariances are recorded, and of which each is a row of its own.
_RECORDED, _LISTED = 16, 3

# The least number of records, about, and the largest number that is accepted to record at an odd stride.
_RECORDS, _MOST_RECORDS = 75, 4096


class Curves(NamedTuple):
    """Moments over time, with a leading axis `n`. Mean and covariance are None for problems of many coordinates."""

    loss: np.ndarray
    mean: np.ndarray | None
    covariance: np.ndarray | None

    def at(self, records: slice | int) -> "Curves":
        """Selects places along the first axis."""
        return Curves(*(None if c is None else c[records] for c in self))  # type: ignore[arg-type]


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    stderr: float


class Row(NamedTuple):
    """A quantity by optimizer, SDE and theory; None where there is none.

    `scale` is what deviations are in per cent of, where that is not the optimizer's value itself, which may be zero: of a mean
    the root mean square, $\\sqrt{m^2 + C}$ with the variance C, and of a covariance $C_{ij}$ the size
    $\\sqrt{C_{ii} C_{jj}}$ that it has at most.
    """

    quantity: str
    optimizer: Estimate
    sde: Estimate | None
    theory: float | None
    scale: float | None = None

    def deviation(self, other: Estimate | float | None) -> tuple[float, float] | None:
        """Returns how far `other` is from the optimizer: in per cent of the scale, and in standard errors of the difference."""
        if other is None:
            return None
        value, stderr = (other.value, other.stderr) if isinstance(other, Estimate) else (other, 0.0)
        difference = value - self.optimizer.value
        with np.errstate(divide="ignore", invalid="ignore"):
            percent = 100 * np.float64(difference) / (abs(self.optimizer.value) if self.scale is None else self.scale)
            sigmas = np.float64(difference) / np.hypot(self.optimizer.stderr, stderr)
        return float(percent), float(sigmas)


class Side(NamedTuple):
    """One of the two simulations: its curves, the loss's spread over seeds and standard error, its diverged seeds."""

    curves: Curves
    loss_std: np.ndarray
    loss_stderr: np.ndarray
    diverged: np.ndarray
    seeds: int


class Comparison(NamedTuple):
    """What [`compare`][] returns."""

    title: str
    ts: np.ndarray
    optimizer: Side
    sde: Side | None
    theory: Curves | None
    bound: np.ndarray | None
    rows: list[Row]
    notes: list[str]
    settings: dict[str, Any]


def compare(
    opt: AbstractOptimizer,
    problem: Problem,
    x0: Any,
    *,
    steps: int = 1000,
    seeds: int = 10_000,
    key: Key | None = None,
    every: int | None = None,
    substeps: int = 8,
    model: str | None = None,
    groups: int = 40,
    chunk: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Simulates an optimizer and its SDE, with independent noise, and sets them beside the closed forms.

    Standard errors are those of a jackknife over groups of seeds and a few roundings. "Stationary" quantities are averages
    over the last quarter of the run, over as many even steps as odd ones: SignSGD's chain is on every second point of its
    lattice at even steps, and on the others at odd ones. The convergence rate is minus the slope of the logarithm of the
    excess, the loss above that average, while it falls from 80 % to 10 % of its start. Theory's rate is that of theory's
    curve. If all seeds diverge, statistics over seeds are nan.

    **Arguments:**

    - `opt`, `problem`, `x0`: the optimizer, the problem, and the start (a pytree, or a function `key -> pytree`).
    - `steps`, `seeds`, `key`, `every`, `substeps`, `chunk`, `progress`: as in [`simulate`][]; `every` is by default
      about a hundredth of `steps`, and odd if possible. Where it is even, more times are recorded than returned, for the
      stationary quantities.
    - `model`: the SDE's; by default the first of the optimizer's.
    - `groups`: the number of groups of seeds for the jackknife; at most that of seeds.

    **Returns:** a [`Comparison`][], for `jaxsde.reporting.table`, `.plot` and `.save`. If there is no SDE or no theory, that
    side is None, and `notes` say why.

    **Raises:** as [`simulate`][], with the comparison of the seeds that were complete in [`Interrupted`][]'s `result`;
    `ValueError` for a model that the optimizer does not have.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> compare(js.SGD(0.1), problem, jnp.ones(1), steps=40, seeds=80, substeps=1).rows[0].quantity
    'mean x[0], t = 0.5'
    """
    _checks.instance("opt", opt, AbstractOptimizer, "an optimizer such as jaxsde.SGD(0.01)")
    _checks.eager("compare", opt, problem, x0, key)
    key = _random.typed_key(jax.random.key(0) if key is None else key)
    steps, substeps = _checks.count("steps", steps), _checks.count("substeps", substeps)
    seeds = _checks.count("seeds", seeds, least=2)
    every = _default_stride(steps) if every is None else _checks.count("every", every)
    if steps % every:
        raise ValueError(f"every must divide steps, got every={every} and steps={steps}")
    notes: list[str] = []
    stride = _odd_stride(steps, every)
    if stride is None:
        stride = every
        if every % 2 == 0:
            notes.append(
                f"only even steps are recorded, every={every}: where an optimizer's even and odd steps differ, as SignSGD's on "
                "its lattice, stationary quantities are those of even steps; give an every with a large odd factor"
            )
    if _tail(steps // stride) is None:
        notes.append(
            f"no stationary quantities: {steps // stride} records are too few to tell the end of the run from its start"
        )
    chain = opt.chain(problem)
    model = opt.default_model if model is None else model
    example = problem.validate(drawn(x0, key))
    try:
        sde = opt.sde_for(problem, model, example)
    except _checks.NotAnOption:
        raise
    except (ValueError, NotImplementedError) as error:
        sde = None
        notes.append(f"no SDE: {error}")
    observe: dict[str, Callable[[PyTree], PyTree]] = {"loss": problem.loss}
    if size(example) <= _RECORDED:
        observe["x"] = flat
    common: dict[str, Any] = dict(steps=steps, seeds=seeds, every=stride, observe=observe, chunk=chunk, progress=progress)
    common["reduce"] = Jackknife(Moments(covariance=True), min(_checks.count("groups", groups, least=2), max(2, seeds)))

    def run(process: Chain | SDE, stream: int, **more: Any) -> Ensemble:
        return simulate(process, x0, key=jax.random.fold_in(key, stream), **common, **more)

    discrete = continuous = stopped = None
    try:
        discrete = run(chain, 0)
        continuous = None if sde is None else run(sde, 1, substeps=substeps)
    except Interrupted as error:
        stopped, what = error, "optimizer" if discrete is None else "SDE"
        covered = 0 if error.ensemble is None else error.ensemble.seeds
        notes.append(f"interrupted: the {what}'s numbers are those of {covered} of {seeds} seeds")
        discrete, continuous = (error.ensemble, None) if discrete is None else (discrete, error.ensemble)
        if discrete is None:
            raise
    ts = np.asarray(discrete.ts, dtype=float)
    law, stationary, bound = _theory(opt, problem, x0, ts, notes)
    rows = _rows(ts, discrete, continuous, law, stationary)
    for name, ensemble in (("optimizer", discrete), ("SDE", continuous)):
        if ensemble is not None and int(ensemble.diverged[-1]):
            lost = divergence(np.asarray(ensemble.diverged), ensemble.seeds, ts)
            left = "none is left" if ensemble.diverged[-1] == ensemble.seeds else "they are left out"
            notes.append(f"{name}: {lost}; {left}")
    settings = dict(
        optimizer=opt.called, loss=type(problem.loss).__name__, noise=type(problem.noise).__name__, model=model,
        steps=steps, seeds=seeds, every=every, substeps=substeps,
    )  # fmt: skip
    title = f"{opt.called} on {type(problem.loss).__name__} with {type(problem.noise).__name__} noise"
    shown = slice(None, None, every // stride)
    second = None if continuous is None else _side(continuous, shown)
    law, bound = None if law is None else law.at(shown), None if bound is None else bound[shown]
    comparison = Comparison(title, ts[shown], _side(discrete, shown), second, law, bound, rows, notes, settings)
    if stopped is not None:
        raise Interrupted(stopped.ensemble, stopped.checkpoint, comparison) from None
    return comparison


def _theory(
    opt: AbstractOptimizer, problem: Problem, x0: Any, ts: np.ndarray, notes: list[str]
) -> tuple[Curves | None, Curves | None, np.ndarray | None]:
    """Returns theory's moments, its stationary law and its bound; if one does not exist, a note says why."""
    if is_sampler(x0):
        notes.append("no theory: the closed forms start from a point, x0 is a function that draws one")
        return None, None, None
    try:
        law = theory.moments(opt, problem, x0, jnp.asarray(ts))
    except ValueError as error:
        notes.append(f"no theory: {error}")
        return None, None, None
    # The closed forms give the loss above its minimum.
    least = float(problem.loss(jnp.asarray(x0)) - law.loss[0])
    stationary = bound = None
    try:
        stationary = _curves(theory.stationary(opt, problem), least)
    except ValueError as error:
        notes.append(f"no stationary law: {error}")
    try:
        bound = np.asarray(theory.loss_bound(opt, problem, x0, jnp.asarray(ts)).loss, float) + least
    except ValueError as error:
        notes.append(f"no bound: {error}")
    return _curves(law, least), stationary, bound


def _curves(law: theory.Law, least: float) -> Curves:
    return Curves(*(np.asarray(a, dtype=float) for a in (law.loss + least, law.mean, law.covariance)))


def _side(ensemble: Ensemble, shown: slice) -> Side:
    loss = ensemble["loss"].total
    std, stderr = np.sqrt(np.asarray(loss.variance, float)), np.asarray(loss.stderr, float)
    diverged = np.asarray(ensemble.diverged)
    return Side(_whole(ensemble).at(shown), std[shown], stderr[shown], diverged[shown], ensemble.seeds)


def _whole(ensemble: Ensemble) -> Curves:
    """Returns the curves over all seeds."""
    return _curves_of(ensemble, lambda statistics: statistics.total)


def _curves_of(ensemble: Ensemble, pick: Callable[[Any], Any]) -> Curves:
    loss = np.asarray(pick(ensemble["loss"]).mean, dtype=float)
    if "x" not in ensemble.statistics:
        return Curves(loss, None, None)
    x = pick(ensemble["x"])
    return Curves(loss, np.asarray(x.mean, dtype=float), np.asarray(x.covariance, dtype=float))


def _rows(
    ts: np.ndarray, discrete: Ensemble, continuous: Ensemble | None, law: Curves | None, stationary: Curves | None
) -> list[Row]:
    window = _decay_window(_whole(discrete).loss)
    first = _estimates(ts, discrete, window)
    second = {} if continuous is None else _estimates(ts, continuous, window)
    third: Mapping[str, float] = {}
    if law is not None:
        third = {name: value for name, value in _quantities(ts, law, window).items() if "stationary" not in name}
    if stationary is not None:
        third = {**third, **_stationary(stationary)}
    return [Row(name, value, second.get(name), third.get(name), _scale(name, first)) for name, value in first.items()]


def _scale(name: str, values: Mapping[str, Estimate]) -> float | None:
    """What deviations of the quantity are in per cent of, where its value may be zero."""
    for mean, variance in (("mean x", "variance x"), ("norm of the mean", "total variance")):
        if name.startswith(mean):
            return float(np.sqrt(values[name].value ** 2 + values[name.replace(mean, variance)].value))
    if name.startswith("stationary covariance"):
        i, j = re.findall(r"\d+", name)
        if i != j:
            first, second = (values[f"stationary covariance [{k}, {k}]"].value for k in (i, j))
            return float(np.sqrt(first * second))
    return None


def _estimates(ts: np.ndarray, ensemble: Ensemble, window: slice | None) -> dict[str, Estimate]:
    """Returns every quantity with its jackknife standard error."""
    dtype, left_out = ensemble["loss"].total.mean.dtype, _curves_of(ensemble, lambda s: s.left_out)
    values = _quantities(ts, _whole(ensemble), window)
    parts = [_quantities(ts, left_out.at(g), window) for g in range(len(left_out.loss))]
    estimates = {}
    for name, value in values.items():
        sampling = jackknife_stderr([part[name] for part in parts])
        estimates[name] = Estimate(value, float(np.hypot(sampling, rounding_stderr(value, dtype))))
    return estimates


def _quantities(ts: np.ndarray, curves: Curves, window: slice | None) -> dict[str, float]:
    """Computes all numbers of the table from the curves."""
    quantities: dict[str, float] = {}
    last = len(ts) - 1
    for i in sorted({max(1, last // 8), max(1, last // 4), max(1, last // 2)}):
        at = f"t = {ts[i]:.4g}"
        if curves.mean is not None and curves.covariance is not None:
            d = curves.mean.shape[1]
            if d <= _LISTED:
                quantities |= {f"mean x[{j}], {at}": float(curves.mean[i, j]) for j in range(d)}
                quantities |= {f"variance x[{j}], {at}": float(curves.covariance[i, j, j]) for j in range(d)}
            else:
                quantities[f"norm of the mean, {at}"] = float(np.linalg.norm(curves.mean[i]))
                quantities[f"total variance, {at}"] = float(np.trace(curves.covariance[i]))
        quantities[f"loss, {at}"] = float(curves.loss[i])
    tail = _tail(last)
    if tail is None:
        return quantities
    settled = Curves(*(None if c is None else c[tail].mean(axis=0) for c in curves))  # type: ignore[arg-type]
    quantities |= _stationary(settled)
    if window is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            excess = np.log(curves.loss[window] - settled.loss)
        quantities["convergence rate of the loss"] = -fit_slope(ts[window], excess)
    return quantities


def _stationary(law: Curves) -> dict[str, float]:
    """Computes the rows of a stationary law: curves without the axis of times."""
    quantities: dict[str, float] = {}
    if law.covariance is not None:
        d = law.covariance.shape[0]
        if d <= _LISTED:
            pairs = [(i, j) for i in range(d) for j in range(i, d)]
            quantities |= {f"stationary covariance [{i}, {j}]": float(law.covariance[i, j]) for i, j in pairs}
        else:
            quantities["stationary total variance"] = float(np.trace(law.covariance))
    quantities["stationary loss"] = float(law.loss)
    return quantities


def _decay_window(loss: np.ndarray) -> slice | None:
    """Where the loss above its final average first falls from 80 % to 10 % of its start; None where it does not."""
    last = len(loss) - 1
    tail = _tail(last)
    if tail is None:
        return None
    excess = loss - loss[tail].mean()
    if not np.all(np.isfinite(excess)) or excess[0] <= 0:
        return None
    below = np.flatnonzero(excess < 0.8 * excess[0])
    done = np.flatnonzero(excess < 0.1 * excess[0])
    if not below.size or not done.size or done[0] - below[0] < 3:
        return None
    return slice(int(below[0]), int(done[0]))


def _tail(last: int) -> slice | None:
    """Selects the last quarter of the records, an even number: as many even steps as odd ones. Returns None if there are so
    few records that this would be more than half of them."""
    count = 2 * max(1, (last // 4 + 1) // 2)
    return slice(last + 1 - count, None) if 2 * count <= last else None


def _default_stride(steps: int) -> int:
    """Returns the largest odd divisor of `steps` that gives `_RECORDS` records or more. If these are more than
    `_MOST_RECORDS`, it returns the least divisor, odd or even, that gives no more than that."""
    odd = max(d for d in range(1, max(1, steps // _RECORDS) + 1, 2) if steps % d == 0)
    if steps // odd <= _MOST_RECORDS:
        return odd
    return next(d for d in range(steps // _MOST_RECORDS, steps + 1) if steps % d == 0)


def _odd_stride(steps: int, every: int) -> int | None:
    """Returns the largest odd divisor of `every` that gives `_RECORDS` records or more; None if these are too many."""
    odd = [d for d in range(1, every + 1, 2) if every % d == 0]
    stride = max((d for d in odd if steps // d >= _RECORDS), default=1)
    return stride if steps // stride <= _MOST_RECORDS else None
