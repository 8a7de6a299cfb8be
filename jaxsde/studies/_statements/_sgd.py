"""SGD: moments, bound, and the orders of its SDEs."""

import functools

import jax.numpy as jnp
import numpy as np

from ... import theory
from ...estimation import WeakError, weak_error
from ...optimizers import SGD
from .._measure import HESSIAN, START, along, coupled, end, key, plain_covariance, quadratic, settled_covariance, settled_loss
from .._statement import Budget, Finding, Verdict, below, equal, exponent, first_order, statement, weak_order

_LI = "SDE of order 1 (Li, Tai, E 2019)"
_LINEAR = Verdict.HOLDS_TO_FIRST_ORDER


@statement("sgd", 2, _LI, "E X_t = exp(-Ht) x0", expected=_LINEAR)
def mean_of_sgd_along_the_way(budget: Budget) -> Finding:
    problem, t = coupled(), 0.8

    def measure(rate: float):
        run = end(SGD(rate).chain(problem), START, steps=round(t / rate), seeds=budget.seeds(200_000), number=200)
        return run.mean, run.mean_stderr

    return first_order(0.08, lambda rate: theory.moments(SGD(rate), problem, START, jnp.array([t])).mean[0], measure)


@statement("sgd", 2, _LI, "Cov X_t = int_0^t exp(-Hs) eta Sigma exp(-Hs) ds", expected=_LINEAR)
def covariance_of_sgd_along_the_way(budget: Budget) -> Finding:
    problem, t = coupled(), 0.8

    def measure(rate: float):
        steps = round(t / rate)
        return plain_covariance(SGD(rate).chain(problem), START, steps=steps, seeds=budget.seeds(400_000), number=201)

    return first_order(0.08, lambda rate: theory.moments(SGD(rate), problem, START, jnp.array([t])).covariance[0], measure)


@statement("sgd", 2, "exact recursion", "discrete SGD, h = 2: Var = eta sigma^2 / (h (2 - eta h))", quick=True)
def stationary_variance_of_discrete_sgd(budget: Budget) -> Finding:
    rate, h, sigma = 0.1, 2.0, 0.7
    run = end(SGD(rate).chain(quadratic([h] * 8, sigma)), np.zeros(8), steps=60, seeds=budget.seeds(40_000), number=202)
    pooled = run.variance.mean(), run.variance_stderr[0] / np.sqrt(8)
    return equal(rate * sigma**2 / (h * (2 - rate * h)), *pooled, "eight independent coordinates pooled")


@statement("sgd", 2, "Lyapunov equation", "SDE, coupled 3x3: H C + C H = eta Sigma")
def stationary_covariance_of_sgds_sde(budget: Budget) -> Finding:
    opt, problem = SGD(0.05), coupled()
    measured = settled_covariance(opt.sde(problem), np.zeros(3), seeds=budget.seeds(20_000), number=203)
    return equal(theory.stationary(opt, problem).covariance, *measured)


@statement("sgd", 2, "Lemma 3.8", "E f = (eta / 4) Tr Sigma", expected=_LINEAR)
def stationary_loss_of_sgd(budget: Budget) -> Finding:
    problem = coupled()
    trace = float(np.trace(np.asarray(problem.noise.covariance(jnp.zeros(3)))))

    def measure(rate: float):
        return settled_loss(SGD(rate).chain(problem), np.zeros(3), seeds=budget.seeds(10_000), number=204)

    return first_order(0.08, lambda rate: rate / 4 * trace, measure)


@statement("sgd", 2, "Lemma 3.6", "E S_t <= S_0 exp(-2 mu t) + eta L_tau sigma^2 / (4 mu) (1 - exp(-2 mu t))")
def loss_bound_of_sgd(budget: Budget) -> Finding:
    opt, problem = SGD(0.02), coupled()
    run = along(
        opt.sde(problem), START, {"loss": problem.loss}, steps=200, every=10, seeds=budget.seeds(4000), number=205, substeps=4
    )
    return below(theory.loss_bound(opt, problem, START, run.ts).loss[1:], run["loss"].mean[1:], run["loss"].stderr[1:])


@functools.cache
def _orders(model: str, factor: float) -> WeakError:
    x0 = jnp.array([1.0, -0.5])
    hessian = jnp.asarray(HESSIAN[:2, :2], float)
    rates = (0.2, 0.1, 0.05, 0.025)
    functions = {"norm^4": lambda x: jnp.sum(x**2) ** 2, "x[0]": lambda x: x[0]}
    return weak_error(
        SGD(0.1), quadratic(hessian, 1.0), x0, T=1.0, learning_rates=rates, key=key(206), test_functions=functions,
        seeds=Budget(factor).seeds(2000), model=model, progress=False,
    )  # fmt: skip


def _order(run: WeakError, claimed: float) -> Finding:
    return weak_order(claimed, run.learning_rates, run["x[0]"], 0.15)


@statement("sgd", 2, _LI, "weak error of the SDE = C eta")
def order_of_sgds_sde(budget: Budget) -> Finding:
    return _order(_orders("compagnoni", budget.factor), 1.0)


@statement("sgd", 2, "order 2 (Li, Tai, E 2019)", "drift -grad(f + eta/4 |grad f|^2): weak error C eta^2", quick=True)
def order_of_sgds_second_order_sde(budget: Budget) -> Finding:
    return _order(_orders("second-order", budget.factor), 2.0)


@statement("sgd", 1, "one-step moments", "the ODE without noise is of weak order 1 as well")
def order_of_gradient_flow(budget: Budget) -> Finding:
    run = _orders("compagnoni", budget.factor)
    error = run["norm^4"]
    assert error.ode is not None
    larger = np.abs(error.ode / error.modelling)[-1]
    note = f"so an order proves nothing about the noise; the ODE's constant is {larger:.3g} times the SDE's"
    return exponent(1.0, run.learning_rates, np.abs(error.ode), error.modelling_stderr, 0.15, note)
