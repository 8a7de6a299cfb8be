"""jaxsde weak-error."""

import dataclasses

from .. import reporting
from .._extras import require
from ..estimation import weak_error
from ._output import Output, prepare, write_files
from ._setup import Setup


@dataclasses.dataclass(frozen=True)
class WeakError(Output, Setup):
    """Measures the weak error of an optimizer's SDE against the learning rate: the model's and the solver's.

    Prints errors, orders and constants by test function, and writes a picture.
    """

    learning_rates: tuple[float, ...] = (0.2, 0.1, 0.05, 0.025)
    """The learning rates; hyperparameters are those at --learning-rate, and time scales are kept."""
    time: float = 1.0
    """The time of comparison."""
    start_time: float | None = None
    """Adaptive methods: true optimizer steps go before the SDE up to this time."""
    seeds: int = 50_000
    """Noise seeds."""
    substeps: int = 4
    """Solver steps of the SDE per optimizer step, in the coarser of its two runs."""


def run_weak_error(arguments: WeakError) -> None:
    """Measures, prints the table, and writes the picture."""
    require("matplotlib", extra="plots", purpose="the picture")
    prepare(arguments.out)
    optimizer, problem, x0 = arguments.build()
    with arguments.resumed():
        result = weak_error(
            optimizer,
            problem,
            x0,
            T=arguments.time,
            learning_rates=arguments.learning_rates,
            key=arguments.key,
            seeds=arguments.seeds,
            substeps=arguments.substeps,
            model=arguments.model,
            start_time=arguments.start_time,
        )
    print(reporting.weak_error_table(result))
    name = f"jaxsde-weak-error-{arguments.label}-{arguments.model or optimizer.default_model}.png"
    draw = lambda path: reporting.plot_weak_error(result, "loss").figure.savefig(path, dpi=150)
    [picture] = write_files(arguments.out, {name: draw}, force=arguments.force)
    print(f"wrote {picture}")
