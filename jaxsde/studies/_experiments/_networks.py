"""Which SDE tracks a network? Four architectures on real data, with noise added to the full gradient and on mini-batches."""

import collections
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ... import data, networks
from ..._special import SIGN_SLOPE
from ..._tree import flat
from ...estimation import NoiseReport, noise_report
from ...optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ...problems import AbstractNoise, Gaussian, MeanLoss, MiniBatch, Problem
from ...simulation import Samples, simulate
from .._experiment import Scale, Study
from .._panels import Curve, Panel
from .._tracking import MODELS, Run, Tracking, track

# What a line looks like, and of what it is.
_LINES = {"paper": ("--", "SDE"), "second order": ("--", "second order")}
_THINGS = {"paper": "SDE", "second order": "second order", "ode": "ODE"}

_WHERE = "network", "phase", "batch", "optimizer", "rate", "spread %"
_LABELS = tuple(MODELS.values())
_COLUMNS = (
    *_WHERE, *(c for label in _LABELS for c in (label, "±")), "second order's solver", "second order's spread", "closest",
)  # fmt: skip
_BATCH_COLUMNS = (
    *_WHERE, *(c for label in _THINGS for c in (label, "±")), "batches", "±", "batches' spread", "closest",
)  # fmt: skip

# The drift of second order goes with the noise of first order where that of squares is not known.
_OF_BATCHES = {"compagnoni": "paper", "second-order-drift": "second order", "ode": "ode"}

# A difference of two gaps counts where it is so many times its standard error.
_CLEAR = 3.0

_PHASES, _BATCHES, _DRAWN_BATCHES = ("start", "middle", "floor"), (256, 32, 4), (32, 4)
_TOLERANCE = 0.1
_RATES = 0.5, 1.0, 2.0, 4.0, 8.0

_NUMBERS = (
    "numbers under a model: the distance of its mean loss from the optimizer's, averaged over time, in standard deviations "
    "of the optimizer's loss over seeds (spread); ±: the standard error"
)
_RATE = (
    "rate: the largest at which noise_report has the SDE hold with a tolerance of 10 %; spread %: the spread over the decrease"
)
_AFRESH = "averages of gradients start afresh in each phase; RMSprop's average of squares starts at the variance of the noise"


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
    """A problem with noise as of a batch, parameters, and what is known of the noise there."""

    network: str
    phase: str
    batch: int
    problem: Problem
    x0: PyTree
    opts: list[AbstractOptimizer]
    number: int
    """Of the place, for keys."""

    def cell(self, opt: AbstractOptimizer) -> _Cell:
        return _Cell(self.network, self.phase, self.batch, opt)


