"""What tables of optimizers and their SDEs on networks have in common: cells, and what all of them show."""

import collections
import math
from collections.abc import Iterable

import numpy as np

from .._tracking import MODELS, Tracking
from ._network_places import Cell

# A difference of two gaps counts where it is so many times its standard error.
_CLEAR = 3.0

WHERE = "network", "phase", "batch", "optimizer", "rate", "spread %"

NUMBERS = (
    "numbers under a model: the distance of its mean loss from the optimizer's, averaged over time, in standard deviations "
    "of the optimizer's loss over seeds (spread); ±: the standard error"
)
RATE = (
    "rate: the largest at which noise_report has the SDE hold with a tolerance of 10 %; spread %: the spread over the decrease"
)
AFRESH = "averages of gradients start afresh in each phase; RMSprop's average of squares starts at the variance of the noise"


def gaps_of(seen: Tracking) -> dict[str, tuple[float, float]]:
    """Gaps and their standard errors over the spread."""
    gaps = {label: seen.gap(label) for label in seen.models}
    return {label: (gap / seen.spread, error / seen.spread) for label, (gap, error) in gaps.items()}


def law_gap(seen: Tracking) -> tuple[float, float]:
    """The gap between the optimizer on batches and on normal noise as strong, and its standard error, over the spread."""
    gap, error = seen.law_gap
    return gap / seen.spread, error / seen.spread


def _closest(gaps: dict[str, tuple[float, float]]) -> str | None:
    """The model that is closest, if it is clear which: clearly closer than each of the others, and not than the next alone,
    behind which may be one that is hardly known."""
    (label, (gap, error)), *others = sorted(gaps.items(), key=lambda item: item[1][0])
    clear = all(other - gap > _CLEAR * math.hypot(error, its_error) for _, (other, its_error) in others)
    return label if clear else None


def start_of_row(cell: Cell, seen: Tracking, labels: Iterable[str]) -> tuple[str | float, ...]:
    """Where it is, and the gaps of the models with these labels."""
    gaps = gaps_of(seen)
    numbers = [part for label in labels for part in gaps.get(label, ("", ""))]
    with np.errstate(divide="ignore"):
        share = 100 * float(np.divide(seen.spread, seen.decrease))
    return cell.network, cell.phase, float(cell.batch), type(cell.opt).__name__, float(cell.opt.rate), share, *numbers


def verdict(seen: Tracking) -> str:
    return _closest(gaps_of(seen)) or "not clear"


def said(cell: Cell, seen: Tracking) -> str:
    shown = gaps_of(seen) if seen.law is None else gaps_of(seen) | {"batches": law_gap(seen)}
    gaps = ", ".join(f"{label} {gap:.3g} ± {error:.2g}" for label, (gap, error) in shown.items())
    return f"{cell.network}, {cell.phase}, batch {cell.batch}, {type(cell.opt).__name__}: gap over spread: {gaps}"


def counts(found: list[tuple[Cell, Tracking]]) -> list[str]:
    """What the table shows in all, the main thing first."""
    closest = collections.Counter(_closest(gaps_of(seen)) for _, seen in found)
    unclear = closest.pop(None, 0)
    nearest = " and ".join(f"the {label}'s in {count}" for label, count in closest.most_common())
    notes = [
        f"Of {len(found)} comparisons, the mean loss that is clearly nearest to the optimizer's is {nearest or 'none'}; "
        f"{unclear} are unclear"
    ]
    for kinds, name in (
        (("SGD", "SignSGD"), "SGD and SignSGD"),
        (("RMSprop", "RMSpropW", "Adam", "AdamW"), "RMSprop and Adam"),
    ):
        gaps = [gaps_of(seen) for cell, seen in found if type(cell.opt).__name__ in kinds]
        if gaps:
            medians = {label: np.median([g[label][0] for g in gaps if label in g] or [np.nan]) for label in MODELS.values()}
            shown = ", ".join(f"{label} {median:.2g}" for label, median in medians.items() if np.isfinite(median))
            notes.append(f"{name}, median gap over spread: {shown}")
    told: dict[str, list[bool]] = {}
    for cell, seen in found:
        told.setdefault(f"{cell.phase}, batch {cell.batch}", []).append(_tells_noise(gaps_of(seen)))
    notes.append(
        "the mean loss tells the paper's SDE from its drift alone, the ode, which is clearly further off: "
        + "; ".join(f"{where}: {sum(which)} of {len(which)}" for where, which in told.items())
    )
    spreads = {
        label: np.median([seen.models[label].spread for _, seen in found if label in seen.models])
        for label in ("paper", "second order")
        if found
    }
    shown = ", ".join(f"{label} {spread:.2g}" for label, spread in spreads.items())
    notes.append(f"the spread tells all of them from an ode, which has none; over the optimizer's, median: {shown}")
    return notes


def _tells_noise(gaps: dict[str, tuple[float, float]]) -> bool:
    """Whether the noise of the paper's SDE brings its mean loss clearly nearer to the optimizer's."""
    (gap, error), (other, its_error) = gaps["paper"], gaps["ode"]
    return other - gap > _CLEAR * math.hypot(error, its_error)
