"""`advise`: what the gradient noise at a point says of learning rate and batch size."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy  # whose parts load when they are first used
from jaxtyping import PyTree

from .. import _checks
from .._typing import Key
from ..optimizers import (
    SGD,
    AbstractOptimizer,
    Adam,
    AdamW,
    Momentum,
    RMSprop,
    RMSpropW,
    SignSGD,
    scaled,
)
from ..problems import Problem
from ._noise_report import NoiseReport, noise_report

# A tail index below this leaves the variance unsure: its own estimate has no variance for 4, and there is none for 2.
_HEAVY_TAIL = 3.0
# So large a share of the mean sign may be due to noise that is not normal.
_NORMAL = 0.5
_SIGN = "SignSGD"
_ADAPTIVE = "RMSprop, Adam"


class Scaling(NamedTuple):
    """An optimizer for another batch size, and whether the rule that made it holds here."""

    batch_size: int
    optimizer: AbstractOptimizer | None
    """None where the rule has no answer."""
    refused: str
    """Why it has none, or empty."""
    steps: float
    """How many times as many steps see the same number of examples."""
    distortion: float
    """By what share the slope of the loss against the examples seen is smaller at the larger batch, as the rule takes the noise
    to dominate; 0 for optimizers whose steps are linear in the gradient."""
    rate_fits: bool
    """Whether the new learning rate is one at which the SDE should hold."""
    noise_dominates: bool
    """Whether the distortion is within the tolerance."""
    normal_signs: bool
    """For signs, whether they are near those of normal noise, by which the distortion is reckoned; true for the others."""

    @property
    def holds(self) -> bool:
        """Whether the curve of the loss against the examples seen should stay as it is."""
        return self.optimizer is not None and self.rate_fits and self.noise_dominates and self.normal_signs


class Advice(NamedTuple):
    """What [`advise`][] returns. `jaxsde.reporting.advice_text` puts it into words."""

    optimizer: AbstractOptimizer
    batch_size: int | None
    report: NoiseReport
    kind: str
    """Which of the report's numbers by optimizer are this one's."""
    theory_rate: float
    """The largest learning rate at which the SDE should hold, within the report's tolerance."""
    stable_rate: float
    """The learning rate beyond which the mean oscillates and grows in the steepest direction, were the loss a quadratic. The
    steps of signs are bounded, and grow no more."""
    floor: float
    """How far above its minimum the noise would keep the loss at the optimizer's learning rate, were the loss a quadratic and
    the noise as it is here."""
    scaling: Scaling | None
    """For the batch size that was asked about."""

    @property
    def signal_to_noise(self) -> float:
        """Of all parameters: the norm of the gradient over that of the noise."""
        return self.report.whole.signal_to_noise

    @property
    def heavy_tails(self) -> bool:
        """Whether the tail of the noise leaves its variance unsure, on which all optimizers but those of signs depend."""
        return self.report.whole.tail_index < _HEAVY_TAIL


def advise(
    problem: Problem,
    params: PyTree,
    opt: AbstractOptimizer,
    *,
    batch_size: int | None = None,
    key: Key | None = None,
    draws: int = 256,
    tolerance: float = 0.1,
    progress: bool = True,
) -> Advice:
    """Says what the gradient noise at a point of training means for an optimizer: which regime this is, up to which learning
    rate its theory holds and up to which it is stable, where noise will keep the loss, and how to change the batch size.

    All of it follows from one [`noise_report`][] and is a reading of a linear theory at one point:

    - Theory holds up to $2 \\epsilon / \\lambda$, with the tolerance $\\epsilon$ and the largest curvature $\\lambda$ of the
      preconditioned loss; for momentum $1 - \\beta$ times that, as its steps add up.
    - A quadratic is stable up to $2 / \\lambda$; with Adam's mean gradient up to $\\frac{1 + \\beta_1}{1 - \\beta_1} \\frac
      2\\lambda$, with momentum up to $(1 + \\beta) \\frac2\\lambda$ (from the recursion of x and m, whose roots lie in the unit
      disc then).
    - The floor of the loss is $\\frac\\eta4 \\sum_i \\sigma_i^2 / P_i$ with the preconditioner P of the report, and
      $\\frac\\eta4 \\sum_i P_i$ for signs, to first order in $\\eta$ and without weight decay (the stationary laws of SGD,
      of SignSGD by Lemma 3.7, and of RMSprop and Adam: compagnoni2025). It is in proportion to $\\eta$; with the batch B it
      falls as 1/B for SGD and as $1/\\sqrt B$ for the others.
    - Another batch size takes the hyperparameters of `jaxsde.theory.scaled`. For signs and adaptive methods the rule takes the
      noise to dominate. Where it does not, the slope of the loss against the examples seen changes. With the gradient g and
      the variance $\\sigma^2$ at the present batch, it is at $\\delta$ times that
      $\\sum_i g_i^2 / \\sqrt{\\delta g_i^2 + \\sigma_i^2}$ for adaptive methods, and
      $\\sum_i g_i\\,\\mathrm{erf}(\\sqrt{\\delta / 2}\\,g_i / \\sigma_i) / \\sqrt\\delta$ for signs. The experiment
      `advice` tries it on real data.

    **Arguments:**

    - `problem`: a [`Problem`][]; of mini-batches where `batch_size` is given.
    - `params`: the parameters, best from the middle of training: at its start the gradient is larger.
    - `opt`: SGD, Momentum, SignSGD, RMSprop(W) or Adam(W), with the hyperparameters that it has for the problem's own batch.
    - `batch_size`: another batch size to move to.
    - `key`, `draws`, `tolerance`, `progress`: as in [`noise_report`][].

    **Returns:** an [`Advice`][].

    **Raises:** `ValueError` or `TypeError` for other optimizers, for arguments that don't fit, and where `batch_size` is given
    for a problem without batches.

    >>> import jax.numpy as jnp, jaxsde as js
    >>> line = js.Problem(js.Quadratic([1.0, 4.0]), js.Gaussian(0.1))
    >>> round(advise(line, jnp.ones(2), js.SGD(0.01)).stable_rate, 3)
    0.5
    """
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    _checks.eager("advise", problem, params, opt, key)
    kind, piled, damping = _response(opt)
    batch = batch_of(problem)
    if batch_size is not None:
        batch_size = _checks.count("batch_size", batch_size)
        if batch is None:
            raise ValueError(
                f"batch_size is for problems of mini-batches, and {type(problem.noise).__name__} noise knows none: "
                "jaxsde.theory.scaled takes the ratio of two batches"
            )
    report = noise_report(problem, params, key=key, draws=draws, tolerance=tolerance, progress=progress)
    steepest = report.curvature[kind]
    return Advice(
        optimizer=opt,
        batch_size=batch,
        report=report,
        kind=kind,
        theory_rate=report.learning_rate[kind] / piled,
        stable_rate=2 * damping / steepest if steepest else math.inf,
        floor=float(opt.rate) * piled * report.floor[kind],
        scaling=None if batch_size is None or batch is None else _scaling(opt, kind, report, batch, batch_size),
    )


