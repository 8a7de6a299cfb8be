"""Advice in words."""

import dataclasses
import math
import textwrap

from ..estimation import Advice, Scaling
from ..optimizers import AbstractOptimizer

_WIDTH = 100
# The ratio of signal to noise below which noise dominates, and above which the gradient does.
_NOISE_DOMINATES, _SIGNAL_DOMINATES = 1 / 3, 3.0


def advice_text(advice: Advice) -> str:
    """What [`advise`][] found, a paragraph for each question.

    >>> import jaxsde as js
    >>> line = js.Problem(js.Quadratic([1.0, 4.0]), js.Gaussian(0.1))
    >>> print(advice_text(js.advise(line, jnp.ones(2), js.SGD(0.01))).splitlines()[0][:28])
    Signal and noise. The gradie
    """
    paragraphs = [_regime(advice), _rates(advice), _floor(advice), _tails(advice)]
    if advice.scaling is not None:
        paragraphs.append(_scaled(advice, advice.scaling))
    return "\n".join(textwrap.fill(paragraph, _WIDTH, subsequent_indent="  ") for paragraph in paragraphs)


def _regime(advice: Advice) -> str:
    ratio, critical = advice.signal_to_noise, advice.report.critical_ratio
    if math.isinf(ratio):
        return "Signal and noise. There is no gradient noise here."
    if ratio < _NOISE_DOMINATES:
        said = "noise dominates"
    elif ratio > _SIGNAL_DOMINATES:
        said = "the gradient dominates"
    else:
        said = "neither dominates"
    where = f"a batch of {critical * advice.batch_size:.3g}" if advice.batch_size else f"a batch {critical:.3g} times this one"
    equal = "" if math.isinf(critical) else f" Both are as large at {where}."
    return f"Signal and noise. The gradient is {ratio:.3g} times as large as its noise: {said}.{equal}"


def _rates(advice: Advice) -> str:
    rate, share = float(advice.optimizer.rate), 100 * advice.report.tolerance
    if math.isinf(advice.theory_rate):
        return "Learning rate. The loss has no curvature here, and sets no limit to it."
    verdict = "within" if rate <= advice.theory_rate else f"{rate / advice.theory_rate:.3g} times"
    text = (
        f"Learning rate. The SDE should hold to some {share:.3g} % up to {advice.theory_rate:.3g}; yours, {rate:.3g}, is "
        f"{verdict} that. "
    )
    if advice.kind == "SignSGD":
        text += f"Beyond {advice.stable_rate:.3g} the mean overshoots in the steepest direction; signs bound each step."
    else:
        text += f"In the steepest direction a quadratic is stable up to {advice.stable_rate:.3g}."
    error = advice.report.curvature_error[advice.kind]
    if error > 0.01:
        text += f" Its curvature is known to {100 * error:.2g} % only, and may be larger."
    return text


def _floor(advice: Advice) -> str:
    by_batch = "2 as well" if advice.kind == "SGD" else "1.41"
    return (
        f"Floor. Noise as it is here would keep the loss some {advice.floor:.3g} above its minimum. Half the learning rate "
        f"divides that by 2, a batch twice as large by {by_batch}."
    )


def _tails(advice: Advice) -> str:
    index, normal = advice.report.whole.tail_index, advice.report.gaussian_tail_index
    if math.isnan(index):
        return "Tails. Too few numbers to tell."
    text = f"Tails. The tail index reads {index:.3g}, that of Gaussian noise would read {normal:.2g}: "
    if advice.heavy_tails:
        return text + "so heavy a tail leaves the variance unsure, on which all optimizers but SignSGD depend."
    return text + "no reason to prefer signs."


def _scaled(advice: Advice, scaling: Scaling) -> str:
    text = f"Batch. From {advice.batch_size} to {scaling.batch_size}: "
    if scaling.optimizer is None:
        return f"{text}the scaling rule has no answer: {scaling.refused}."
    text += f"{_written(scaling.optimizer)}, with {scaling.steps:.4g} times as many steps. "
    if scaling.holds:
        return text + "The curve of the loss against the examples seen should stay as it is."
    reasons = []
    if not scaling.noise_dominates:
        reasons.append(
            "the rule takes noise to dominate at both batches, and by the gradient's share the loss falls "
            f"{100 * scaling.distortion:.2g} % more slowly at the larger one"
        )
    if not scaling.normal_signs:
        reasons.append("the signs of this noise are far from those of normal noise, which the rule takes it for")
    if not scaling.rate_fits:
        reasons.append("the new learning rate is beyond the one up to which the SDE should hold")
    return f"{text}Do not count on the curve of the loss to stay as it is: {'; '.join(reasons)}."


def _written(opt: AbstractOptimizer) -> str:
    """The optimizer as it would be made."""
    fields = {field.name: getattr(opt, field.name) for field in dataclasses.fields(opt)}
    numbers = [
        f"{name}={float(value):.4g}" if not callable(value) else f"{name}=its schedule, compressed and scaled"
        for name, value in fields.items()
        if value is not None
    ]
    return f"{type(opt).__name__}({', '.join(numbers)})"
