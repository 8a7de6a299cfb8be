"""Which SDE tracks a network, where normal noise is added to the full gradient?"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...optimizers import AbstractOptimizer
from ...problems import Gaussian
from .._experiment import Scale, Study
from .._panels import Curve, Panel
from .._tracking import MODELS, Tracking, track
from ._network_places import TOLERANCE, Cell, Place, places, run_of, variance
from ._network_tables import AFRESH, NUMBERS, RATE, WHERE, counts, said, start_of_row, verdict

# What a line looks like, and of what it is.
_LINES = {"paper": ("--", "SDE"), "second order": ("--", "second order")}

_LABELS = tuple(MODELS.values())
_COLUMNS = (
    *WHERE, *(c for label in _LABELS for c in (label, "±")), "second order's solver", "second order's spread", "closest",
)  # fmt: skip

_PHASES, _BATCHES = ("start", "middle", "floor"), (256, 32, 4)
_RATES = 0.5, 1.0, 2.0, 4.0, 8.0


def networks_study(scale: Scale) -> Study:
    """Optimizers against their SDEs on four architectures, at three phases of training and three strengths of noise."""
    notes = [
        NUMBERS,
        "model and optimizer share their noise, and the solver's error is extrapolated away; second order's solver: that error "
        "before, in spreads; second order's spread: over the optimizer's",
        f"batch: noise is normal, as strong as that of a batch of that size there, evenly over the coordinates; {RATE}",
        AFRESH,
    ]
    found: list[tuple[Cell, Tracking]] = []
    panels: list[Panel] = []
    crossings: list[float] = []
    injected = lambda loss, x0, batch: Gaussian(math.sqrt(variance(loss, x0, batch)))
    try:
        for at in places(scale, injected, scale.pick((32,), _BATCHES), _PHASES, notes):
            for i, opt in enumerate(scale.pick(at.opts[-1:], at.opts)):
                run = run_of(scale, opt, scale.key(at.number + 10 * i))
                found.append((at.cell(opt), track(opt, at.problem, at.x0, run)))
                scale.report(said(*found[-1]))
            if at.phase == "start" and at.batch == 32:
                for opt in scale.pick(at.opts[-1:], [at.opts[0], at.opts[-1]]):
                    panel, crossing = _against_rate(scale, opt, at, scale.key(9000 + at.index))
                    panels.append(panel)
                    crossings.append(crossing)
    except KeyboardInterrupt:
        if not found:
            raise
        notes.append("interrupted: these are the results until then")
    finding, *others = counts(found)
    notes += others + _judged(crossings)
    rows = [(*start_of_row(*one, _LABELS), *_second_order(one[1]), verdict(one[1])) for one in found]
    return Study("Networks: optimizers against their SDEs", finding, _COLUMNS, rows, panels, notes)


def _against_rate(scale: Scale, opt: AbstractOptimizer, at: Place, key: Any) -> tuple[Panel, float]:
    """The gap against the learning rate, and where the paper's crosses the tolerance, in units of the rate of the report."""
    factors = scale.pick(_RATES[:3], _RATES)
    rates = np.array(factors) * float(opt.rate)
    shares: dict[str, list[tuple[float, float]]] = {label: [] for label in _LINES}
    for i, rate in enumerate(rates):
        with_rate = eqx.tree_at(lambda o: o.learning_rate, opt, jnp.asarray(rate, float))
        models = {model: label for model, label in MODELS.items() if label in _LINES}
        seen = track(with_rate, at.problem, at.x0, run_of(scale, opt, jax.random.fold_in(key, i)), models)
        for label in shares:
            with np.errstate(divide="ignore"):
                shares[label].append(tuple(np.divide(seen.gap(label), seen.decrease)))
    curves = []
    for label, (style, thing) in _LINES.items():
        gaps, errors = np.array(shares[label]).T
        curves.append(Curve(label, rates, gaps, errors, style=style, of=thing))
    curves.append(Curve("noise_report", rates, TOLERANCE * np.array(factors), style=":", of="theory"))
    kind = type(opt).__name__
    crossing = _crossing(np.array(factors), np.array(shares["paper"])[:, 0])
    scale.report(
        f"{at.network}, {kind}: the paper's SDE is off by 10 % of the decrease at so many times the report's rate: "
        f"{_times(crossing)}"
    )
    return Panel(f"{at.network}, {kind}, batch 32", "learning rate", "gap over decrease", curves, xscale="log"), crossing


def _crossing(factors: np.ndarray, gaps: np.ndarray) -> float:
    """Where the gap first reaches the tolerance, by interpolation of logarithms; nan where it does not."""
    above = np.flatnonzero(gaps >= TOLERANCE)
    if not len(above):
        return math.nan
    i = int(above[0])
    if i == 0:
        return float(factors[0])
    x, y = np.log(factors[i - 1 : i + 1]), np.log(gaps[i - 1 : i + 1])
    return float(np.exp(x[0] + (np.log(TOLERANCE) - y[0]) * (x[1] - x[0]) / (y[1] - y[0])))


def _times(crossing: float) -> str:
    return "more" if np.isnan(crossing) else f"{crossing:.2g}"


def _second_order(seen: Tracking) -> tuple[float, float]:
    second = seen.models["second order"]
    return second.solver, second.spread


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
