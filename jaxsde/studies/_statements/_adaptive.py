"""RMSprop(W) and Adam(W): moments, bounds and orders."""

import functools

import jax.numpy as jnp
import numpy as np

from ... import theory
from ...estimation import WeakError, weak_error
from ...optimizers import Adam, AdamW, RMSprop, RMSpropW
from .. import _sweeps
from .._measure import Measured, along, coupled, end, key, quadratic, settled_covariance
from .._statement import Budget, Finding, Verdict, below, equal, first_order, statement, weak_order

_LINEAR = Verdict.HOLDS_TO_FIRST_ORDER
# Decays that keep their time scale as the learning rate changes: one minus them over the learning rate.
_RHO = 2.0


def _rmspropw(rate: float, theta: float = 0.5, scale: float = 1.0) -> RMSpropW:
    return RMSpropW(rate, 1 - _RHO * rate, initial_scale=scale**2, weight_decay=theta)


def _adamw(rate: float, theta: float = 0.5, b1_rho: float = 20.0) -> AdamW:
    return AdamW(rate, b1=1 - b1_rho * rate, b2=1 - _RHO * rate, weight_decay=theta)


@statement(
    "rmsprop",
    8,
    "Theorem on RMSprop's SDE",
    "f = x^2 / 2, sigma = 0.1, V_0 = 1: E x at t = 2 follows the chain's .0650",
    quick=True,
)
def rmsprop_where_the_signal_dominates(budget: Budget) -> Finding:
    opt, problem = RMSprop(1e-3, 0.999, initial_scale=1.0), quadratic([1.0], 0.1)
    chain = end(opt.chain(problem), [1.0], steps=2000, seeds=budget.seeds(4000), number=800)
    sde = end(opt.sde(problem), [1.0], steps=2000, seeds=budget.seeds(4000), number=801, substeps=2)
    error = np.hypot(chain.mean_stderr, sde.mean_stderr)
    return equal(chain.mean, sde.mean, error, "the optimizer's is the claim, the SDE's is measured", rounding=5e-3)


@statement(
    "rmsprop", 8, "RMSprop's SDE", "coupled 3x3: A C + C A' = eta P^-1 Sigma P^-1, P = diag(Sigma)^{1/2}", expected=_LINEAR
)
def stationary_covariance_of_rmspropw(budget: Budget) -> Finding:
    problem = coupled()
    scale = float(np.sqrt(np.mean(np.diag(np.asarray(problem.noise.covariance(jnp.zeros(3)))))))

    def measure(rate: float):
        opt = _rmspropw(rate, scale=scale)
        return settled_covariance(opt.chain(problem), np.zeros(3), seeds=budget.seeds(600), number=802)

    return first_order(0.02, lambda rate: theory.stationary(_rmspropw(rate), problem).covariance, measure)


@statement("rmsprop", 8, "RMSprop's SDE", "the SDE itself, coupled 3x3: the same Lyapunov equation", expected=_LINEAR)
def stationary_covariance_of_rmspropws_sde(budget: Budget) -> Finding:
    problem = coupled()
    scale = float(np.sqrt(np.mean(np.diag(np.asarray(problem.noise.covariance(jnp.zeros(3)))))))

    def measure(rate: float):
        opt = _rmspropw(rate, scale=scale)
        return settled_covariance(opt.sde(problem), np.zeros(3), seeds=budget.seeds(128), number=803, substeps=2)

    return first_order(0.02, lambda rate: theory.stationary(_rmspropw(rate), problem).covariance, measure)


@statement("rmsprop", 8, "RMSprop's SDE", "stationary Cov = (eta / 2) Sigma^{1/2} H^-1", expected=_LINEAR)
def stationary_covariance_of_rmsprop(budget: Budget) -> Finding:
    problem = quadratic([1.0, 2.0], 1.5)

    def measure(rate: float):
        opt = RMSprop(rate, 1 - _RHO * rate, initial_scale=1.5**2)
        return settled_covariance(opt.chain(problem), np.zeros(2), seeds=budget.seeds(600), number=804)

    return first_order(0.02, lambda rate: rate / 2 * 1.5 * np.diag([1.0, 0.5]), measure)


