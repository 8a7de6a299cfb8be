"""jaxsde compare."""

import dataclasses
import pathlib
import textwrap
from typing import Annotated

import tyro

from .. import reporting
from .._extras import require
from .._registry import PROBLEMS
from ..estimation import compare
from ..reporting._table import WIDTH
from ..simulation import Interrupted
from ._setup import Setup, by_problem

_SUBSTEPS = "Solver steps of the SDE per optimizer step."


@dataclasses.dataclass(frozen=True)
class Compare(Setup):
    """Simulates an optimizer and its SDE on a problem, and sets them beside the theory.

    Prints a table, writes a picture and a netCDF file with all the numbers, and ends with what they show, in words.
    Defaults given as None depend on the problem.
    """

    steps: Annotated[int | None, tyro.conf.arg(help=f"Optimizer steps. {by_problem('steps')}.")] = None
    seeds: Annotated[int | None, tyro.conf.arg(help=f"Noise seeds. {by_problem('seeds')}.")] = None
    substeps: Annotated[int | None, tyro.conf.arg(help=f"{_SUBSTEPS} {by_problem('substeps')}.")] = None
    out: pathlib.Path = pathlib.Path(".")
    """The folder to write to."""


def run_compare(arguments: Compare) -> None:
    """Runs the comparison, prints the table, writes the picture and the file, and prints the verdict."""
    # What is missing should show before the work is done, not after.
    require("matplotlib", extra="plots", purpose="the picture")
    for package in ("xarray", "h5netcdf", "h5py"):
        require(package, extra="files", purpose="the file of numbers")
    default = PROBLEMS[arguments.problem].budget
    seeds = default.seeds if arguments.seeds is None else arguments.seeds
    arguments.out.mkdir(parents=True, exist_ok=True)
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
    name = arguments.out / f"jaxsde-{arguments.optimizer}-{arguments.problem}"
    axes = reporting.plot(result)
    axes.figure.savefig(f"{name}.png", dpi=150)
    reporting.save(result, f"{name}.nc")
    print(f"wrote {name}.png and {name}.nc\n")
    print(textwrap.fill(" ".join(reporting.verdict(result)), WIDTH))
