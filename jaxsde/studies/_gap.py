"""How far a model's mean loss is from an optimizer's."""

from typing import NamedTuple

import numpy as np

from .._special import SIGN_SLOPE
from ..simulation import Ensemble

CHANCE = (
    "chance: what the gap of two equal laws comes to over the spread, in the mean; as differences at neighbouring times go "
    "together, two and a half times that is still nothing unusual"
)


class Gap(NamedTuple):
    """The difference of mean losses, averaged over times after the start."""

    to_spread: float
    """Over the optimizer's standard deviation over seeds."""
    chance: float
    """What that comes to, in the mean, for two equal laws."""
    to_decrease: float
    """Over the decrease of the optimizer's mean loss."""
    spread_ratio: float
    """The model's standard deviation over the optimizer's."""


def gap_between(chain: Ensemble, model: Ensemble) -> Gap:
    """Of two runs that record the loss at the same times."""
    ours, theirs = (np.asarray(run["loss"].mean, float) for run in (chain, model))
    spread, other = (float(np.mean(np.sqrt(np.asarray(run["loss"].variance, float)[1:]))) for run in (chain, model))
    gap = float(np.mean(np.abs(theirs - ours)[1:]))
    # The mean absolute value of a normal variable, times the standard deviation of the difference of two means.
    chance = SIGN_SLOPE * np.sqrt(1 / chain.seeds + (1 / model.seeds if model.seeds > 1 else 0))
    return Gap(gap / spread, float(chance), gap / float(ours[0] - ours.min()), other / spread if model.seeds > 1 else 0.0)
