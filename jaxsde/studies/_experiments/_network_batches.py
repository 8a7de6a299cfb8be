"""Which SDE tracks a network on real mini-batches, and what does it matter that their noise is not normal?"""

import math

import numpy as np

from ..._special import SIGN_SLOPE
from ...optimizers import SGD
from ...problems import MiniBatch
from .._experiment import Scale, Study
from .._panels import Curve, Panel
from .._tracking import MODELS, Tracking, track
from ._network_places import Cell, places, run_of
from ._network_tables import AFRESH, NUMBERS, RATE, WHERE, counts, gaps_of, law_gap, said, start_of_row, verdict

# The drift of second order goes with the noise of first order where that of squares is not known.
_MODELS = {"compagnoni": "paper", "second-order-drift": "second order", "ode": "ode"}

# What the models are, for their colours.
_THINGS = {"paper": "SDE", "second order": "second order", "ode": "ODE"}

_COLUMNS = (
    *WHERE, *(c for label in _THINGS for c in (label, "±")), "batches", "±", "batches' spread", "closest",
)  # fmt: skip

_BATCHES = 32, 4


def batches_study(scale: Scale) -> Study:
    """The same on real mini-batches, the model's error and that of taking a batch's noise for normal apart."""
    notes = [
        NUMBERS,
        "the optimizer there has normal noise with the covariance of a batch's gradient at the current parameters; batches: "
        "the distance of the optimizer on batches themselves, in the same units; batches' spread: its spread over the other's",
        "model and optimizer share their noise, but for SignSGD; the solver's error is extrapolated away",
        "second order: for RMSprop and Adam its drift with the noise of first order, for SignSGD none; the SDE without the "
        "gradient in V (malladi) is in the table with normal noise alone",
        f"batch: the number of examples that are drawn, with replacement; {RATE}",
        AFRESH,
    ]
    found: list[tuple[Cell, Tracking]] = []
    drawn = lambda loss, x0, batch: MiniBatch(loss, batch)
    # Programs differ by batch, not by phase.
    batches = scale.pick((4,), _BATCHES)
    everywhere = (at for batch in batches for at in places(scale, drawn, (batch,), ("start", "floor"), notes))
    try:
        for at in everywhere:
            for i, opt in enumerate(scale.pick(at.opts[-1:], at.opts)):
                # Signs share no noise here, so that they gain nothing by more seeds than the others have.
                run = run_of(scale, at.opts[0], scale.key(50_000 + at.number + 10 * i))
                models = MODELS if isinstance(opt, SGD) else _MODELS
                found.append((at.cell(opt), track(opt, at.problem, at.x0, run, models)))
                scale.report(said(*found[-1]))
    except KeyboardInterrupt:
        if not found:
            raise
        notes.append("interrupted: these are the results until then")
    finding, *of_laws = _laws_of_batches(found)
    notes += counts(found) + of_laws
    rows = [(*start_of_row(*one, _THINGS), *_batches(one[1]), verdict(one[1])) for one in found]
    panels = [_by_optimizer(found, batch) for batch in dict.fromkeys(cell.batch for cell, _ in found)]
    title = "Networks on mini-batches: optimizers against their SDEs"
    return Study(title, finding, _COLUMNS, rows, panels, notes)


def _batches(seen: Tracking) -> tuple[float, float, float]:
    assert seen.law is not None
    return *law_gap(seen), seen.law.spread


def _laws_of_batches(found: list[tuple[Cell, Tracking]]) -> list[str]:
    """How far off the models are, and what is not normal about a batch's noise does to the mean loss; the main thing first."""
    scores: dict[str, list[float]] = {}
    spreads: dict[str, list[float]] = {}
    for cell, seen in found:
        assert seen.law is not None
        spreads.setdefault(f"{cell.phase}, batch {cell.batch}", []).append(seen.law.spread)
        z = seen.law.difference / seen.law.stderr
        scores.setdefault(f"{type(cell.opt).__name__}, batch {cell.batch}", []).append(float(np.mean(z**2)))
    gaps = [gaps_of(seen) for _, seen in found]
    models = {label: np.median([g[label][0] for g in gaps if label in g] or [np.nan]) for label in reversed(_THINGS)}
    off = ", ".join(f"{label} {median:.2g}" for label, median in models.items() if np.isfinite(median))
    law, error = (float(np.median(column)) for column in zip(*(law_gap(seen) for _, seen in found), strict=True))
    by_optimizer = ", ".join(f"{where} {math.sqrt(np.mean(squares)):.2g}" for where, squares in scores.items())
    return [
        f"Mean losses are off by so many spreads in the median: {off}; and as a batch's noise is not normal, {law:.2g}, of "
        f"which chance is {SIGN_SLOPE * error:.2g}",
        "deviations of the mean loss on batches over their standard errors, root mean square (1 by chance alone): "
        + by_optimizer,
        "the spread on batches over that on normal noise, median: "
        + ", ".join(f"{where} {np.median(ratios):.2g}" for where, ratios in spreads.items()),
    ]


def _by_optimizer(found: list[tuple[Cell, Tracking]], batch: int) -> Panel:
    """The median gap of all cells with that batch, by optimizer."""
    mine = [(type(cell.opt).__name__, seen) for cell, seen in found if cell.batch == batch]
    names = tuple(dict.fromkeys(name for name, _ in mine))
    curves = []
    for place, label in enumerate((*_THINGS, "batches")):
        medians, errors = [], []
        for name in names:
            shown = [gaps_of(seen) | {"batches": law_gap(seen)} for its_name, seen in mine if its_name == name]
            gaps, each = np.array([gaps.get(label, (np.nan, np.nan)) for gaps in shown]).T
            medians.append(np.median(gaps))
            errors.append(np.median(each))
        thing = _THINGS.get(label, "noise")
        x = np.arange(len(names)) + 0.15 * (place - 1.5)
        curves.append(Curve(label, x, np.array(medians), np.array(errors), of=thing))
    title = f"Batches of {batch}: medians, ± s.e. of a cell"
    return Panel(title, "", "gap over spread", curves, yscale="linear", bars=True, names=names)
