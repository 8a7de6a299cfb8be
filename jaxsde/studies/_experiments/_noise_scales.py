"""Claims about how rates and losses depend on the noise. Statements judge the same measurements."""

from .. import _sweeps
from .._experiment import Scale, Study


def rates_study(scale: Scale) -> Study:
    """SignSGD's rate of convergence falls as noise grows, SGD's does not change."""
    return _sweeps.sweep_study(_sweeps.rates(_factor(scale)))


def losses_study(scale: Scale) -> Study:
    """SignSGD's asymptotic loss grows in proportion to the noise, SGD's to its square."""
    return _sweeps.sweep_study(_sweeps.losses(_factor(scale)))


def decay_study(scale: Scale) -> Study:
    """AdamW's asymptotic loss stays bounded as noise grows, that of Adam with coupled decay does not."""
    return _sweeps.sweep_study(_sweeps.decays(_factor(scale)))


def _factor(scale: Scale) -> float:
    return scale.pick(0.2, 1.0)
