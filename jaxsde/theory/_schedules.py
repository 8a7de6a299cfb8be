"""Learning-rate schedules: moments and bounds along them, and which of them converge."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import _checks
from .._typing import ArrayLike
from ..optimizers import AbstractOptimizer, check_optimizer
from ..problems import Problem
from ._moments import Law
from ._setting import Setting, as_start, setting_at_reference
from ._theory import AbstractScheduledTheory, LossBound, scheduled_theory_of


class PowerVerdict(NamedTuple):
    """Whether the expected loss tends to its minimum, and as which power of time, $t^{-p}$."""

    converges: bool
    exponent: float
    logarithm: bool
    """Whether a logarithm multiplies the power."""


def power_schedule(power: float, reference_rate: float) -> Callable[[Any], Any]:
    """An Optax schedule with $\\eta_t = (t + 1)^{-\\nu}$ in the clock $t = k \\eta$, $\\eta$ the reference rate.

    **Arguments:** `power`: $\\nu \\ge 0$; `reference_rate`: $\\eta$, the rate it starts with.

    >>> round(power_schedule(0.5, 0.1)(30), 4)  # t = 3
    0.05
    """
    _checks.scalar("power", power, low=0.0, closed="low")
    _checks.scalar("reference_rate", reference_rate, low=0.0)
    return lambda count: reference_rate * (count * reference_rate + 1) ** -power


def power_verdict(opt: AbstractOptimizer, problem: Problem, power: float) -> PowerVerdict:
    """How a schedule $\\eta_t = (t + 1)^{-\\nu}$ fares on a strongly convex quadratic with noise.

    It converges iff $\\int \\eta_t = \\infty$ and $\\eta_t \\to 0$: for $\\nu$ in (0, 1) as $\\eta_t$ itself; for $\\nu = 1$ as
    $t^{-\\min(1, c)}$, with $c = 2\\mu$ for SGD and $2\\mu\\sqrt{2/\\pi} / \\sigma$ for SignSGD, and with a logarithm at $c
    = 1$; for $\\nu > 1$ and for $\\nu = 0$ not. With $\\mu$ the least eigenvalue of the Hessian and $\\sigma$ the largest
    scale of the noise, so that SignSGD's loss may fall faster than $t^{-c}$ where the scales differ; for noise of another
    law the slope of its mean sign at 0 replaces $\\sqrt{2/\\pi}$.

    **Arguments:** `opt`: SGD or SignSGD, of which the kind matters; `problem` with a `Quadratic` loss; `power`: $\\nu \\ge 0$.

    **Raises:** `ValueError` that names the assumption which fails.

    >>> import jaxsde as js
    >>> power_verdict(js.SGD(0.1), js.Problem(js.Quadratic([0.25]), js.Gaussian(1.0)), 1.0).exponent
    0.5
    """
    _checks.scalar("power", power, low=0.0, closed="low")
    theory, s = _scheduled(opt, problem)
    rate = theory.power_rate(opt, s)
    if power == 0 or power > 1:
        return PowerVerdict(False, 0.0, False)
    if power < 1:
        return PowerVerdict(True, float(power), False)
    return PowerVerdict(True, min(1.0, rate), bool(np.isclose(rate, 1, rtol=1e-6)))


def schedule_integrals(opt: AbstractOptimizer, ts: ArrayLike) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """$\\phi^1_t = \\int_0^t \\eta_s ds$ and $\\phi^2_t = \\int_0^t \\eta_s^2 ds$ of an optimizer's relative learning rate.

    The rate of a step is held until the next, as the SDE holds it: $\\eta_s$ is the schedule at the step
    $\\lfloor s / \\eta \\rfloor$, over $\\eta$.

    **Arguments:** `opt`, with a schedule or without; `ts`: times, shape `(n,)`, in the clock $t = k \\eta$.

    **Returns:** two arrays of shape `(n,)`.

    >>> import jaxsde as js
    >>> opt = js.SGD(power_schedule(0.5, 0.1), reference_rate=0.1)
    >>> [round(float(p[0]), 4) for p in schedule_integrals(opt, [3.0])]  # near 2 (sqrt 4 - 1) and log 4
    [2.0254, 1.4246]
    """
    check_optimizer(opt)
    first, second, places = _cells(opt, _times(ts))
    return tuple(np.concatenate([[0.0], np.cumsum(c)])[places] for c in (first, second))  # type: ignore[return-value]


def schedule_moments(opt: AbstractOptimizer, problem: Problem, x0: ArrayLike, ts: ArrayLike) -> Law:
    """Mean and covariance of SGD's or SignSGD's SDE along a schedule, on a diagonal quadratic.

    $E X_t - x_* = e^{-a \\phi^1_t} (x_0 - x_*)$, and the second moment $m$ follows
    $\\dot m = -2 (a \\eta_t + b \\eta_t^2) m + \\eta \\eta_t^2 q$, per coordinate: for SGD $a = \\lambda$, $b = 0$, $q =
    \\sigma^2$; for SignSGD in Phase 3 $a$ and $b$ as in Lemma 3.7, $q = 1$.

    **Arguments:** `opt`: SGD or SignSGD; `problem` with a `Quadratic` loss of a diagonal Hessian and independent noise;
    `x0`, shape `(d,)`; `ts`, shape `(n,)`.

    **Returns:** a `Law`: `.mean` `(n, d)`, `.covariance` `(n, d, d)`, `.loss` `(n,)`.

    **Raises:** `ValueError` that names the assumption which fails.

    >>> import jaxsde as js
    >>> opt = js.SGD(power_schedule(0.5, 0.1), reference_rate=0.1)
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> round(float(schedule_moments(opt, problem, jnp.ones(1), [3.0]).mean[0, 0]), 4)  # exp(-phi)
    0.1319
    """
    theory, s = _scheduled(opt, problem)
    relaxation = theory.scheduled_moments(opt, s)
    if not s.diagonal:
        raise ValueError("moments along a schedule assume a diagonal Hessian, given as a vector, and independent noise")
    x0, times = np.asarray(as_start(x0, s), float), _times(ts)
    theory.check_rate(opt, _at_largest_rate(opt, s, times))
    minimum, eta = np.asarray(s.minimum, float), float(opt.rate)
    a, b, source = relaxation
    offset = x0 - minimum
    mean = np.exp(-np.outer(schedule_integrals(opt, times)[0], a)) * offset
    variance = _relaxed(opt, times, offset**2, a, b, eta * source) - mean**2
    covariance = jax.vmap(jnp.diag)(jnp.asarray(variance, s.hessian.dtype))
    centre = jnp.asarray(mean + minimum, s.hessian.dtype)
    return Law(centre, covariance, s.loss(centre, covariance))


def schedule_loss_bound(
    opt: AbstractOptimizer, problem: Problem, x0: ArrayLike, ts: ArrayLike, *, published: bool = False
) -> LossBound:
    """An upper bound of the expected loss of SGD's or SignSGD's SDE along a schedule, on a strongly convex quadratic.

    $E S_t \\le e^{-2 A_t} \\big(S_0 + \\frac{\\eta T}2 \\int_0^t e^{2 A_s} \\eta_s^2 ds\\big)$: for SGD $A_t = \\mu
    \\phi^1_t$ and $T = \\mathcal L_\\tau \\sigma^2$; for SignSGD $A_t = \\mu\\kappa\\phi^1_t / \\sigma + \\frac\\eta2
    \\mu^2 \\kappa^2 \\phi^2_t / \\sigma^2$ and $T = \\mathcal L_\\tau$, with $\\kappa$ the slope of the mean sign's chord
    as in [`loss_bound`][], or as published $\\sqrt{2/\\pi}$, its slope at 0.

    **Arguments:** as those of [`loss_bound`][].

    **Returns:** a `LossBound`; its `.rate` and `.floor` are those at the full rate, $\\eta_t = 1$.

    **Raises:** `ValueError` that names the assumption which fails.

    >>> import jaxsde as js
    >>> opt = js.SGD(power_schedule(0.5, 0.1), reference_rate=0.1)
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0))
    >>> round(float(schedule_loss_bound(opt, problem, jnp.ones(1), [3.0]).loss[0]), 4)  # exp(-2 phi) / 2
    0.0087
    """
    theory, s = _scheduled(opt, problem)
    start, times, eta = as_start(x0, s), _times(ts), float(opt.rate)
    a, b, source = theory.scheduled_bound(opt, s, start, published)
    if not theory.bounds_hold_at_any_rate:
        theory.check_rate(opt, _at_largest_rate(opt, s, times))
    loss = np.asarray(s.loss(start, jnp.zeros_like(s.dense_hessian)), float)
    bound = _relaxed(opt, times, loss[None], np.array([a]), np.array([b]), np.array([eta * source / 2]))[:, 0]
    rate = 2 * (a + b)
    return LossBound(*(jnp.asarray(v, s.hessian.dtype) for v in (bound, rate, 0.5 * eta * source / rate)))


def _relaxed(
    opt: AbstractOptimizer, times: np.ndarray, start: np.ndarray, a: np.ndarray, b: np.ndarray, source: np.ndarray
) -> np.ndarray:
    """The solution of $\\dot m = -2 (a \\eta_t + b \\eta_t^2) m + q \\eta_t^2$ at `times`, cell by cell: no exponent ever
    grows."""
    first, second, places = _cells(opt, times)
    exponent = -2 * (np.outer(first, a) + np.outer(second, b))
    # Within a cell all is constant; (e^y - 1) / y has its limit where nothing decays.
    growth = np.divide(np.expm1(exponent), exponent, out=np.ones_like(exponent), where=exponent != 0)
    values = [start]
    for decay, gain in zip(np.exp(exponent), second[:, None] * growth * source, strict=True):
        values.append(decay * values[-1] + gain)
    return np.stack(values)[places]


def _cells(opt: AbstractOptimizer, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each cell between 0 and the last time, cut at whole steps and at `times`: its length times the relative rate, and
    times its square; and at which of the cuts the `times` are."""
    eta = float(opt.rate)
    places = times / eta
    whole = np.round(places)
    # Times that float32 has rounded are the whole steps that they stand for, where a schedule may jump.
    places = np.where(np.abs(places - whole) <= 4 * np.finfo(np.float32).eps * np.maximum(whole, 1), whole, places)
    cuts = np.union1d(np.arange(np.max(places, initial=0)), places)
    lengths = eta * np.diff(cuts)
    relative = np.ones_like(lengths)
    if opt.reference_rate is not None:
        steps = jnp.asarray(np.floor(cuts[:-1]), jnp.int32)
        relative = np.asarray(jax.vmap(opt.relative_rate)(steps), float)
    return lengths * relative, lengths * relative**2, np.searchsorted(cuts, places)


def _times(ts: ArrayLike) -> np.ndarray:
    _checks.number("ts", ts, low=0.0, closed="low")
    times = np.asarray(ts, float)
    if times.ndim != 1:
        raise ValueError(f"ts must be a vector of times, got shape {times.shape}")
    return times


def _at_largest_rate(opt: AbstractOptimizer, s: Setting, times: np.ndarray) -> Setting:
    """The setting at the largest rate of the schedule before the last of the times."""
    steps = jnp.arange(max(1, int(np.ceil(np.max(times, initial=0) / float(opt.rate)))))
    largest = jnp.max(jax.vmap(lambda k: jnp.asarray(opt.relative_rate(k)))(steps)) * opt.rate
    return s._replace(rate=largest)


def _scheduled(opt: AbstractOptimizer, problem: Problem) -> tuple[AbstractScheduledTheory, Setting]:
    """The optimizer's theory, and the setting at its constant reference rate."""
    theory = scheduled_theory_of(opt)
    return theory, setting_at_reference(opt, problem, needs_variance=theory.needs_variance)