def batch_of(problem: Problem) -> int | None:
    """The batch size of a problem; None where it has no batches."""
    holder = getattr(problem.noise, "batches", problem.noise)
    return getattr(holder, "batch_size", None)


class _Response(NamedTuple):
    """How an optimizer's steps answer to gradients."""

    kind: str
    """Which of a report's preconditioners is its own."""
    piled: float = 1.0
    """How many times its learning rate it moves by each gradient, in the end."""
    damping: float = 1.0
    """How many times as large a learning rate a mean of gradients keeps stable on a quadratic."""


def _of_momentum(opt: Any) -> _Response:
    return _Response("SGD", piled=1 / (1 - float(opt.momentum)), damping=1 + float(opt.momentum))


def _of_adam(opt: Any) -> _Response:
    return _Response(_ADAPTIVE, damping=(1 + float(opt.b1)) / (1 - float(opt.b1)))


# An optimizer that is not here is refused: a subclass may do anything with what it inherits.
_RESPONSES: dict[type[AbstractOptimizer], Callable[[Any], _Response]] = {
    SGD: lambda opt: _Response("SGD"),
    Momentum: _of_momentum,
    SignSGD: lambda opt: _Response(_SIGN),
    RMSprop: lambda opt: _Response(_ADAPTIVE),
    RMSpropW: lambda opt: _Response(_ADAPTIVE),
    Adam: _of_adam,
    AdamW: _of_adam,
}


def _response(opt: AbstractOptimizer) -> _Response:
    _checks.instance("opt", opt, AbstractOptimizer, "an optimizer such as jaxsde.SGD(0.01)")
    if type(opt) not in _RESPONSES:
        known = ", ".join(kind.__name__ for kind in _RESPONSES)
        raise ValueError(f"advice is for {known}, got {opt.called}")
    return _RESPONSES[type(opt)](opt)


def _scaling(opt: AbstractOptimizer, kind: str, report: NoiseReport, batch: int, batch_size: int) -> Scaling:
    ratio = batch_size / batch
    # Divided by noise that is 1 / sqrt(ratio) times as large, the loss is sqrt(ratio) times as steep.
    largest = report.learning_rate[kind] / (1.0 if kind == "SGD" else math.sqrt(ratio))
    try:
        new, refused = scaled(opt, ratio), ""
    except ValueError as error:
        new, refused = None, str(error)
    small, large = (_slope(kind, report, delta) for delta in sorted((1.0, ratio)))
    distortion = 1 - large / small if small else 0.0
    mean_sign = math.sqrt(2 / math.pi) * report.whole.signal_to_noise
    return Scaling(
        batch_size=batch_size,
        optimizer=new,
        refused=refused,
        steps=1 / ratio,
        distortion=distortion,
        rate_fits=new is not None and float(new.rate) * _response(new).piled <= largest,
        noise_dominates=distortion <= report.tolerance,
        normal_signs=kind != _SIGN or not report.whole.sign_gap > _NORMAL * mean_sign,
    )


def _slope(kind: str, report: NoiseReport, ratio: float) -> float:
    """How fast the loss falls with the examples seen at a batch `ratio` times this one, up to a factor."""
    g, variance = (np.asarray(of, float) for of in (report.gradient, report.variance))
    if kind == _ADAPTIVE:
        size = np.sqrt(ratio * g**2 + variance)
        return float(np.sum(np.divide(g**2, size, out=np.zeros_like(g), where=size > 0)))
    if kind == _SIGN:
        moved = variance > 0
        certain, unsure = np.abs(g[~moved]), np.sqrt(ratio / (2 * variance[moved])) * g[moved]
        return float(np.sum(certain) + np.sum(g[moved] * scipy.special.erf(unsure))) / math.sqrt(ratio)
    return 1.0
