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


def verification_document(verification: Verification) -> str:
    """All outcomes as a page in Markdown, a table for each group of statements."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in verification.outcomes:
        groups.setdefault(outcome.statement.group, []).append(outcome)
    parts = [_PREFACE, f"{verification_summary(verification)}."]
    for name, outcomes in groups.items():
        rows = [_row(outcome) for outcome in outcomes]
        heading = "| claim | formula | source | claimed | measured | verdict |\n|---|---|---|---|---|---|"
        parts.append(f"## {name}\n\n`jaxsde verify --only {name}`\n\n" + "\n".join([heading, *rows]))
    return "\n\n".join(parts) + "\n"


_PREFACE = """# Claims, one by one

`jaxsde verify --document docs/claims.md` writes this page; nothing in it is written by hand. Each claim is a formula of the
theory, with its source. For a number, the table has what it claims, what was measured, with the standard error, and the
verdict. A claim "holds" within five standard errors. It "holds to O(learning rate)" where the deviation halves with the
learning rate. Some published statements fail as published, and stay here to show by how much. The command of a group checks
its claims alone; all of them take some fifteen minutes on two cores."""


def _row(outcome: Outcome) -> str:
    s, f = outcome.statement, outcome.finding
    verdict = f"**{f.verdict.value}**" if f.verdict is Verdict.FAILS else f.verdict.value
    if outcome.surprising:
        verdict += ", otherwise than known"
    note = f" ({f.note})" if f.note else ""
    measured = f"{f.measured:.4g} ± {f.stderr:.1g}"
    cells = (s.name, s.formula, f"{s.source}; section {s.section}", f"{f.claimed:.4g}", measured, verdict + note)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def verification_summary(verification: Verification) -> str:
    """How many statements came to which verdict."""
    counts = {v: sum(o.finding.verdict == v for o in verification.outcomes) for v in Verdict}
    parts = ", ".join(f"{n} {v.value}" for v, n in counts.items() if n)
    text = f"{len(verification.outcomes)} statements: {parts}"
    if verification.left_out:
        text += f"; {verification.left_out} left out of this quick run"
    surprises = len(verification.surprises)
    return text + (f"; {surprises} came out otherwise than known" if surprises else "; all as known")
