"""The earlier SDEs of adaptive methods, and what separates them."""

import numpy as np

from ...optimizers import Adam, RMSprop
from .._measure import end, quadratic, settled_covariance
from .._statement import Budget, Finding, Verdict, equal, statement

_MALLADI = "Malladi et al. 2022"


@statement(
    "rmsprop",
    9,
    _MALLADI,
    "without (grad f)^2 in dV: E x at t = 2 where the signal dominates",
    expected=Verdict.FAILS,
    quick=True,
)
def malladis_sde_where_the_signal_dominates(budget: Budget) -> Finding:
    opt, problem = RMSprop(1e-3, 0.999, initial_scale=1.0), quadratic([1.0], 0.1)
    chain = end(opt.chain(problem), [1.0], steps=2000, seeds=budget.seeds(4000), number=900)
    sde = end(opt.sde(problem, model="malladi"), [1.0], steps=2000, seeds=budget.seeds(4000), number=901, substeps=2)
    error = np.hypot(chain.mean_stderr, sde.mean_stderr)
    return equal(chain.mean, sde.mean, error, "the optimizer's is the claim", rounding=5e-3)


@statement("adam", 9, _MALLADI, "the same SDE where noise dominates: stationary Cov = (eta / 2) Sigma^{1/2} H^-1")
def malladis_sde_where_noise_dominates(budget: Budget) -> Finding:
    rate = 1e-2
    opt, problem = Adam(rate, b1=0.9, b2=0.99), quadratic([1.0], 2.0)
    sde = opt.sde(problem, model="malladi")
    measured = settled_covariance(sde, np.zeros(1), seeds=budget.seeds(100), number=902)
    return equal(rate / 2 * 2.0, *measured, rounding=2e-3)


@statement("rmsprop", 9, f"{_MALLADI}, warm-up", "noise dominates: x_k ~ N(x0 - k eta g / sigma, k eta^2)")
def noise_dominated_warm_up(budget: Budget) -> Finding:
    rate, steps, sigma, x0 = 1e-3, 100, 10.0, 1.0
    opt, problem = RMSprop(rate, 0.999, initial_scale=sigma**2), quadratic([1.0], sigma)
    run = end(opt.chain(problem), [x0], steps=steps, seeds=budget.seeds(200_000), number=903)
    return equal(steps * rate**2, run.variance, run.variance_stderr, "the variance", rounding=3e-3)