@statement("rmsprop", 8, "RMSpropW, noise dominates", "E X_t = exp(-(H Sigma^{-1/2} + theta) t) x0", expected=_LINEAR)
def mean_of_rmspropw_along_the_way(budget: Budget) -> Finding:
    problem, x0, t = quadratic([1.0, 2.0], 4.0), np.array([0.2, -0.2]), 1.0

    def measure(rate: float):
        steps = round(t / rate)
        chain = _rmspropw(rate, scale=4.0).chain(problem)
        run = along(chain, x0, {"x": lambda x: x}, steps=steps, every=steps, seeds=budget.seeds(60_000), number=805)
        return run["x"].mean[-1], run["x"].stderr[-1]

    return first_order(0.02, lambda rate: np.exp(-(np.array([1.0, 2.0]) / 4 + 0.5) * t) * x0, measure)


@statement("adam", 8, "Lemma C.52", "stationary Cov of Adam = (eta / 2) Sigma^{1/2} H^-1", expected=_LINEAR)
def stationary_covariance_of_adam(budget: Budget) -> Finding:
    problem = quadratic([1.0, 2.0], 1.5)

    def measure(rate: float):
        opt = Adam(rate, b1=1 - 20 * rate, b2=1 - _RHO * rate)
        return settled_covariance(opt.chain(problem), np.zeros(2), seeds=budget.seeds(600), number=806)

    return first_order(0.01, lambda rate: rate / 2 * 1.5 * np.diag([1.0, 0.5]), measure)


@functools.cache
def _c57(b1: float, budget: Budget, number: int) -> tuple[float, float, Measured]:
    """Lemma C.57's variance, the corrected one, and the measured one, at lambda = sigma = 1, eta = 5e-3, theta = 1/2."""
    rate, theta, problem = 5e-3, 0.5, quadratic([1.0], 1.0)
    opt = AdamW(rate, b1=b1, b2=0.999, weight_decay=theta)
    measured = settled_covariance(opt.chain(problem), np.zeros(1), seeds=budget.seeds(500), number=number)
    lemma = rate / 2 / (1 + theta)
    rho = (1 - b1) / rate
    return lemma, lemma * rho / (rho + theta), measured


@statement(
    "adam", 8, "Lemma C.57", "AdamW, b1 = 0.99: Cov = (eta / 2) (H Sigma^{-1/2} + theta)^-1", expected=Verdict.FAILS, quick=True
)
def lemma_c57_with_slow_momentum(budget: Budget) -> Finding:
    lemma, _, measured = _c57(0.99, budget, 807)
    return equal(lemma, *measured, "it lacks the factor rho1 / (rho1 + theta) = 0.8", rounding=1e-2)


@statement("adam", 8, "Lemma C.57, corrected", "AdamW, b1 = 0.99: the same times rho1 / (rho1 + theta)", quick=True)
def stationary_variance_of_adamw_with_slow_momentum(budget: Budget) -> Finding:
    _, corrected, measured = _c57(0.99, budget, 807)
    return equal(corrected, *measured, "up to 1 %, the terms of the order of the learning rate", rounding=2e-3)


@statement("adam", 8, "Lemma C.57, corrected", "AdamW, b1 = 0.9: (eta / 2) (H Sigma^{-1/2} + theta)^-1 rho1 / (rho1 + theta)")
def stationary_variance_of_adamw_with_fast_momentum(budget: Budget) -> Finding:
    _, corrected, measured = _c57(0.9, budget, 808)
    return equal(corrected, *measured, "up to 1 %, the terms of the order of the learning rate", rounding=2e-3)


@statement("adam", 8, "linear SDE of (X, M)", "AdamW, coupled 3x3: Lyapunov equation of (X, M)", expected=_LINEAR)
def stationary_covariance_of_adamw(budget: Budget) -> Finding:
    problem = coupled()

    def measure(rate: float):
        return settled_covariance(_adamw(rate).chain(problem), np.zeros(3), seeds=budget.seeds(600), number=809)

    return first_order(0.01, lambda rate: theory.stationary(_adamw(rate), problem).covariance, measure)


@statement("adam", 8, "Theorem 3.12", "AdamW's SDE, coupled 3x3: the same Lyapunov equation", expected=_LINEAR)
def stationary_covariance_of_adamws_sde(budget: Budget) -> Finding:
    problem = coupled()

    def measure(rate: float):
        return settled_covariance(_adamw(rate).sde(problem), np.zeros(3), seeds=budget.seeds(128), number=810, substeps=2)

    return first_order(0.01, lambda rate: theory.stationary(_adamw(rate), problem).covariance, measure)


