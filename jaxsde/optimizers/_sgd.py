"""SGD: the Optax transform and the SDE."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..problems import Problem
from ..processes import SDE, Instant
from ._base import (
    AbstractOptimizer,
    LearningRate,
    as_rates,
    check_covariance,
    check_problem,
    diffusion_of_a_step,
    gradient_whitening,
    itself,
    parameters,
)
from ._roles import Roles


class SGD(AbstractOptimizer):
    """Stochastic gradient descent, $x_{k+1} = x_k - \\eta g_k$.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for rates out of range, or arrays of them; `TypeError` for what is no real number, or a schedule
    that JAX cannot trace.

    >>> SGD(learning_rate=0.5).transform().update(jnp.ones(1), (optax.EmptyState(),) * 2)[0].tolist()
    [-0.5]
    """

    models: ClassVar[tuple[str, ...]] = ("compagnoni", "second-order", "ode")
    roles: ClassVar[Roles | None] = Roles(svag=True)
    learning_rate: Any
    reference_rate: Float[Array, ""] | None

    def __init__(self, learning_rate: LearningRate, *, reference_rate: ArrayLike | None = None):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)

    def transform(self) -> optax.GradientTransformation:
        """`optax.sgd`."""
        return optax.sgd(self.learning_rate)

    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The SDE of SGD on `problem`.

        **Arguments:** `model`:

        - `"compagnoni"`: $dX = -\\eta_t \\nabla f(X)\\,dt + \\eta_t \\sqrt{\\eta}\\,\\Sigma(X)^{1/2} dW$, a weak
          approximation of order 1 (li2019), with $\\eta_t$ the schedule relative to the reference rate.
        - `"second-order"`: $dX = -\\nabla \\big(f + \\frac\\eta4 \\|\\nabla f\\|^2\\big)(X)\\,dt +
          \\sqrt{\\eta}\\,\\Sigma(X)^{1/2} dW$, of weak order 2 (li2019). Its drift takes a product with the Hessian. With
          a schedule it is $-\\eta_t (\\nabla f + \\frac{\\eta \\eta_t}2 \\nabla^2 f\\,\\nabla f)$, and the noise $\\eta_t$
          times as large.
        - `"ode"`: the drift of the first alone, which is of weak order 1 as well.

        **Raises:** `ValueError` for another model or noise without a covariance.
        """
        check_problem(problem)
        self.check_model(model)
        if model != "ode":
            check_covariance(problem, "SGD")
        return SDE(
            statistics=eqx.Partial(_statistics, problem, model),
            coefficients=eqx.Partial(_coefficients, self),
            position=itself,
            state_from_chain=parameters,
            chain=self.chain(problem),
            start_steps=0,
            model=model,
            whiten=gradient_whitening(problem),
        )


class _Statistics(NamedTuple):
    gradient: PyTree
    root: Any
    along: PyTree | None
    """The Hessian times the gradient, for the drift of second order."""


def _statistics(problem: Problem, model: str, x: PyTree) -> _Statistics:
    gradient, along = problem.gradient(x), None
    if model == "second-order":
        along = jax.jvp(problem.gradient, (x,), (gradient,))[1]
    return _Statistics(gradient, None if model == "ode" else problem.noise.sqrt_covariance(x), along)


def _coefficients(sgd: SGD, now: Instant, x: PyTree, statistics: _Statistics) -> tuple[PyTree, Any]:
    rate = sgd.relative_rate(now.step)
    gradient = statistics.gradient
    if statistics.along is not None:
        gradient = jax.tree.map(lambda g, h: g + 0.5 * sgd.rate * rate * h, gradient, statistics.along)
    drift = jax.tree.map(lambda g: -rate * g, gradient)
    if statistics.root is None:
        return drift, None
    return drift, eqx.Partial(diffusion_of_a_step, rate * jnp.sqrt(sgd.rate), statistics.root)
