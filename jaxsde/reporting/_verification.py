"""Outcomes of checks, one line each."""

from ..studies import Outcome, Verdict, Verification


def verification_line(outcome: Outcome) -> str:
    """A statement with its formula, its value, the simulated value, the verdict and the sources, on a line."""
    s, f = outcome.statement, outcome.finding
    verdict = f.verdict.value
    if f.verdict == Verdict.FAILS:
        verdict = "FAILS, as known" if s.expected == Verdict.FAILS else "FAILS"
    elif outcome.surprising and s.expected == Verdict.FAILS:
        verdict += " (was known to fail)"
    line = (
        f"{s.group:<9} {s.name}: {s.formula} [theory section {s.section}; {s.source}]"
        f" | claimed {f.claimed:.5g} | measured {f.measured:.5g} ± {f.stderr:.1g} | {verdict} ({outcome.seconds:.1f} s)"
    )
    return f"{line} | {f.note}" if f.note else line


def verification_table(verification: Verification) -> str:
    """All outcomes, and their count by verdict."""
    lines = [verification_line(outcome) for outcome in verification.outcomes]
    return "\n".join([*lines, verification_summary(verification)])


def verification_summary(verification: Verification) -> str:
    """How many statements came to which verdict."""
    counts = {v: sum(o.finding.verdict == v for o in verification.outcomes) for v in Verdict}
    parts = ", ".join(f"{n} {v.value}" for v, n in counts.items() if n)
    text = f"{len(verification.outcomes)} statements: {parts}"
    if verification.left_out:
        text += f"; {verification.left_out} left out of this quick run"
    surprises = len(verification.surprises)
    return text + (f"; {surprises} came out otherwise than known" if surprises else "; all as known")