@statement(
    "adam",
    8,
    "Theorem 3.12 as quoted",
    "Adam's SDE without the newest gradient's noise in dX, b1 = 0.9",
    expected=Verdict.FAILS,
)
def adams_sde_with_the_look_ahead_in_the_drift_alone(budget: Budget) -> Finding:
    opt, problem = AdamW(5e-3, b1=0.9, b2=0.999, weight_decay=0.5), quadratic([1.0], 1.0)
    chain, _ = settled_covariance(opt.chain(problem), np.zeros(1), seeds=budget.seeds(200), number=811)
    sde = opt.sde(problem, model="compagnoni-drift")
    measured = settled_covariance(sde, np.zeros(1), seeds=budget.seeds(200), number=812)
    return equal(chain, *measured, "claimed is the optimizer's; what is missing is the factor b1^2 = 0.81", rounding=1e-2)


def _decay_loss(name: str, budget: Budget) -> Finding:
    sweep = _sweeps.decays(budget.factor)
    series = sweep.series[name]
    note = f"at sigma = {', '.join(f'{s:g}' for s in sweep.scales)}: {np.array2string(series.values, precision=4)}"
    return equal(series.theory(sweep.scales), series.values, series.stderr, note, rounding=8e-3)


@statement(
    "adam",
    8,
    "Lemma C.57, corrected",
    "AdamW's loss (eta / 4) Tr[H (H Sigma^{-1/2} + theta)^-1] rho1 / (rho1 + theta) saturates",
)
def loss_of_adamw_against_noise(budget: Budget) -> Finding:
    return _decay_loss("AdamW", budget)


@statement("adam", 8, "coupled weight decay", "(eta / 4) Tr[H Sigma^{1/2} (H + theta)^-1] grows linearly in sigma")
def loss_of_coupled_l2_against_noise(budget: Budget) -> Finding:
    return _decay_loss("Adam with coupled L2", budget)


@statement("rmsprop", 8, "Lemma 3.13", "E S_t <= S_0 exp(-rt) + floor, r = 2 mu / sigma + theta (L + mu) / L")
def loss_bound_of_rmspropw(budget: Budget) -> Finding:
    problem, opt = quadratic([1.0, 2.0], 4.0), _rmspropw(0.01, scale=4.0)
    x0 = np.array([0.4, -0.4])
    run = along(opt.chain(problem), x0, {"loss": problem.loss}, steps=400, every=20, seeds=budget.seeds(10_000), number=813)
    bound = theory.loss_bound(opt, problem, x0, run.ts).loss[1:]
    return below(bound, run["loss"].mean[1:], run["loss"].stderr[1:], rounding=1e-3)


@functools.cache
def _orders(optimizer: str, model: str, factor: float) -> WeakError:
    # Little noise, so that its own error and V's distance from zero are not what is seen; V follows the gradient within
    # the time of comparison.
    opt, start_time, seeds = {
        "rmsprop": (RMSprop(0.1, 0.9, initial_scale=0.5), None, 50_000),
        "adam": (Adam(0.1, b1=0.6, b2=0.9), 0.4, 40_000),
    }[optimizer]
    return weak_error(
        opt, quadratic([1.0], 0.3), jnp.array([1.0]), T=1.2, learning_rates=(0.1, 0.05, 0.025), key=key(814),
        test_functions={"x^2": lambda x: jnp.sum(x**2), "x": lambda x: jnp.sum(x)},
        seeds=Budget(factor).seeds(seeds), model=model, start_time=start_time, progress=False,
    )  # fmt: skip


def _order(run: WeakError, claimed: float, name: str) -> Finding:
    return weak_order(claimed, run.learning_rates, run[name], 0.3)


@statement("rmsprop", 8, "RMSprop's SDE", "weak error C eta at rho = (1 - beta) / eta constant")
def order_of_rmsprops_sde(budget: Budget) -> Finding:
    return _order(_orders("rmsprop", "compagnoni", budget.factor), 1.0, "x^2")


@statement("rmsprop", 10, "after Callisti, Romito, Triggiano 2025", "second-order SDE of RMSprop: weak error C eta^2")
def order_of_rmsprops_second_order_sde(budget: Budget) -> Finding:
    return _order(_orders("rmsprop", "second-order", budget.factor), 2.0, "x")


@statement("adam", 8, "Theorem 3.12", "weak error C eta at rho_1, rho_2 constant")
def order_of_adams_sde(budget: Budget) -> Finding:
    return _order(_orders("adam", "compagnoni", budget.factor), 1.0, "x^2")


@statement("adam", 10, "after Callisti, Romito, Triggiano 2025", "second-order SDE of Adam: weak error C eta^2")
def order_of_adams_second_order_sde(budget: Budget) -> Finding:
    return _order(_orders("adam", "second-order", budget.factor), 2.0, "x^2")
