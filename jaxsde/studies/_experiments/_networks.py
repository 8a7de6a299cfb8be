"""Which SDE tracks a network? Four architectures on real data with noise added to the full gradient."""

import collections
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ... import data, networks
from ..._tree import flat
from ...estimation import NoiseReport, noise_report
from ...optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ...problems import Gaussian, MeanLoss, MiniBatch, Problem
from ...simulation import Samples, simulate
from .._experiment import Scale, Study
from .._panels import Curve, Panel
from .._tracking import MODELS, Run, Tracking, track

_COLUMNS = (
    "network", "phase", "batch", "optimizer", "rate", "spread %", *(c for label in MODELS.values() for c in (label, "±")),
    "second order's solver", "second order's spread", "closest",
)  # fmt: skip

# What a line looks like, and of what it is.
_LINES = {"paper": ("--", "SDE"), "second order": ("--", "second order")}

# A difference of two gaps counts where it is so many times its standard error.
_CLEAR = 3.0

_BATCHES = 256, 32, 4
_TOLERANCE = 0.1
_RATES = 0.5, 1.0, 2.0, 4.0, 8.0


class _Training(NamedTuple):
    """A network and its data."""

    build: Callable[[Any], Any]
    examples: data.Split


class _Cell(NamedTuple):
    """Where a comparison is made, and between what."""

    network: str
    phase: str
    batch: int
    opt: AbstractOptimizer


class _Place(NamedTuple):
    """A problem with noise as strong as that of a batch, parameters, and what is known of the noise there."""

    problem: Problem
    x0: PyTree
    variance: float
    """Of the noise in each coordinate."""
    report: NoiseReport


def networks_study(scale: Scale) -> Study:
    """Optimizers against their SDEs on four architectures, at three phases of training and three strengths of noise."""
    notes = [
        "numbers under a model: the distance of its mean loss from the optimizer's, averaged over time, in standard deviations "
        "of the optimizer's loss over seeds (spread); ±: the standard error",
        "model and optimizer share their noise, and the solver's error is extrapolated away; second order's solver: that error "
        "before, in spreads; second order's spread: over the optimizer's",
        "batch: noise is normal, as strong as that of a batch of that size there, evenly over the coordinates; rate: the "
        "largest at which noise_report has the SDE hold with a tolerance of 10 %; spread %: the spread over the decrease",
        "averages of gradients start afresh in each phase; RMSprop's average of squares starts at the variance of the noise",
    ]
    found: list[tuple[_Cell, Tracking]] = []
    panels: list[Panel] = []
    crossings: list[float] = []
    try:
        for place, (name, training) in enumerate(_trainings(scale).items()):
            loss = MeanLoss(networks.cross_entropy, training.examples)
            start = training.build(scale.key(place))
            notes.append(f"{name}: {networks.count(start)} parameters, {loss.count} examples")
            phases = _phases(scale, loss, start, 100 + place)
            for number, (phase, x0) in enumerate(phases.items()):
                for batch in scale.pick((32,), _BATCHES):
                    at = _place(loss, x0, batch, scale.key(500 + place))
                    opts = _optimizers(at.report, at.variance)
                    for i, opt in enumerate(scale.pick(opts[-1:], opts)):
                        cell = _Cell(name, phase, batch, opt)
                        key = scale.key(1000 + 1000 * place + 100 * number + batch + 10 * i)
                        found.append((cell, track(opt, at.problem, at.x0, _run(scale, opt, key))))
                        scale.report(_said(*found[-1]))
                    if phase == "start" and batch == 32:
                        for opt in scale.pick(opts[-1:], [opts[0], opts[-1]]):
                            panel, crossing = _against_rate(scale, name, opt, at, scale.key(9000 + place))
                            panels.append(panel)
                            crossings.append(crossing)
    except KeyboardInterrupt:
        if not found:
            raise
        notes.append("interrupted: these are the results until then")
    finding, *counts = _counts(found)
    notes += counts
    notes += _judged(crossings)
    return Study("Networks: optimizers against their SDEs", finding, _COLUMNS, [_row(*one) for one in found], panels, notes)


def _run(scale: Scale, opt: AbstractOptimizer, key: Any) -> Run:
    steps, every, seeds = scale.pick((20, 5, 12), (30, 6, 24))
    # A sign follows the noise that makes it less closely than a mean does.
    return Run(steps, every, 4 * seeds if isinstance(opt, SignSGD) else seeds, key)


