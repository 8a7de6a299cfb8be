"""jaxsde verify."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from .. import reporting, studies
from .._extras import require
from ._output import prepare, write_files
from ._resume import Resumable


@dataclasses.dataclass(frozen=True)
class Verify(Resumable):
    """Checks the statements of the theory, one line each: formula, its value, the simulated value, the verdict.

    Exits with status 1 where a statement comes out otherwise than known.
    """

    only: str | None = None
    """One group of statements: sgd, sign_sgd, ..."""
    quick: bool = False
    """A selection only, with fewer seeds: under a minute."""
    out: pathlib.Path | None = None
    """A folder to write pictures to: rates and asymptotic losses against the noise, theory drawn in."""
    document: pathlib.Path | None = None
    """A file to write the outcomes to, as a page in Markdown; one that is there is replaced."""
    force: bool = False
    """Overwrite pictures of earlier runs. By default they are kept, and the names of new ones get a number."""


def run_verify(arguments: Verify) -> None:
    """Checks and prints, line by line; then the pictures, if asked for."""
    if arguments.out is not None:
        require("matplotlib", extra="plots", purpose="pictures")
        prepare(arguments.out)
    if arguments.document is not None:
        prepare(arguments.document.parent)

    done: list[studies.Outcome] = []

    def show(outcome: studies.Outcome) -> None:
        done.append(outcome)
        print(reporting.verification_line(outcome), flush=True)

    try:
        with arguments.resumed():
            result = studies.verify(arguments.only, quick=arguments.quick, report=show)
    except KeyboardInterrupt:
        print(f"interrupted; what was checked: {reporting.verification_summary(studies.Verification(done, 0))}", flush=True)
        raise
    print(reporting.verification_summary(result))
    if arguments.document is not None:
        arguments.document.write_text(reporting.verification_document(result), encoding="utf-8")
        print(f"wrote {arguments.document}")
    if arguments.out is not None:
        factor = studies.QUICK if arguments.quick else 1.0
        sweeps = {"rates": studies.rates, "losses": studies.losses, "decays": studies.decays}
        writers = {f"jaxsde-{name}.png": functools.partial(_draw, sweep, factor) for name, sweep in sweeps.items()}
        for path in write_files(arguments.out, writers, force=arguments.force):
            print(f"wrote {path}")
    if result.surprises:
        sys.exit(1)


def _draw(sweep: Callable[[float], Any], factor: float, path: pathlib.Path) -> None:
    reporting.plot_study(studies.sweep_study(sweep(factor))).savefig(path, dpi=150)
