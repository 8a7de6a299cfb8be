"""How hyperparameters scale with the batch size."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import theory
from ...optimizers import SGD, Adam, AdamW, RMSpropW, SignSGD
from .._measure import along, quadratic, settled_covariance
from .._statement import Budget, Finding, Verdict, equal, statement

_SEEDS = 500


def _laws(opt: Any, scaled: Any, ratio: float, sigma: float, budget: Budget, number: int) -> tuple[Any, Any]:
    """Stationary variances at the reference batch, and with the scaled optimizer at a batch `ratio` times as large."""
    reference, larger = quadratic([1.0], sigma), quadratic([1.0], sigma / np.sqrt(ratio))
    seeds = budget.seeds(_SEEDS)
    return (
        settled_covariance(opt.chain(reference), np.zeros(1), seeds=seeds, number=number),
        settled_covariance(scaled.chain(larger), np.zeros(1), seeds=seeds, number=number + 1),
    )


def _unchanged(opt: Any, ratio: float, sigma: float, budget: Budget, number: int, rounding: float, note: str = "") -> Finding:
    (a, da), (b, db) = _laws(opt, theory.scaled(opt, ratio), ratio, sigma, budget, number)
    return equal(a, b, np.hypot(da, db), note, rounding=rounding)


@statement("scaling", 8, "linear rule", "SGD, batch x 4, eta x 4: the stationary law is unchanged, to O(eta)")
def linear_rule_for_sgd(budget: Budget) -> Finding:
    return _unchanged(SGD(0.005), 4.0, 1.0, budget, 820, 3e-3)


@statement("scaling", 8, "from eta sigma", "SignSGD, batch x 4, eta x 2: the stationary law is unchanged, to O(eta)")
def square_root_rule_for_sign_sgd(budget: Budget) -> Finding:
    return _unchanged(SignSGD(0.002), 4.0, 1.0, budget, 822, 2e-3)


@statement(
    "scaling", 9, "Malladi et al. 2022", "Adam, batch x 4: eta x 2, 1 - b x 4: the stationary law is unchanged, to O(eta)"
)
def square_root_rule_for_adam(budget: Budget) -> Finding:
    return _unchanged(Adam(0.005, b1=0.9, b2=0.999), 4.0, 1.0, budget, 824, 4e-3)


@statement("scaling", 8, "Lemma 3.13", "AdamW, batch x 4: eta x 2, theta x 2, 1 - b x 4: the law is unchanged, to O(eta)")
def square_root_rule_for_adamw(budget: Budget) -> Finding:
    return _unchanged(AdamW(0.005, b1=0.9, b2=0.999, weight_decay=0.5), 4.0, 1.0, budget, 826, 4e-3)


@statement(
    "scaling",
    8,
    "the rule without the decay",
    "AdamW, batch x 4, theta unscaled: the law is unchanged",
    expected=Verdict.FAILS,
    quick=True,
)
def square_root_rule_without_the_decay(budget: Budget) -> Finding:
    opt = AdamW(0.005, b1=0.9, b2=0.999, weight_decay=0.5)
    scaled: Any = theory.scaled(opt, 4.0)
    unscaled = AdamW(scaled.learning_rate, b1=scaled.b1, b2=scaled.b2, eps=scaled.eps, weight_decay=0.5)
    (a, da), (b, db) = _laws(opt, unscaled, 4.0, 1.0, budget, 828)
    return equal(a, b, np.hypot(da, db), "the decay has to be scaled too", rounding=4e-3)


@statement("scaling", 8, "Lemma 3.13", "RMSpropW, batch x 4: the loss against steps / 4 is unchanged, to O(eta)")
def curves_of_rmspropw_against_rescaled_time(budget: Budget) -> Finding:
    opt, sigma = RMSpropW(0.0025, 0.995, initial_scale=4.0, weight_decay=0.5), 2.0
    curves = []
    for i, (ratio, tx) in enumerate(((1.0, opt), (4.0, theory.scaled(opt, 4.0)))):
        problem = quadratic([1.0, 2.0], sigma / np.sqrt(ratio))
        steps = round(1600 / ratio)
        functions = {"loss": problem.loss}
        chain = tx.chain(problem)
        x0 = jnp.array([0.4, -0.3])
        run = along(chain, x0, functions, steps=steps, every=steps // 4, seeds=budget.seeds(10_000), number=830 + i)
        curves.append((run["loss"].mean[1:], run["loss"].stderr[1:]))
    (a, da), (b, db) = curves
    return equal(a, b, np.hypot(da, db), rounding=8e-3)
