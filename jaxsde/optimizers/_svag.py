"""SVAG: a chain that tends to the SDE without anyone knowing the noise's covariance."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array

from .. import _checks
from ..problems import AmplifiedNoise, Problem
from ..processes import Chain
from ._adjusted import adjusted, roles_of
from ._base import AbstractOptimizer, check_problem

# The small steps, l squared of them for one, are counted by an int32.
_MOST = 46_340


def svag(optimizer: AbstractOptimizer, problem: Problem, ell: int) -> Chain:
    """The chain of SVAG, "stochastic variance amplified gradient" (li2021 for SGD; malladi2022 for
    adaptive methods): l (SGD) or l^2 (adaptive) small steps for one of the optimizer's.

    Each small step takes two independent stochastic gradients, as $\\frac{1 + r}2 g_1 + \\frac{1 - r}2 g_2$, whose
    covariance is that of one of them times l with $r = \\sqrt{2 l - 1}$ for SGD, and times $l^2$ with
    $r = \\sqrt{2 l^2 - 1}$ for adaptive methods. The learning rate is divided by l; for adaptive methods $1 - \\beta$ is
    divided by $l^2$, $\\epsilon$ and the root of V's start are multiplied by l, and a decoupled weight decay is divided by
    l. With l = 1 it is the optimizer itself; as l grows it tends to an SDE: to that of SGD, and for adaptive methods to
    `model="malladi"` with `start_steps=0`, because the noise comes to outweigh the gradient in V.

    **Arguments:**

    - `optimizer`: SGD, RMSprop, RMSpropW, Adam, AdamW, or one of your own that declares `roles` with `svag`.
    - `problem`: the [`Problem`][].
    - `ell`: l, a whole number from 1 on.

    **Returns:** a [`Chain`][] of the small steps: n steps of the optimizer are n l (SGD) or n l^2 of them, and its `ts` are
    those of the optimizer and of the SDE.

    **Raises:** `ValueError` for an optimizer whose `roles` do not say that SVAG tends to its SDE, and for `ell` below 1.

    >>> from jaxsde import SGD, Gaussian, Quadratic
    >>> chain = svag(SGD(learning_rate=0.1), Problem(Quadratic([1.0]), Gaussian(0.5)), 4)
    >>> round(chain.learning_rate.item(), 4), chain.problem.noise.variance(jax.numpy.zeros(1)).tolist()
    (0.025, [1.0])
    """
    ell = _checks.count("ell", ell, most=_MOST)
    roles = roles_of(optimizer, "whether SVAG tends to an SDE is")
    if not roles.svag:
        raise ValueError(f"SVAG does not tend to an SDE of {optimizer.called}")
    check_problem(problem)
    # l small steps that are linear in the gradient add up to one of the optimizer's. A normalised step is divided by noise that
    # is l times larger, so that it takes l^2 of them.
    steps = ell * ell if roles.normalised else ell
    amplified = Problem(problem.loss, AmplifiedNoise(problem.noise, float(np.sqrt(2 * steps - 1))))
    return Chain(_Small(optimizer, ell, steps), amplified, optimizer.rate / steps)


class _Small(eqx.Module):
    """Makes the transform of the small steps."""

    optimizer: AbstractOptimizer
    ell: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __call__(self) -> Any:
        given, ell = self.optimizer, self.ell
        rates = {"learning_rate": _slower(given.learning_rate, ell, self.steps)}
        # Over all small steps, parameters decay as far as in one of the optimizer's.
        gradient, decay = float(np.sqrt(self.steps)), ell / self.steps
        return adjusted(given, rates, forgetting=1 / self.steps, gradient=gradient, decay=decay).transform()


def _slower(learning_rate: Any, ell: int, steps: int) -> Any:
    if callable(learning_rate):
        return eqx.Partial(_at_the_optimizers_step, learning_rate, ell, steps)
    return learning_rate / ell


def _at_the_optimizers_step(schedule: Callable[[Any], Any], ell: int, steps: int, count: Array) -> Array:
    return schedule(count // steps) / ell
