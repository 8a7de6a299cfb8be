"""Learning-rate schedules: which converge, and how fast."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import theory
from ...optimizers import SGD, SignSGD
from ...problems import Problem, Quadratic, StudentT
from .._measure import along, quadratic
from .._statement import Budget, Finding, below, equal, exponent, statement

_SECTION = "Lemmas on schedulers"


def _scheduled(kind: Any, power: float, rate: float) -> Any:
    return kind(theory.power_schedule(power, rate), reference_rate=rate)


def _late(
    kind: Any, power: float, problem: Problem, budget: Budget, number: int, rate: float = 0.05, steps: int = 16_000
) -> Any:
    """The loss over the last decade and a half of a scheduled run."""
    opt = _scheduled(kind, power, rate)
    functions = {"loss": problem.loss}
    every = steps // 64
    run = along(opt.chain(problem), np.zeros(1), functions, steps=steps, every=every, seeds=budget.seeds(2000), number=number)
    late = slice(16, None, 8)
    return run.ts[late], run["loss"].mean[late], run["loss"].stderr[late]


@statement("schedules", 7, _SECTION, "SGD, eta_t = (t + 1)^{-1/2}: E S_t falls as eta_t")
def sgd_with_an_inverse_square_root_schedule(budget: Budget) -> Finding:
    ts, loss, stderr = _late(SGD, 0.5, quadratic([1.0], 1.0), budget, 700)
    return exponent(-0.5, ts + 1, loss, stderr, 0.05)


@statement("schedules", 7, _SECTION, "SignSGD, eta_t = (t + 1)^{-1/2}: E S_t falls as eta_t")
def sign_sgd_with_an_inverse_square_root_schedule(budget: Budget) -> Finding:
    ts, loss, stderr = _late(SignSGD, 0.5, quadratic([1.0], 1.0), budget, 701)
    return exponent(-0.5, ts + 1, loss, stderr, 0.05)


@statement("schedules", 7, "compagnoni2026", "SignSGD under Cauchy noise, eta_t = (t + 1)^{-1/2}: converges as eta_t")
def sign_sgd_with_a_schedule_under_cauchy_noise(budget: Budget) -> Finding:
    problem = Problem(Quadratic([1.0]), StudentT(1.0, 1.0))
    ts, loss, stderr = _late(SignSGD, 0.5, problem, budget, 702)
    return exponent(-0.5, ts + 1, loss, stderr, 0.05)


@statement("schedules", 7, _SECTION, "SignSGD, eta_t = 1 / (t + 1), c = 2 sqrt(2 / pi) mu / sigma > 1: E S_t falls as 1 / t")
def sign_sgd_with_an_inverse_schedule(budget: Budget) -> Finding:
    ts, loss, stderr = _late(SignSGD, 1.0, quadratic([2.0], 0.5), budget, 703)
    return exponent(-1.0, ts + 1, loss, stderr, 0.05)


@statement("schedules", 7, _SECTION, "SGD, eta_t = 1 / (t + 1), c = 2 mu = 1/2 < 1: E S_t falls as t^{-1/2}")
def sgd_with_an_inverse_schedule_too_slow_for_its_curvature(budget: Budget) -> Finding:
    problem, rate = quadratic([0.25], 0.05), 0.05
    opt = _scheduled(SGD, 1.0, rate)
    run = along(
        opt.chain(problem), np.ones(1), {"loss": problem.loss}, steps=16_000, every=250, seeds=budget.seeds(500), number=704
    )
    late = slice(16, None, 8)
    return exponent(-0.5, run.ts[late] + 1, run["loss"].mean[late], run["loss"].stderr[late], 0.05)


@statement("schedules", 7, _SECTION, "SGD, eta_t = (t + 1)^{-2}: no convergence, E X_t -> exp(-phi^1_inf H) x0", quick=True)
def sgd_with_a_schedule_that_stops_too_soon(budget: Budget) -> Finding:
    problem, rate = quadratic([1.0], 0.1), 0.01
    opt = _scheduled(SGD, 2.0, rate)
    steps = 20_000
    run = along(
        opt.chain(problem), np.ones(1), {"x": lambda x: x}, steps=steps, every=steps, seeds=budget.seeds(500), number=705
    )
    phi = theory.schedule_integrals(opt, jnp.array([steps * rate]))[0]
    return equal(
        np.exp(-float(np.asarray(phi)[0])), run["x"].mean[-1], run["x"].stderr[-1], "to O(learning rate)", rounding=5e-3
    )


@statement("schedules", 7, _SECTION, "E S_t <= exp(-2 mu A_t) (S_0 + eta L_tau / 2 int exp(2 mu A_s) eta_s^2 ds), SignSGD")
def scheduled_loss_bound_of_sign_sgd(budget: Budget) -> Finding:
    problem, x0 = quadratic([1.0, 2.0], 1.0), np.array([0.6, 0.3])
    opt = _scheduled(SignSGD, 0.5, 0.01)
    run = along(opt.sde(problem), x0, {"loss": problem.loss}, steps=2000, every=100, seeds=budget.seeds(2000), number=706)
    bound = theory.schedule_loss_bound(opt, problem, x0, run.ts).loss
    return below(np.asarray(bound)[1:], run["loss"].mean[1:], run["loss"].stderr[1:], rounding=1e-4)


@statement(
    "schedules", 7, _SECTION, "SGD on a quadratic: E X_t = exp(-phi^1_t H) x0, dm2 = -2 H eta_t m2 dt + eta eta_t^2 sigma^2 dt"
)
def scheduled_moments_of_sgd(budget: Budget) -> Finding:
    problem, x0, rate = quadratic([1.0, 2.0], 1.0), np.array([0.6, 0.3]), 0.01
    opt = _scheduled(SGD, 0.5, rate)
    run = along(
        opt.sde(problem), x0, {"xx": lambda x: x**2}, steps=400, every=100, seeds=budget.seeds(1000), number=707, substeps=8
    )
    law = theory.schedule_moments(opt, problem, x0, run.ts)
    second = np.asarray(law.mean) ** 2 + np.diagonal(np.asarray(law.covariance), axis1=1, axis2=2)
    return equal(second[1:], run["xx"].mean[1:], run["xx"].stderr[1:], "to the solver's step", rounding=2e-3)
