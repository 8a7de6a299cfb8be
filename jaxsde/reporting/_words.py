"""What a comparison shows, in words."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..estimation import Comparison, Estimate, Row, Side

# A difference is told from noise where it is at least so many of its standard errors.
_RESOLVED = 3.0

# A curve that is off by more than so many per cent does not follow the optimizer's.
_FOLLOWS = 10.0

# What the closed forms assume, by optimizer; those of SGD are exact on a quadratic, up to the order of the learning rate.
_ASSUMPTIONS = {
    "SignSGD": "which linearises",
    **dict.fromkeys(("RMSprop", "RMSpropW", "Adam", "AdamW"), "which takes the gradient to be small against its noise"),
}

_END = "at the end"


def verdict(comparison: Comparison) -> list[str]:
    """What a comparison says of losses and variances: how far the SDE and theory are from the optimizer, in sentences.

    A difference of less than three of its standard errors is within noise, and "within noise of 2 %" says that differences
    up to 2 % of the optimizer's value would not show. Any other is given in per cent of the optimizer's value, where there
    are several the largest. The rows of the table along the way are one kind, those of the stationary law another. Means and
    covariances across coordinates are left out: they may be zero, of which there is no per cent.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> result = js.compare(js.SGD(0.1), problem, jnp.ones(1), steps=40, seeds=80, substeps=1)
    >>> verdict(result)[0].endswith("more seeds would tell.")
    True
    """
    optimizer, sde, rows = comparison.optimizer, comparison.sde, comparison.rows
    lost = _lost("optimizer", optimizer) + ([] if sde is None else _lost("SDE", sde))
    if optimizer.diverged[-1] == optimizer.seeds:
        return [*lost, "There is nothing to compare with."]
    fallen = optimizer.curves.loss[-1] < optimizer.curves.loss[0]
    along = "on the way down" if fallen else "along the way"
    sentences = []
    if sde is None:
        sentences.append("There is no SDE to compare; the notes say why.")
    elif sde.diverged[-1] < sde.seeds:
        name = "the ODE" if comparison.settings.get("model") == "ode" else "the SDE"
        sentences += _sentences(name, "", rows, lambda row: row.sde, along)
    if comparison.theory is None:
        sentences.append("There is no theory to compare; the notes say why.")
    else:
        assumption = _ASSUMPTIONS.get(comparison.settings.get("optimizer", ""), "")
        sentences += _sentences("theory", assumption, rows, lambda row: row.theory, along)
    return sentences + lost


class _Finding(NamedTuple):
    """How far the rows of one kind are from the optimizer's, in per cent.

    `largest` is the largest difference that is no noise, with its sign, None where all of them may be noise; `shown` are all
    that are no noise; `hidden` is how much noise hides in the other rows; `rows` is how many there are.
    """

    largest: float | None
    shown: tuple[float, ...]
    hidden: float
    rows: int

    @property
    def bound(self) -> float:
        """No difference is larger, as far as the seeds tell."""
        return max(abs(self.largest or 0.0), self.hidden)

    def __str__(self) -> str:
        if self.largest is None:
            return f"within noise of {_percent(self.hidden)}"
        mixed = min(self.shown) < 0 < max(self.shown)
        side = "off" if mixed else "high" if self.largest > 0 else "low"
        return f"{'up to ' if self.rows > 1 else ''}{_percent(abs(self.largest))} {side}"


_Pick = Callable[[Row], Estimate | float | None]


def _sentences(name: str, assumption: str, rows: Sequence[Row], pick: _Pick, along: str) -> list[str]:
    """One sentence on the loss, one on the variances, where the table has any."""
    subject = f"{name}, {assumption}," if assumption else name
    loss, variances = _findings(rows, pick, along, _is_loss), _findings(rows, pick, along, _is_variance)
    sentences = [_on_the_loss(name, subject, loss)] if loss else []
    if variances:
        owned = "its variances" if loss else f"the variances of {subject}"
        sentences.append(f"{owned} are {_listed(variances)}.")
    if not sentences:
        sentences.append(f"{subject} has no number to compare.")
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]


def _on_the_loss(name: str, subject: str, findings: dict[str, _Finding]) -> str:
    bound = max(finding.bound for finding in findings.values())
    shown = max((abs(finding.largest) for finding in findings.values() if finding.largest is not None), default=None)
    if shown is None:
        if bound <= _FOLLOWS:
            return f"{subject} follows the optimizer's loss within noise of {_percent(bound)}."
        return f"noise of {_percent(bound)} hides whether {name} follows the optimizer's loss; more seeds would tell."
    if shown > _FOLLOWS:
        return f"{subject} does not follow the optimizer's loss: it is {_listed(findings)}."
    return f"{subject} follows the optimizer's loss within {_percent(bound)}: it is {_listed(findings)}."


def _listed(findings: dict[str, _Finding]) -> str:
    if len(findings) > 1 and all(finding.largest is None for finding in findings.values()):
        return f"within noise of {_percent(max(finding.hidden for finding in findings.values()))}"
    return " and ".join(f"{finding} {phase}" for phase, finding in findings.items())


def _findings(rows: Sequence[Row], pick: _Pick, along: str, wanted: Callable[[str], bool]) -> dict[str, _Finding]:
    """The finding of each phase of the run that has rows with numbers."""
    found: dict[str, _Finding] = {}
    for phase in (along, _END):
        shown, hidden, count = [], 0.0, 0
        for row in rows:
            if not wanted(row.quantity) or row.quantity.startswith("stationary") != (phase == _END):
                continue
            other = pick(row)
            if other is None:
                continue
            value, stderr = (other.value, other.stderr) if isinstance(other, Estimate) else (other, 0.0)
            difference, error = value - row.optimizer.value, math.hypot(row.optimizer.stderr, stderr)
            if math.isnan(difference) or math.isnan(error):
                continue
            count += 1
            size = abs(row.optimizer.value)
            if difference != 0 and abs(difference) >= _RESOLVED * error:
                shown.append(100 * difference / size if size else math.copysign(math.inf, difference))
            elif error:
                hidden = max(hidden, 100 * _RESOLVED * error / size if size else math.inf)
        if count:
            largest = max(shown, key=abs, default=None)
            found[phase] = _Finding(largest, tuple(shown), hidden, count)
    return found


def _is_loss(quantity: str) -> bool:
    return quantity.startswith(("loss", "stationary loss"))


def _is_variance(quantity: str) -> bool:
    if quantity.startswith("stationary covariance"):
        first, second = quantity[quantity.index("[") + 1 : quantity.index("]")].split(", ")
        return first == second
    return quantity.startswith(("variance", "total variance", "stationary total variance"))


def _lost(name: str, side: Side) -> list[str]:
    count = int(side.diverged[-1])
    if count == side.seeds:
        return [f"All of the {name}'s {side.seeds:,} seeds diverged."]
    return [f"{count:,} of the {name}'s {side.seeds:,} seeds diverged and are left out."] if count else []


def _percent(value: float) -> str:
    """Two digits at most, as no more is known."""
    if value >= 1000:
        return "more than 1000 %"
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"
