"""Stationary laws as a table."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..estimation import Stationary
from ..theory import Law
from ._table import text_table

_LISTED = 3
_BLIND = (
    "'stationary' above means: no trend in the means, R-hat below 1.05, no seed diverged. It cannot tell of what no seed has "
    "reached, as a well that none has left for it: start the seeds apart to look"
)


def stationary_table(laws: Mapping[str, Stationary], forms: Mapping[str, Law], notes: Sequence[str] = ()) -> str:
    """Estimates with standard errors and variance reductions, closed forms beside them, diagnostics below."""
    first = next(iter(laws.values()))
    listed = range(min(len(first.mean), _LISTED))
    picks: list[tuple[str, tuple[int, ...]]] = [("mean", (i,)) for i in listed]
    if first.covariance is None:
        picks += [("variance", (i,)) for i in listed]
    else:
        picks += [("covariance", (i, j)) for i in listed for j in listed[i:]]
    picks += [("loss", ())]
    rows = []
    for name, at in picks:
        estimates = [_estimate(law, name, at) for law in laws.values()]
        values = [_of_form(form, name, at) for form in forms.values()]
        label = name + "".join(f"[{i}]" for i in at)
        rows.append((label, *estimates, *("" if np.isnan(v) else f"{v:.6g}" for v in values)))
    text = [text_table(("", *laws, *forms), rows)]
    for name, law in laws.items():
        verdict = "stationary" if law.settled else "NOT stationary"
        text.append(
            f"{name}: {verdict} from t = {law.burn_in:.4g} on, {law.steps} steps, {law.seeds} seeds, {law.diverged} diverged; "
            f"R-hat at most {np.max(law.r_hat):.4f}, effective samples at least {np.min(law.effective_samples):,.0f}"
        )
    return "\n".join([*text, _BLIND, *(f"note: {note}" for note in notes)])


def _of_form(form: Law, name: str, at: tuple[int, ...]) -> float:
    at = 2 * at if name == "variance" else at
    return float(np.asarray(getattr(form, "covariance" if name == "variance" else name))[at])


def _estimate(law: Stationary, name: str, at: tuple[int, ...]) -> str:
    value, error, factor = (float(getattr(part, name)[at]) for part in (law, law.stderr, law.reduction))
    cut = f" (variance / {factor:,.0f})" if factor >= 2 else ""
    return f"{value:.6g} ± {error:.1g}{cut}"
