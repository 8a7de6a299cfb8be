"""SignSGD: the Optax transform and the SDE."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _checks
from ..problems import Problem
from ..processes import SDE
from ._base import AbstractOptimizer, LearningRate, as_learning_rate, as_reference_rate, check_rates, itself, parameters


class SignSGD(AbstractOptimizer):
    """SignSGD, $x_{k+1} = x_k - \\eta\\,\\mathrm{sign}(g_k)$.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for rates out of range.

    >>> SignSGD(learning_rate=0.5).transform().update(jnp.array([3.0]), (optax.EmptyState(),) * 2)[0].tolist()
    [-0.5]
    """

    learning_rate: Any
    reference_rate: Float[Array, ""] | None

    def __init__(self, learning_rate: LearningRate, *, reference_rate: ArrayLike | None = None):
        self.learning_rate = as_learning_rate(learning_rate)
        self.reference_rate = as_reference_rate(reference_rate)

    def __check_init__(self):
        check_rates(self)

    def transform(self) -> optax.GradientTransformation:
        """`optax.sign_sgd`."""
        return optax.sign_sgd(self.learning_rate)

    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The SDE of SignSGD on `problem`.

        **Arguments:** `model`:

        - `"compagnoni"`: $dX = -\\eta_t s(X)\\,dt + \\eta_t \\sqrt{\\eta}\\,\\sqrt{1 - s(X)^2}\\,dW$ with
          $s = E\\,\\mathrm{sign}(g) = 1 - 2 P(g < 0)$ per coordinate, for noise of any law with independent coordinates
          (Theorem 3.2); $s = \\mathrm{Erf}(\\nabla f / (\\sqrt 2 \\sigma))$ for Gaussian noise (Corollary 3.3), twice the
          centred t-CDF for Student-t noise. With $\\eta_t$ the schedule relative to the reference rate.
        - `"ode"`: its drift alone.

        **Raises:** `ValueError` for another model, or noise with correlated coordinates, under which the covariance of
        the signs is not diagonal.
        """
        _checks.choice("model", model, ("compagnoni", "ode"))
        if model != "ode" and not problem.noise.independent:
            raise ValueError(
                "SignSGD's SDE needs gradient noise with independent coordinates: with correlated ones the signs are "
                "correlated too and the diffusion is a full matrix, which is not available. Use Gaussian(scale) for "
                'the diagonal of the covariance, model="ode", or SignSGD\'s chain, which runs with any noise'
            )
        return SDE(
            statistics=eqx.Partial(_mean_sign, problem),
            coefficients=eqx.Partial(_coefficients, self, model),
            position=itself,
            from_chain=parameters,
            chain=self.chain(problem),
            start_steps=0,
        )


def _mean_sign(problem: Problem, x: PyTree) -> PyTree:
    return problem.noise.mean_sign(problem.gradient(x), x)


def _coefficients(sign_sgd: SignSGD, model: str, t: Array, x: PyTree, mean_sign: PyTree) -> tuple[PyTree, Any]:
    rate = sign_sgd.relative_rate(t)
    drift = jax.tree.map(lambda s: -rate * s, mean_sign)
    if model == "ode":
        return drift, None
    return drift, eqx.Partial(_diffusion, rate * jnp.sqrt(sign_sgd.rate), mean_sign)


def _diffusion(scale: Array, mean_sign: PyTree, dw: PyTree) -> PyTree:
    # A sign is 1 or -1, so its variance is one minus its squared mean; rounding must not make that negative.
    return jax.tree.map(lambda s, z: -scale * jnp.sqrt(jnp.maximum(1 - s * s, 0)) * z, mean_sign, dw)
