"""`reproduce`: an experiment by name."""

from collections.abc import Callable
from typing import Any

from .. import _checks
from ._experiment import Experiment, Scale, Study
from ._minibatches import covariance_study, minibatch_study, scaling_study, svag_study
from ._networks import networks_study
from ._quadratics import decay_study, phases_study, schedules_study, stationary_study, tails_study

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("phases", "SignSGD passes three phases, and bounds hold in them (Lemmas 3.4, 3.5)", 1, phases_study),
        Experiment("stationary", "optimizers settle where their SDEs and the closed forms say", 3, stationary_study),
        Experiment("tails", "without variance SGD's mean loss is infinite, SignSGD settles (Theorem 3.2)", 1, tails_study),
        Experiment("schedules", "which schedules converge, and how fast", 1, schedules_study),
        Experiment("decay", "AdamW bears any noise, coupled decay does not (Lemma 3.13)", 2, decay_study),
        Experiment("networks", "the SDEs track training on an MLP, a CNN, a ResNet and a Transformer", 45, networks_study),
        Experiment("covariance", "a batch gradient has the covariance that the SDEs use", 1, covariance_study),
        Experiment("minibatch", "SDEs track training on real mini-batches, of 8, 32 and 128", 15, minibatch_study),
        Experiment("svag", "SVAG tends to the SDE", 40, svag_study),
        Experiment("scaling", "AdamW's square-root rule from batch 16 to 256", 2, scaling_study),
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
