"""jaxsde reproduce."""

import dataclasses
import pathlib
import time

import tyro

from .. import reporting, studies
from ._output import Output, prepare, prepare_picture_and_numbers, write_files
from ._resume import Resumable


@dataclasses.dataclass(frozen=True)
class Reproduce(Output, Resumable):
    """Tries a claim about optimizers and their SDEs: prints a table, writes a picture and the data."""

    name: tyro.conf.Positional[str] = ""
    """The experiment; --list shows them."""
    list: bool = False
    """List the experiments, and do nothing else."""
    small: bool = False
    """A small version, of about a minute on two cores."""
    document: pathlib.Path | None = None
    """A file to write the outcome to, as a page in Markdown with the picture beside it; those that are there are replaced."""


def run_reproduce(arguments: Reproduce) -> None:
    """Lists the experiments, or runs one."""
    if arguments.list:
        width = max(map(len, studies.EXPERIMENTS))
        for experiment in studies.EXPERIMENTS.values():
            print(f"{experiment.name:{width}}  {experiment.claim} (about {experiment.minutes:g} min)")
        return
    if arguments.name not in studies.EXPERIMENTS:
        known = ", ".join(studies.EXPERIMENTS)
        given = f"no experiment {arguments.name!r}" if arguments.name else "name an experiment"
        raise ValueError(f"{given}: there are {known}; --list says what they are")
    prepare_picture_and_numbers(arguments.out)
    if arguments.document is not None:
        prepare(arguments.document.parent)
    minutes = studies.EXPERIMENTS[arguments.name].minutes
    expected = "about a minute" if arguments.small else f"about {minutes:g} min"
    print(f"{arguments.name}: {studies.EXPERIMENTS[arguments.name].claim}; {expected} on two cores", flush=True)
    start = time.monotonic()
    shown = lambda line: print(f"[{time.monotonic() - start:5.0f} s] {line}", flush=True)
    with arguments.resumed():
        study = studies.reproduce(arguments.name, small=arguments.small, report=shown)
    print(reporting.study_table(study))
    name = f"jaxsde-{arguments.name}"
    draw = lambda path: reporting.plot_study(study).savefig(path, dpi=110)
    writers = {
        f"{name}.png": draw,
        f"{name}.nc": lambda path: reporting.save_study(study, path),
    }
    picture, numbers = write_files(arguments.out, writers, force=arguments.force)
    print(f"wrote {picture} and {numbers}")
    if arguments.document is not None:
        page = arguments.document
        small = " --small" if arguments.small else ""
        command = f"jaxsde reproduce {arguments.name}{small} --document {page.name}"
        files = {page.with_suffix(".png").name: draw}
        (beside,) = write_files(page.parent, files, force=True)
        page.write_text(reporting.study_document(study, command, beside.name), encoding="utf-8")
        print(f"wrote {page} and {beside}")
