"""What a statement of the theory is, and the verdicts that a check of one can come to."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..estimation import FunctionError, slope_weights

# How many standard errors a deviation must exceed to count, and how precise a measurement must be to decide.
_SIGMAS, _PRECISION = 5.0, 0.05


class Verdict(enum.Enum):
    """What a check of a statement came to."""

    HOLDS = "holds"
    HOLDS_TO_FIRST_ORDER = "holds to O(learning rate)"
    FAILS = "fails"
    UNDECIDED = "undecided"


class Finding(NamedTuple):
    """What was claimed, what was measured, and the verdict."""

    claimed: float
    measured: float
    stderr: float
    verdict: Verdict
    note: str = ""


class Statement(NamedTuple):
    """A statement of the theory, with a check of it."""

    name: str
    group: str
    section: int
    source: str
    formula: str
    expected: Verdict
    """What is known of it: a statement that fails as published stays on the list, to show by how much."""
    quick: bool
    check: Callable[["Budget"], Finding]


class Budget(NamedTuple):
    """How much work a check may do: a factor on its numbers of seeds."""

    factor: float

    def seeds(self, number: int) -> int:
        """The number of seeds that goes with `number` of them in a full run."""
        return max(64, int(number * self.factor))


STATEMENTS: list[Statement] = []


def statement(
    group: str, section: int, source: str, formula: str, *, expected: Verdict = Verdict.HOLDS, quick: bool = False
) -> Callable[[Callable[[Budget], Finding]], Callable[[Budget], Finding]]:
    """Adds a check to the list, under its own name."""

    def register(check: Callable[[Budget], Finding]) -> Callable[[Budget], Finding]:
        name = check.__name__.replace("_", " ")
        STATEMENTS.append(Statement(name, group, section, source, formula, expected, quick, check))
        return check

    return register


def equal(claimed: Any, measured: Any, stderr: Any, note: str = "", *, rounding: float = 1e-5) -> Finding:
    """Whether a measured value is the claimed one: holds within five standard errors and relative rounding.

    Of arrays, the entry that deviates most (in standard errors) is shown.
    """
    claimed, measured, stderr, error = _aligned(claimed, measured, stderr, rounding)
    worst = int(np.argmax(np.abs(measured - claimed) / error))
    c, m, e = float(claimed[worst]), float(measured[worst]), float(error[worst])
    # Entries that ought to be zero are judged on the scale of the others.
    scale = float(np.max(np.abs(claimed)))
    if not abs(m - c) <= _SIGMAS * e:  # nor does what is not finite hold
        verdict, note = Verdict.FAILS, f"{note}; measured / claimed = {m / c:.4g}".strip("; ") if c else note
    else:
        verdict = Verdict.HOLDS if _SIGMAS * e <= _PRECISION * scale else Verdict.UNDECIDED
    return Finding(c, m, float(stderr[worst]), verdict, note)


def first_order(
    rate: float, claim: Callable[[float], Any], measure: Callable[[float], tuple[Any, Any]], note: str = ""
) -> Finding:
    """Whether what is measured tends to the claim linearly in the learning rate: compared at `rate` and at half of it.

    Holds outright where there is no deviation to be seen. Else the relative deviations $d$ must halve: the constant
    $d / \\eta$ at both rates agree within five standard errors and a quarter, what the next order may add.
    """
    halves = (rate, rate / 2)
    claimed, measured, stderr, error = zip(*(_aligned(claim(r), *measure(r), 1e-5) for r in halves), strict=True)
    outright = equal(claimed[0], measured[0], stderr[0], note)
    if outright.verdict in (Verdict.HOLDS, Verdict.UNDECIDED):
        return outright
    worst = int(np.argmax(np.abs(measured[0] - claimed[0]) / error[0]))
    scale = [float(np.max(np.abs(c))) if c[worst] == 0 else abs(float(c[worst])) for c in claimed]
    constant, spread = (
        [float(a[worst]) / s / r for a, s, r in zip(values, scale, halves, strict=True)]
        for values in ([m - c for m, c in zip(measured, claimed, strict=True)], error)
    )
    c, m, e = float(claimed[0][worst]), float(measured[0][worst]), float(stderr[0][worst])
    shown = f"{note}; relative deviation {constant[0]:.3g} and {constant[1]:.3g} times the learning rate".strip("; ")
    shown += f" at {halves[0]:g} and {halves[1]:g}"
    uncertainty = _SIGMAS * float(np.hypot(spread[0], spread[1]))
    linear = abs(constant[1] - constant[0]) <= uncertainty + 0.25 * abs(constant[0])
    sharp = uncertainty * rate <= _PRECISION
    verdict = Verdict.FAILS if not linear else Verdict.HOLDS_TO_FIRST_ORDER if sharp else Verdict.UNDECIDED
    return Finding(c, m, e, verdict, shown)


def below(bound: Any, measured: Any, stderr: Any, note: str = "", *, rounding: float = 1e-5) -> Finding:
    """Whether a measured curve stays below a bound, to five standard errors. Shows where it comes nearest, or is above."""
    bound, measured, stderr, error = _aligned(bound, measured, stderr, rounding)
    worst = int(np.argmax((measured - bound) / np.maximum(np.abs(bound), 1e-30)))
    over = ~(measured - bound <= _SIGMAS * error)  # nor is what is not finite below a bound
    if np.any(over):
        worst = int(np.argmax(np.where(over, (measured - bound) / error, -np.inf)))
    b, m = float(bound[worst]), float(measured[worst])
    note = f"{note}; an upper bound, measured / bound = {m / b:.4g} at its tightest".strip("; ")
    return Finding(b, m, float(stderr[worst]), Verdict.FAILS if np.any(over) else Verdict.HOLDS, note)


def exponent(claimed: float, x: Any, y: Any, stderr: Any, tolerance: float = 0.05, note: str = "") -> Finding:
    """Whether $y \\propto x^p$ with the claimed $p$: a weighted fit of the logarithms, to five standard errors and
    `tolerance`, what corrections to the power law may do over the range of `x`."""
    x = np.asarray(x, float)
    y, _, _, error = _aligned(y, y, stderr, 1e-6)
    weights = slope_weights(np.log(x), (y / error) ** 2)
    slope, spread = float(weights @ np.log(y)), float(np.sqrt(np.sum((weights * error / y) ** 2)))
    close = abs(slope - claimed) <= _SIGMAS * spread + tolerance
    verdict = Verdict.FAILS if not close else Verdict.HOLDS if _SIGMAS * spread <= 4 * tolerance else Verdict.UNDECIDED
    return Finding(claimed, slope, spread, verdict, f"{note}; fitted exponent, ± {tolerance:g} allowed".strip("; "))


def weak_order(claimed: float, rates: np.ndarray, error: FunctionError, tolerance: float) -> Finding:
    """Whether the error of an SDE is a multiple of the learning rate to the claimed power."""
    note = f"constant {error.order.constant:.3g}; local slopes {np.round(error.order.local, 2).tolist()}"
    return exponent(claimed, rates, np.abs(error.modelling), error.modelling_stderr, tolerance, note)


def _aligned(a: Any, b: Any, stderr: Any, rounding: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of equal length, and the standard errors with rounding (relative to the largest entry) added."""
    first, second, errors = np.broadcast_arrays(*(np.asarray(v, float) for v in (a, b, stderr)))
    first, second, errors = first.ravel(), second.ravel(), errors.ravel()
    floor = rounding * max(float(np.max(np.abs(first))), 1e-30)
    return first, second, errors, np.hypot(errors, floor)
