"""`reproduce`: an experiment by name."""

from collections.abc import Callable
from typing import Any

from .. import _checks
from ._experiment import Experiment, Scale, Study
from ._networks import networks_study

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("networks", "the SDEs track training on an MLP, a CNN, a ResNet and a Transformer", 45, networks_study),
    )
}


def _silent(line: str) -> None:
    del line


def reproduce(name: str, *, small: bool = False, report: Callable[[str], Any] = _silent) -> Study:
    """Runs an experiment.

    **Arguments:**

    - `name`: one of `EXPERIMENTS`.
    - `small`: whether to run a small version, of less than a minute on two cores, that shows how rather than what.
    - `report`: called with a line of text as results come in.

    **Returns:** a [`Study`][], for `jaxsde.reporting.study_table`, `.plot_study` and `.save_study`.

    **Raises:** `ValueError` for another name.
    """
    _checks.choice("name", name, tuple(EXPERIMENTS))
    return EXPERIMENTS[name].run(Scale(small, report))
