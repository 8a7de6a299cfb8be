"""SignSGD: the Optax transform and the SDE."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..problems import AbstractSignLaw, Problem, Signs, sign_deviation, sign_law
from ..processes import SDE, Instant
from ._base import AbstractOptimizer, LearningRate, as_rates, check_problem, itself, parameters

# A sign of a smaller standard deviation is all but certain: the other sign has a probability below 1/400.
_OPEN = 0.1


class SignSGD(AbstractOptimizer):
    """SignSGD, $x_{k+1} = x_k - \\eta\\,\\mathrm{sign}(g_k)$.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for rates out of range, or arrays of them; `TypeError` for what is no real number, or a schedule
    that JAX cannot trace.

    >>> SignSGD(learning_rate=0.5).transform().update(jnp.array([3.0]), (optax.EmptyState(),) * 2)[0].tolist()
    [-0.5]
    """

    models: ClassVar[tuple[str, ...]] = ("compagnoni", "ode")
    learning_rate: Any
    reference_rate: Float[Array, ""] | None

    def __init__(self, learning_rate: LearningRate, *, reference_rate: ArrayLike | None = None):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)

    def transform(self) -> optax.GradientTransformation:
        """`optax.sign_sgd`."""
        return optax.sign_sgd(self.learning_rate)

    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The SDE of SignSGD on `problem`.

        **Arguments:** `model`:

        - `"compagnoni"`: $dX = -\\eta_t s(X)\\,dt + \\eta_t \\sqrt{\\eta}\\,\\sqrt{1 - s(X)^2}\\,dW$ with
          $s = E\\,\\mathrm{sign}(g)$ per coordinate, $1 - 2 P(g < 0)$ where g is never 0, for noise of any law with
          independent coordinates (Theorem 3.2); $s = \\mathrm{Erf}(\\nabla f / (\\sqrt 2 \\sigma))$ for Gaussian noise
          (Corollary 3.3), twice the centred t-CDF for Student-t noise. Where g may be 0, $P(g \\ne 0)$ stands for the 1 under
          the root. With correlated coordinates the signs are correlated too, and in place of the root stands that of their
          full covariance, at $\\nabla f = 0$ equal to $\\frac2\\pi \\arcsin$ of the correlations. With $\\eta_t$ the schedule
          relative to the reference rate.
        - `"ode"`: its drift alone.

        **Raises:** `ValueError` for another model, or noise whose signs have no law.
        """
        check_problem(problem)
        self.check_model(model)
        law = _sign_law(problem)
        return SDE(
            statistics=eqx.Partial(_signs, problem),
            coefficients=eqx.Partial(_coefficients, self, model),
            position=itself,
            from_chain=parameters,
            chain=self.chain(problem),
            start_steps=0,
            noise_like=law.sign_increments_like,
            innovation=eqx.Partial(_innovation, problem) if problem.noise.independent else None,
        )


def _sign_law(problem: Problem) -> AbstractSignLaw:
    return sign_law(problem.noise, "SignSGD's SDE")


def _signs(problem: Problem, x: PyTree) -> Signs:
    return _sign_law(problem).signs(problem.gradient(x), x)


def _coefficients(sign_sgd: SignSGD, model: str, now: Instant, x: PyTree, signs: Signs) -> tuple[PyTree, Any]:
    rate = sign_sgd.relative_rate(now.step)
    drift = jax.tree.map(lambda s: -rate * s, signs.mean)
    if model == "ode":
        return drift, None
    return drift, eqx.Partial(_diffusion, rate * jnp.sqrt(sign_sgd.rate), signs.sqrt_covariance)


def _diffusion(scale: Array, root: Callable[[PyTree], PyTree], dw: PyTree) -> PyTree:
    return jax.tree.map(lambda z: -scale * z, root(dw))


def _innovation(problem: Problem, x: PyTree, gradient: PyTree) -> PyTree:
    """The sign of a stochastic gradient, minus its mean, over its standard deviation.

    Where the sign is all but certain, the sign of the noise is used instead, which has mean 0 and variance 1 for any symmetric
    law. The exact law of a control counts a variance of 1 at every step, whatever the past; that of an all but certain sign
    would come from draws too rare to be seen.
    """

    def standardised(g: Array, f: Array, mean: Array, nonzero: Array) -> Array:
        deviation = sign_deviation(mean, nonzero)
        open_ = deviation > _OPEN
        return jnp.where(open_, (jnp.sign(g) - mean) / jnp.where(open_, deviation, 1), jnp.sign(g - f))

    mean_gradient = problem.gradient(x)
    return jax.tree.map(standardised, gradient, mean_gradient, *_sign_law(problem).sign_moments(mean_gradient, x))