def _phases(scale: Scale, loss: MeanLoss, x0: PyTree, number: int) -> dict[str, PyTree]:
    """Parameters at the start, where the loss has been halved, and after a thousand steps with noise as of batches of 32."""
    if scale.small:
        return {"start": x0}
    problem = Problem(loss, Gaussian(math.sqrt(_variance(loss, x0, 32))))
    chain = Adam(1e-3, b1=0.9, b2=0.99).chain(problem)
    run = simulate(chain, x0, steps=1000, every=20, seeds=1, key=scale.key(number), reduce=Samples(), progress=scale.progress)
    losses = np.asarray(run["loss"].values, float)[:, 0]
    half = int(np.argmax(losses < 0.5 * losses[0]))
    at = lambda i: jax.tree.map(lambda leaf: leaf[i, 0], run["x"].values)
    return {"start": x0, "middle": at(half), "floor": at(-1)}


def _variance(loss: MeanLoss, x0: PyTree, batch: int) -> float:
    """The mean over the coordinates of the variance of a batch's gradient."""
    return float(jnp.mean(flat(eqx.filter_jit(MiniBatch(loss, batch).variance)(x0))))


def _place(loss: MeanLoss, x0: PyTree, batch: int, key: Any) -> _Place:
    variance = _variance(loss, x0, batch)
    problem = Problem(loss, Gaussian(math.sqrt(variance)))
    return _Place(problem, x0, variance, noise_report(problem, x0, draws=16, tolerance=_TOLERANCE, key=key, progress=False))


def _against_rate(scale: Scale, name: str, opt: AbstractOptimizer, at: _Place, key: Any) -> tuple[Panel, float]:
    """The gap against the learning rate, and where the paper's crosses the tolerance, in units of the rate of the report."""
    factors = scale.pick(_RATES[:3], _RATES)
    rates = np.array(factors) * float(opt.rate)
    shares: dict[str, list[tuple[float, float]]] = {label: [] for label in _LINES}
    for i, rate in enumerate(rates):
        with_rate = eqx.tree_at(lambda o: o.learning_rate, opt, jnp.asarray(rate, float))
        models = {model: label for model, label in MODELS.items() if label in _LINES}
        seen = track(with_rate, at.problem, at.x0, _run(scale, opt, jax.random.fold_in(key, i)), models)
        for label in shares:
            with np.errstate(divide="ignore"):
                shares[label].append(tuple(np.divide(seen.gap(label), seen.decrease)))
    curves = []
    for label, (style, thing) in _LINES.items():
        gaps, errors = np.array(shares[label]).T
        curves.append(Curve(label, rates, gaps, errors, style=style, of=thing))
    curves.append(Curve("noise_report", rates, _TOLERANCE * np.array(factors), style=":", of="theory"))
    kind = type(opt).__name__
    crossing = _crossing(np.array(factors), np.array(shares["paper"])[:, 0])
    scale.report(
        f"{name}, {kind}: the paper's SDE is off by 10 % of the decrease at so many times the report's rate: {_times(crossing)}"
    )
    return Panel(f"{name}, {kind}, batch 32", "learning rate", "gap over decrease", curves, xscale="log"), crossing


def _crossing(factors: np.ndarray, gaps: np.ndarray) -> float:
    """Where the gap first reaches the tolerance, by interpolation of logarithms; nan where it does not."""
    above = np.flatnonzero(gaps >= _TOLERANCE)
    if not len(above):
        return math.nan
    i = int(above[0])
    if i == 0:
        return float(factors[0])
    x, y = np.log(factors[i - 1 : i + 1]), np.log(gaps[i - 1 : i + 1])
    return float(np.exp(x[0] + (np.log(_TOLERANCE) - y[0]) * (x[1] - x[0]) / (y[1] - y[0])))


def _times(crossing: float) -> str:
    return "more" if np.isnan(crossing) else f"{crossing:.2g}"


def _gaps(seen: Tracking) -> dict[str, tuple[float, float]]:
    """Gaps and their standard errors over the spread."""
    gaps = {label: seen.gap(label) for label in seen.models}
    return {label: (gap / seen.spread, error / seen.spread) for label, (gap, error) in gaps.items()}


def _closest(gaps: dict[str, tuple[float, float]]) -> str | None:
    """The model that is closest, if it is clear which."""
    first, second, *_ = sorted(gaps.items(), key=lambda item: item[1][0])
    (label, (gap, error)), (_, (other, its_error)) = first, second
    return label if other - gap > _CLEAR * math.hypot(error, its_error) else None


def _row(cell: _Cell, seen: Tracking) -> tuple[str | float, ...]:
    gaps = _gaps(seen)
    numbers = [part for label in MODELS.values() for part in gaps.get(label, ("", ""))]
    second = seen.models["second order"]
    where = cell.network, cell.phase, float(cell.batch), type(cell.opt).__name__, float(cell.opt.rate)
    with np.errstate(divide="ignore"):
        share = 100 * float(np.divide(seen.spread, seen.decrease))
    return (*where, share, *numbers, second.solver, second.spread, _closest(gaps) or "not clear")