def networks_study(scale: Scale) -> Study:
    """Optimizers against their SDEs on four architectures, at three phases of training and three strengths of noise."""
    notes = [
        _NUMBERS,
        "model and optimizer share their noise, and the solver's error is extrapolated away; second order's solver: that error "
        "before, in spreads; second order's spread: over the optimizer's",
        f"batch: noise is normal, as strong as that of a batch of that size there, evenly over the coordinates; {_RATE}",
        _AFRESH,
    ]
    found: list[tuple[_Cell, Tracking]] = []
    panels: list[Panel] = []
    crossings: list[float] = []
    injected = lambda loss, x0, batch: Gaussian(math.sqrt(_variance(loss, x0, batch)))
    try:
        for at in _places(scale, injected, scale.pick((32,), _BATCHES), _PHASES, notes):
            for i, opt in enumerate(scale.pick(at.opts[-1:], at.opts)):
                run = _run(scale, opt, scale.key(at.number + 10 * i))
                found.append((at.cell(opt), track(opt, at.problem, at.x0, run)))
                scale.report(_said(*found[-1]))
            if at.phase == "start" and at.batch == 32:
                for opt in scale.pick(at.opts[-1:], [at.opts[0], at.opts[-1]]):
                    panel, crossing = _against_rate(scale, opt, at, scale.key(9000 + at.number // 1000 - 1))
                    panels.append(panel)
                    crossings.append(crossing)
    except KeyboardInterrupt:
        if not found:
            raise
        notes.append("interrupted: these are the results until then")
    finding, *counts = _counts(found)
    notes += counts
    notes += _judged(crossings)
    rows = [(*_start_of_row(*one), *_second_order(one[1]), _verdict(one[1])) for one in found]
    return Study("Networks: optimizers against their SDEs", finding, _COLUMNS, rows, panels, notes)


def batches_study(scale: Scale) -> Study:
    """The same on real mini-batches, the model's error and that of taking a batch's noise for normal apart."""
    notes = [
        _NUMBERS,
        "the optimizer there has normal noise with the covariance of a batch's gradient at the current parameters; batches: "
        "the distance of the optimizer on batches themselves, in the same units; batches' spread: its spread over the other's",
        "model and optimizer share their noise, but for SignSGD; the solver's error is extrapolated away",
        "second order: for RMSprop and Adam its drift with the noise of first order, for SignSGD none; the SDE without the "
        "gradient in V (malladi) is in the table with normal noise alone",
        f"batch: the number of examples that are drawn, with replacement; {_RATE}",
        _AFRESH,
    ]
    found: list[tuple[_Cell, Tracking]] = []
    drawn = lambda loss, x0, batch: MiniBatch(loss, batch)
    # Programs differ by batch, not by phase.
    batches = scale.pick((4,), _DRAWN_BATCHES)
    places = (at for batch in batches for at in _places(scale, drawn, (batch,), ("start", "floor"), notes))
    try:
        for at in places:
            for i, opt in enumerate(scale.pick(at.opts[-1:], at.opts)):
                # Signs share no noise here, so that they gain nothing by more seeds than the others have.
                run = _run(scale, at.opts[0], scale.key(50_000 + at.number + 10 * i))
                models = MODELS if isinstance(opt, SGD) else _OF_BATCHES
                found.append((at.cell(opt), track(opt, at.problem, at.x0, run, models)))
                scale.report(_said(*found[-1]))
    except KeyboardInterrupt:
        if not found:
            raise
        notes.append("interrupted: these are the results until then")
    finding, *of_laws = _laws_of_batches(found)
    notes += _counts(found) + of_laws
    rows = [(*_start_of_row(*one), *_batches(one[1]), _verdict(one[1])) for one in found]
    panels = [_by_optimizer(found, batch) for batch in dict.fromkeys(cell.batch for cell, _ in found)]
    title = "Networks on mini-batches: optimizers against their SDEs"
    return Study(title, finding, _BATCH_COLUMNS, rows, panels, notes)


def _places(
    scale: Scale,
    noise: Callable[[MeanLoss, PyTree, int], AbstractNoise],
    batches: tuple[int, ...],
    phases: tuple[str, ...],
    notes: list[str],
) -> Iterator[_Place]:
    """All networks, at these phases, with noise of all these strengths; a note on each network joins the notes."""
    for place, (name, training) in enumerate(_trainings(scale).items()):
        # No other network needs the programs of one, and what a process may map into memory is limited on Linux.
        jax.clear_caches()
        loss = MeanLoss(networks.cross_entropy, training.examples)
        start = training.build(scale.key(place))
        described = f"{name}: {networks.count(start)} parameters, {loss.count} examples"
        notes += [] if described in notes else [described]
        for number, (phase, x0) in enumerate(_phases(scale, loss, start, 100 + place).items()):
            for batch in batches if phase in phases else ():
                problem = Problem(loss, noise(loss, x0, batch))
                report = noise_report(problem, x0, draws=16, tolerance=_TOLERANCE, key=scale.key(500 + place), progress=False)
                opts = _optimizers(report, _variance(loss, x0, batch))
                yield _Place(name, phase, batch, problem, x0, opts, 1000 + 1000 * place + 100 * number + batch)


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


def _against_rate(scale: Scale, opt: AbstractOptimizer, at: _Place, key: Any) -> tuple[Panel, float]:
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
        f"{at.network}, {kind}: the paper's SDE is off by 10 % of the decrease at so many times the report's rate: "
        f"{_times(crossing)}"
    )
    return Panel(f"{at.network}, {kind}, batch 32", "learning rate", "gap over decrease", curves, xscale="log"), crossing


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


def _law_gap(seen: Tracking) -> tuple[float, float]:
    """The gap between the optimizer on batches and on normal noise as strong, and its standard error, over the spread."""
    gap, error = seen.law_gap
    return gap / seen.spread, error / seen.spread


def _batches(seen: Tracking) -> tuple[float, float, float]:
    assert seen.law is not None
    return *_law_gap(seen), seen.law.spread


def _closest(gaps: dict[str, tuple[float, float]]) -> str | None:
    """The model that is closest, if it is clear which: clearly closer than each of the others, and not than the next alone,
    behind which may be one that is hardly known."""
    (label, (gap, error)), *others = sorted(gaps.items(), key=lambda item: item[1][0])
    clear = all(other - gap > _CLEAR * math.hypot(error, its_error) for _, (other, its_error) in others)
    return label if clear else None


def _start_of_row(cell: _Cell, seen: Tracking) -> tuple[str | float, ...]:
    gaps = _gaps(seen)
    labels = _LABELS if seen.law is None else _THINGS
    numbers = [part for label in labels for part in gaps.get(label, ("", ""))]
    with np.errstate(divide="ignore"):
        share = 100 * float(np.divide(seen.spread, seen.decrease))
    return cell.network, cell.phase, float(cell.batch), type(cell.opt).__name__, float(cell.opt.rate), share, *numbers


def _second_order(seen: Tracking) -> tuple[float, float]:
    second = seen.models["second order"]
    return second.solver, second.spread


def _verdict(seen: Tracking) -> str:
    return _closest(_gaps(seen)) or "not clear"


def _said(cell: _Cell, seen: Tracking) -> str:
    shown = _gaps(seen) if seen.law is None else _gaps(seen) | {"batches": _law_gap(seen)}
    gaps = ", ".join(f"{label} {gap:.3g} ± {error:.2g}" for label, (gap, error) in shown.items())
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
        label: np.median([seen.models[label].spread for _, seen in found if label in seen.models])
        for label in ("paper", "second order")
        if found
    }
    said = ", ".join(f"{label} {spread:.2g}" for label, spread in spreads.items())
    notes.append(f"the spread tells all of them from an ode, which has none; over the optimizer's, median: {said}")
    return notes


