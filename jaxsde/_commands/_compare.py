"""jaxsde compare."""

import dataclasses
import shutil
import textwrap
from typing import Annotated

import tyro

from .. import reporting
from .._registry import PROBLEMS
from ..estimation import compare
from ..reporting._table import WIDTH
from ..simulation import Interrupted
from ._output import Output, prepare_picture_and_numbers, write_files
from ._setup import Setup, by_problem

_SUBSTEPS = "Solver steps of the SDE per optimizer step."


@dataclasses.dataclass(frozen=True)
class Compare(Output, Setup):
    """Simulates an optimizer and its SDE on a problem, and sets them beside the theory.

    Prints a table, writes a picture and a netCDF file with all the numbers, and ends with what they show, in words.
    Defaults given as None depend on the problem, or on the optimizer.
    """

    steps: Annotated[int | None, tyro.conf.arg(help=f"Optimizer steps. {by_problem('steps')}.")] = None
    seeds: Annotated[int | None, tyro.conf.arg(help=f"Noise seeds. {by_problem('seeds')}.")] = None
    substeps: Annotated[int | None, tyro.conf.arg(help=f"{_SUBSTEPS} {by_problem('substeps')}.")] = None


def run_compare(arguments: Compare) -> None:
    """Runs the comparison, prints the table, writes the picture and the file, and prints the verdict."""
    default = PROBLEMS[arguments.problem].budget
    seeds = default.seeds if arguments.seeds is None else arguments.seeds
    prepare_picture_and_numbers(arguments.out)
    optimizer, problem, x0 = arguments.build()
    try:
        with arguments.resumed():
            result = compare(
                optimizer,
                problem,
                x0,
                steps=default.steps if arguments.steps is None else arguments.steps,
                seeds=seeds,
                key=arguments.key,
                substeps=default.substeps if arguments.substeps is None else arguments.substeps,
                model=arguments.model,
                groups=min(40, max(2, seeds)),
            )
    except Interrupted as stopped:
        if stopped.result is not None:
            print(reporting.table(stopped.result))
        raise
    print(reporting.table(result))
    name = f"jaxsde-{arguments.label}-{arguments.problem}"
    writers = {
        f"{name}.png": lambda path: reporting.plot(result).figure.savefig(path, dpi=150),
        f"{name}.nc": lambda path: reporting.save(result, path),
    }
    picture, numbers = write_files(arguments.out, writers, force=arguments.force)
    print(f"wrote {picture} and {numbers}\n")
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    print(textwrap.fill(" ".join(reporting.verdict(result)), width))
