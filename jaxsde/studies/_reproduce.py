"""`reproduce`: an experiment by name."""

from collections.abc import Callable
from typing import Any

from .. import _checks
from ._experiment import Experiment, Scale, Study
from ._experiments import (
    advice_study,
    batches_study,
    covariance_study,
    decay_study,
    losses_study,
    minibatch_study,
    networks_study,
    phases_study,
    rates_study,
    scaling_study,
    schedules_study,
    stationary_study,
    svag_study,
    tails_study,
)

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "phases", "SignSGD passes three phases, and bounds hold in them (Lemmas 3.4, 3.5)", 1, phases_study,
            ("loss bound in phase 1", "loss bound in phase 2", "loss bound in phase 3"),
        ),
        Experiment(
            "stationary", "optimizers settle where their SDEs and the closed forms say", 3, stationary_study,
            (
                "stationary covariance of sgds sde", "stationary variance of sign sgd", "stationary covariance of rmsprop",
                "stationary covariance of rmspropw", "stationary covariance of adam",
                "stationary variance of adamw with fast momentum",
            ),
        ),
        Experiment("tails", "without variance SGD's mean loss is infinite, SignSGD settles (Theorem 3.2)", 1, tails_study),
        Experiment(
            "schedules", "which schedules converge, and how fast", 1, schedules_study,
            (
                "sgd with an inverse square root schedule", "sign sgd with an inverse square root schedule",
                "sign sgd with an inverse schedule", "sgd with a schedule that stops too soon",
            ),
        ),
        Experiment(
            "rates", "SignSGD's rate falls as 1 / sigma in Phase 3, SGD's does not change (Lemmas 3.5, 3.6)", 1, rates_study,
            ("rate of sign sgd against noise", "rate of sgd against noise"),
        ),
        Experiment(
            "losses", "asymptotic losses: SignSGD's linear in sigma, SGD's quadratic (Lemmas 3.5, 3.6)", 1, losses_study,
            ("loss of sign sgd against noise", "loss of sign sgd against cauchy noise", "loss of sgd against noise"),
        ),
        Experiment(
            "decay", "AdamW bears any noise, coupled decay does not (Lemma 3.13)", 2, decay_study,
            ("loss of adamw against noise", "loss of coupled l2 against noise"),
        ),
        Experiment("networks", "the second-order SDE tracks an MLP, a CNN, a ResNet and a Transformer", 180, networks_study),
        Experiment("batches", "the second-order SDE tracks these networks on real mini-batches", 110, batches_study),
        Experiment("advice", "the batch that advise promises to change nothing changes nothing", 4, advice_study),
        Experiment("covariance", "a batch gradient has the covariance that the SDEs use", 1, covariance_study),
        Experiment("minibatch", "SDEs track training on real mini-batches, of 8, 32 and 128", 15, minibatch_study),
        Experiment("svag", "SVAG tends to the SDE", 40, svag_study),
        Experiment("scaling", "AdamW's square-root rule from batch 16 to 256", 2, scaling_study),
    )
}  # fmt: skip


def _silent(line: str) -> None:
    del line


def reproduce(name: str, *, small: bool = False, report: Callable[[str], Any] = _silent) -> Study:
    """Runs an experiment.

    **Arguments:**

    - `name`: one of `EXPERIMENTS`.
    - `small`: whether to run a small version, of about a minute on two cores, that shows how rather than what.
    - `report`: called with a line of text as results come in.

    **Returns:** a [`Study`][], for `jaxsde.reporting.study_table`, `.plot_study` and `.save_study`.

    **Raises:** `ValueError` for another name.
    """
    experiment = EXPERIMENTS[_checks.choice("name", name, tuple(EXPERIMENTS))]
    study = experiment.run(Scale(small, report))
    if not experiment.statements:
        return study
    return study._replace(notes=[*study.notes, f"jaxsde verify judges: {', '.join(experiment.statements)}"])
