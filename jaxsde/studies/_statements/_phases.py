"""SignSGD's three phases: the constants, the idealised dynamics and the loss bounds."""

from math import erf

import numpy as np

from ... import theory
from ...optimizers import SignSGD
from .._measure import along, quadratic, sign_moments
from .._statement import Budget, Finding, Verdict, below, equal, statement

_LEMMA = "Lemma 3.4"
_UNIT = [1.0, 1.0, 1.0]


def _noise_power(y: np.ndarray, seeds: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and variance of the sign of a gradient with |Y| as given, Gaussian noise of unit variance."""
    mean, stderr, covariance, errors = sign_moments(quadratic(_UNIT, 1.0), np.sqrt(2) * y, seeds, number)
    return mean, stderr, np.diag(covariance), np.diag(errors)


@statement("sign_sgd", 4, _LEMMA, "Phase 1, |Y| > 3/2: dX = -sign(grad f) dt, to within 1 - erf(3/2) = .0339")
def drift_in_phase_1(budget: Budget) -> Finding:
    y = np.array([1.5, 1.7, -2.0])
    mean, stderr, _, _ = _noise_power(y, budget.seeds(400_000), 400)
    return below(np.full(3, 1 - erf(1.5)), np.abs(np.sign(y) - mean), stderr, "the error of the idealised drift", rounding=1e-3)


@statement("sign_sgd", 4, _LEMMA, "Phase 2: m |Y| + q1 <= |drift| <= m |Y| + q2", quick=True)
def drift_in_phase_2(budget: Budget) -> Finding:
    y = np.array([1.1, 1.25, -1.4])
    mean, stderr, _, _ = _noise_power(y, budget.seeds(4_000_000), 401)
    c = theory.phase_2_constants()
    low = below(np.abs(mean), c.slope * np.abs(y) + c.secant_intercept, stderr, "lower bound over the drift")
    high = below(c.slope * np.abs(y) + c.tangent_intercept, np.abs(mean), stderr)
    return low if low.verdict == Verdict.FAILS else high


@statement("sign_sgd", 4, _LEMMA, "Phase 2: noise power <= 1 - (m |Y| + q)^2 with q-hat = max(q1, q2)", expected=Verdict.FAILS)
def noise_power_in_phase_2_with_q_hat(budget: Budget) -> Finding:
    y = np.array([1.02, 1.48, -1.02])
    _, _, power, stderr = _noise_power(y, budget.seeds(1_000_000), 402)
    c = theory.phase_2_constants()
    return below(1 - (c.slope * np.abs(y) + c.tangent_intercept) ** 2, power, stderr, "only q1 gives a bound")


@statement("sign_sgd", 4, f"{_LEMMA}, corrected", "Phase 2: noise power <= 1 - (m |Y| + q1)^2")
def noise_power_in_phase_2(budget: Budget) -> Finding:
    y = np.array([1.02, 1.25, -1.48])
    _, _, power, stderr = _noise_power(y, budget.seeds(1_000_000), 403)
    c = theory.phase_2_constants()
    return below(1 - (c.slope * np.abs(y) + c.secant_intercept) ** 2, power, stderr)


@statement("sign_sgd", 4, _LEMMA, "Phase 3, taken as an identity at |Y| = 1: drift (2 / sqrt pi) Y", expected=Verdict.FAILS)
def linear_drift_at_the_edge_of_phase_3(budget: Budget) -> Finding:
    y = np.ones(3)
    mean, stderr, _, _ = _noise_power(y, budget.seeds(200_000), 404)
    return equal(2 / np.sqrt(np.pi) * y, mean, stderr, "a linearisation at 0, not an identity")


@statement("sign_sgd", 4, _LEMMA, "Phase 3 at |Y| = 0.05: drift (2 / sqrt pi) Y, noise power 1 - (4 / pi) Y^2")
def linear_drift_in_phase_3(budget: Budget) -> Finding:
    y = np.array([0.05, -0.05, 0.05])
    mean, stderr, power, errors = _noise_power(y, budget.seeds(4_000_000), 405)
    claimed = np.concatenate([2 / np.sqrt(np.pi) * y, 1 - 4 / np.pi * y**2])
    return equal(claimed, np.concatenate([mean, power]), np.concatenate([stderr, np.maximum(errors, 1e-6)]), rounding=1e-4)


@statement("sign_sgd", 4, _LEMMA, "Phase 3's noise power 1 - (4 / pi) Y^2 is a power at |Y| = 0.95", expected=Verdict.FAILS)
def linear_noise_power_at_the_edge_of_phase_3(budget: Budget) -> Finding:
    y = np.full(3, 0.95)
    _, _, power, errors = _noise_power(y, budget.seeds(200_000), 406)
    return equal(1 - 4 / np.pi * y**2, power, errors, "it is negative for |Y| > sqrt(pi) / 2 and has to be clipped")


def _bound(
    phase: int, published: bool, x0: float, t: float, sigma: float, budget: Budget, number: int, note: str = ""
) -> Finding:
    opt, problem, start = SignSGD(0.002), quadratic([1.0, 2.0], sigma), np.array([x0, x0 / 2])
    steps = round(t / 0.002 / 20) * 20
    loss = {"loss": problem.loss}
    run = along(opt.sde(problem), start, loss, steps=steps, every=steps // 20, seeds=budget.seeds(4000), number=number)
    bound = theory.loss_bound(opt, problem, start, run.ts, phase=phase, published=published).loss
    return below(bound[1:], run["loss"].mean[1:], run["loss"].stderr[1:], note, rounding=1e-4)


@statement("sign_sgd", 5, "Lemma 3.5, sharpened", "Phase 1: S_t <= (sqrt S_0 - sqrt(mu / 2) t)_+^2, t* = sqrt(2 S_0 / mu)")
def loss_bound_in_phase_1(budget: Budget) -> Finding:
    # |Y| > 3/2 all along: noise of 0.02 against gradients of 0.1 and more.
    return _bound(1, False, 1.0, 0.85, 0.02, budget, 500)


@statement("sign_sgd", 5, "Lemma 3.5", "Phase 1, as published: S_t <= (sqrt(mu) t - 2 sqrt S_0)^2 / 4, t* = 2 sqrt(S_0 / mu)")
def published_loss_bound_in_phase_1(budget: Budget) -> Finding:
    return _bound(1, True, 1.0, 0.85, 0.02, budget, 501, "valid, but weaker by sqrt 2 in time")


@statement("sign_sgd", 5, "Lemma 3.5", "Phase 2 with q1: E S_t <= S_0 exp(-2 mu D t) + ...")
def loss_bound_in_phase_2(budget: Budget) -> Finding:
    return _bound(2, False, 2.0, 0.25, 1.0, budget, 502)


@statement(
    "sign_sgd", 5, "Lemma 3.5, rigorous constant", "Phase 3 with erf(1) for 2 / sqrt pi: E S_t <= S_0 exp(-2 mu D t) + ..."
)
def loss_bound_in_phase_3(budget: Budget) -> Finding:
    return _bound(3, False, 1.4, 6.0, 1.0, budget, 503)


@statement("sign_sgd", 5, "Lemma 3.5", "Phase 3 as published, from its edge |Y| = 1", expected=Verdict.FAILS)
def published_loss_bound_in_phase_3(budget: Budget) -> Finding:
    opt, problem, start = SignSGD(0.002), quadratic([1.0], 1.0), np.array([np.sqrt(2)])
    run = along(opt.sde(problem), start, {"loss": problem.loss}, steps=400, every=20, seeds=budget.seeds(4000), number=504)
    bound = theory.loss_bound(opt, problem, start, run.ts, phase=3, published=True).loss
    return below(
        bound[1:], run["loss"].mean[1:], run["loss"].stderr[1:], "erf(y) >= (2 / sqrt pi) y does not hold", rounding=1e-4
    )