def _tells_noise(gaps: dict[str, tuple[float, float]]) -> bool:
    """Whether the noise of the paper's SDE brings its mean loss clearly nearer to the optimizer's."""
    (gap, error), (other, its_error) = gaps["paper"], gaps["ode"]
    return other - gap > _CLEAR * math.hypot(error, its_error)


def _laws_of_batches(found: list[tuple[_Cell, Tracking]]) -> list[str]:
    """How far off the models are, and what is not normal about a batch's noise does to the mean loss; the main thing first."""
    scores: dict[str, list[float]] = {}
    spreads: dict[str, list[float]] = {}
    for cell, seen in found:
        assert seen.law is not None
        spreads.setdefault(f"{cell.phase}, batch {cell.batch}", []).append(seen.law.spread)
        z = seen.law.difference / seen.law.stderr
        scores.setdefault(f"{type(cell.opt).__name__}, batch {cell.batch}", []).append(float(np.mean(z**2)))
    gaps = [_gaps(seen) for _, seen in found]
    models = {label: np.median([g[label][0] for g in gaps if label in g] or [np.nan]) for label in reversed(_THINGS)}
    off = ", ".join(f"{label} {median:.2g}" for label, median in models.items() if np.isfinite(median))
    law, error = (float(np.median(column)) for column in zip(*(_law_gap(seen) for _, seen in found), strict=True))
    said = ", ".join(f"{where} {math.sqrt(np.mean(squares)):.2g}" for where, squares in scores.items())
    return [
        f"Mean losses are off by so many spreads in the median: {off}; and as a batch's noise is not normal, {law:.2g}, of "
        f"which chance is {SIGN_SLOPE * error:.2g}",
        f"deviations of the mean loss on batches over their standard errors, root mean square (1 by chance alone): {said}",
        "the spread on batches over that on normal noise, median: "
        + ", ".join(f"{where} {np.median(ratios):.2g}" for where, ratios in spreads.items()),
    ]


def _by_optimizer(found: list[tuple[_Cell, Tracking]], batch: int) -> Panel:
    """The median gap of all cells with that batch, by optimizer."""
    mine = [(type(cell.opt).__name__, seen) for cell, seen in found if cell.batch == batch]
    names = tuple(dict.fromkeys(name for name, _ in mine))
    curves = []
    for place, label in enumerate((*_THINGS, "batches")):
        medians, errors = [], []
        for name in names:
            shown = [_gaps(seen) | {"batches": _law_gap(seen)} for its_name, seen in mine if its_name == name]
            gaps, each = np.array([gaps.get(label, (np.nan, np.nan)) for gaps in shown]).T
            medians.append(np.median(gaps))
            errors.append(np.median(each))
        thing = _THINGS.get(label, "noise")
        x = np.arange(len(names)) + 0.15 * (place - 1.5)
        curves.append(Curve(label, x, np.array(medians), np.array(errors), of=thing))
    title = f"Batches of {batch}: medians, ± s.e. of a cell"
    return Panel(title, "", "gap over spread", curves, yscale="linear", bars=True, names=names)


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
