"""`verify`: every statement of the theory, checked."""

import time
from collections.abc import Callable
from typing import NamedTuple

from . import _statements  # noqa: F401  (registers them)
from ._statement import STATEMENTS, Budget, Finding, Statement, Verdict

QUICK = 0.1


class Outcome(NamedTuple):
    """A statement and what its check found."""

    statement: Statement
    finding: Finding
    seconds: float

    @property
    def surprising(self) -> bool:
        """Whether a statement came out otherwise than known: only a failure that is known for one is no surprise."""
        found, expected = self.finding.verdict, self.statement.expected
        return found == Verdict.UNDECIDED or (found == Verdict.FAILS) != (expected == Verdict.FAILS)


class Verification(NamedTuple):
    """What [`verify`][] returns."""

    outcomes: list[Outcome]
    left_out: int
    """How many statements of the selection a quick run leaves out."""

    @property
    def surprises(self) -> list[Outcome]:
        """Statements that came out otherwise than known."""
        return [o for o in self.outcomes if o.surprising]


def groups() -> tuple[str, ...]:
    """The names that `only` takes."""
    return tuple(dict.fromkeys(s.group for s in STATEMENTS))


def verify(only: str | None = None, *, quick: bool = False, report: Callable[[Outcome], None] | None = None) -> Verification:
    """Checks the statements of the theory against simulation, one after the other.

    Each compares a formula with a simulated (or exactly computed) value. A statement holds where they agree within five
    standard errors; holds to the order of the learning rate where the deviation halves with it, its constant being
    measured; and fails where it does not. Some are published and known to fail: for these the check shows by how much.

    **Arguments:**

    - `only`: one group of statements, such as `"sign_sgd"`; by default all.
    - `quick`: whether to check a selection only, with fewer seeds.
    - `report`: called with each [`Outcome`][] as it is found.

    **Returns:** a [`Verification`][], which `jaxsde.reporting.verification_table` prints.

    **Raises:** `ValueError` for an unknown group.

    >>> from jaxsde.studies import groups
    >>> "sign_sgd" in groups()
    True
    """
    if only is not None and only not in groups():
        raise ValueError(f"only must be one of {', '.join(groups())}, got {only!r}")
    chosen = sorted((s for s in STATEMENTS if only in (None, s.group)), key=lambda s: s.section)
    budget = Budget(QUICK if quick else 1.0)
    outcomes = []
    for statement in chosen:
        if quick and not statement.quick:
            continue
        start = time.perf_counter()
        outcome = Outcome(statement, statement.check(budget), time.perf_counter() - start)
        outcomes.append(outcome)
        if report is not None:
            report(outcome)
    return Verification(outcomes, len(chosen) - len(outcomes))