def _said(cell: _Cell, seen: Tracking) -> str:
    gaps = ", ".join(f"{label} {gap:.3g} ± {error:.2g}" for label, (gap, error) in _gaps(seen).items())
    return f"{cell.network}, {cell.phase}, batch {cell.batch}, {type(cell.opt).__name__}: gap over spread: {gaps}"


def _counts(found: list[tuple[_Cell, Tracking]]) -> list[str]:
    """What the table shows in all, the main thing first."""
    closest = collections.Counter(_closest(_gaps(seen)) for _, seen in found)
    unclear = closest.pop(None, 0)
    counts = " and ".join(f"the {label}'s in {count}" for label, count in closest.most_common())
    notes = [
        f"Of {len(found)} comparisons, the mean loss that is clearly nearest to the optimizer's is {counts or 'none'}; "
        f"{unclear} are unclear"
    ]
    for kinds, name in (
        (("SGD", "SignSGD"), "SGD and SignSGD"),
        (("RMSprop", "RMSpropW", "Adam", "AdamW"), "RMSprop and Adam"),
    ):
        gaps = [_gaps(seen) for cell, seen in found if type(cell.opt).__name__ in kinds]
        if gaps:
            medians = {label: np.median([g[label][0] for g in gaps if label in g] or [np.nan]) for label in MODELS.values()}
            said = ", ".join(f"{label} {median:.2g}" for label, median in medians.items() if np.isfinite(median))
            notes.append(f"{name}, median gap over spread: {said}")
    told: dict[str, list[bool]] = {}
    for cell, seen in found:
        told.setdefault(f"{cell.phase}, batch {cell.batch}", []).append(_tells_noise(_gaps(seen)))
    notes.append(
        "the mean loss tells the paper's SDE from its drift alone, the ode, which is clearly further off: "
        + "; ".join(f"{where}: {sum(said)} of {len(said)}" for where, said in told.items())
    )
    spreads = {
        label: np.median([seen.models[label].spread for _, seen in found]) for label in ("paper", "second order") if found
    }
    said = ", ".join(f"{label} {spread:.2g}" for label, spread in spreads.items())
    notes.append(f"the spread tells all of them from an ode, which has none; over the optimizer's, median: {said}")
    return notes


def _tells_noise(gaps: dict[str, tuple[float, float]]) -> bool:
    """Whether the noise of the paper's SDE brings its mean loss clearly nearer to the optimizer's."""
    (gap, error), (other, its_error) = gaps["paper"], gaps["ode"]
    return other - gap > _CLEAR * math.hypot(error, its_error)


def _judged(crossings: list[float]) -> list[str]:
    """What became of the report's rates."""
    if not crossings:
        return []
    known = ", ".join(map(_times, crossings))
    near = sum(0.5 <= crossing <= 2 for crossing in crossings)
    return [
        f"the paper's SDE is off by 10 % of the decrease at so many times the rate of noise_report: {known} (more: at none of "
        f"those tried); within a factor 2 in {near} of {len(crossings)}"
    ]


def _optimizers(report: NoiseReport, variance: float) -> list[AbstractOptimizer]:
    """With averages over 10 and 100 steps, at the largest rates at which their SDEs should hold."""
    sgd, sign, rate = (_rounded_down(report.learning_rate[name]) for name in ("SGD", "SignSGD", "RMSprop, Adam"))
    adam: dict[str, Any] = dict(b1=0.9, b2=0.99)
    rms: dict[str, Any] = dict(decay=0.99, initial_scale=variance)
    return [
        SGD(sgd), SignSGD(sign), RMSprop(rate, **rms), RMSpropW(rate, **rms, weight_decay=0.1), Adam(rate, **adam),
        AdamW(rate, **adam, weight_decay=0.1),
    ]  # fmt: skip


def _rounded_down(rate: float) -> float:
    """To one digit."""
    unit = 10.0 ** math.floor(math.log10(rate))
    return math.floor(rate / unit) * unit


def _trainings(scale: Scale) -> dict[str, _Training]:
    table, digits = data.load("breast_cancer"), data.load("digits")
    few = digits.first(scale.pick(32, 64)).train
    shape = digits.shape
    shallow = lambda key: networks.MLP(30, 2, layers=4, key=key)
    narrow = lambda key: networks.CNN(shape, 10, channels=scale.pick(4, 8), dense=16, key=key)
    some = table.first(128).train
    if scale.small:
        return {"CNN": _Training(narrow, few)}
    fewer = digits.first(32).train
    attention: dict[str, Any] = dict(width=8, depth=1, heads=2, feed_forward=16)
    return {
        "MLP": _Training(shallow, some),
        "CNN": _Training(narrow, few),
        "ResNet": _Training(lambda key: networks.ResNet(shape, 10, channels=4, dense=16, blocks=1, key=key), fewer),
        "Transformer": _Training(lambda key: networks.VisionTransformer(shape, 10, **attention, key=key), fewer),
    }
