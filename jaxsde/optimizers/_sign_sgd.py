"""SignSGD: the Optax transform and the SDE."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _checks
from ..problems import AbstractScaleFamily, AbstractSignLaw, Gaussian, Problem, Signs, Uniform, sign_deviation, sign_law
from ..processes import SDE, Instant
from ._base import (
    AbstractOptimizer,
    LearningRate,
    as_rates,
    check_problem,
    diffusion_of_a_step,
    itself,
    parameters,
)
from ._roles import Roles

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

    models: ClassVar[tuple[str, ...]] = ("compagnoni", "second-order", "ode", "phase-1", "phase-3")
    roles: ClassVar[Roles | None] = Roles(normalised=True)
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
        - `"second-order"`: with $b = -\\eta_t s$ the drift $b - \\frac\\eta2 (b \\cdot \\nabla) b$ and the same noise, of weak
          order 2 where s is smooth (derived here, as for SGD: a step's mean is $\\eta b$, and the flow of b over a time $\\eta$
          adds the term that is taken off). For Gaussian noise and noise of constant law; uniform noise has a kink.
        - `"ode"`: the drift of the first alone.
        - `"phase-1"`: as Lemma 3.4 idealises it in Phase 1, where signal dominates: $dX = -\\eta_t\\,\\mathrm{sign}(\\nabla
          f)\\,dt$, without noise; off by at most $1 - \\mathrm{erf}(3/2) = 0.034$ there.
        - `"phase-3"`: the same in Phase 3, where noise dominates: $dX = -\\eta_t \\sqrt{2/\\pi}\\,\\Sigma^{-1/2} \\nabla
          f\\,dt + \\eta_t \\sqrt\\eta \\sqrt{1 - \\frac2\\pi (\\Sigma^{-1/2} \\nabla f)^2}\\,dW$, a linearisation at 0: at the
          phase's edge the drift is 34 % too large, and beyond $|Y| = \\sqrt\\pi / 2$, still inside the phase, the term under
          the root is negative; it is taken as 0 there. For noise of another law, $\\Sigma^{1/2}$ is its scale, and the slope
          of its mean sign at 0 replaces $\\sqrt{2/\\pi}$.

        `jaxsde.theory.phase` tells which phase a point is in. Phase 2 has bounds for its drift only,
        `jaxsde.theory.phase_2_drift_bounds`.

        **Raises:** `ValueError` for another model, or noise whose signs have no law; for the models of the phases where the
        noise is not of constant law with independent coordinates, and for `"phase-3"` where a coordinate has none; for
        `"second-order"` where the mean sign is no smooth function of the gradient alone.
        """
        check_problem(problem)
        self.check_model(model)
        law = _sign_law(problem)
        if model == "phase-1":
            _check_phase(problem, model)
            statistics, coefficients = problem.gradient, eqx.Partial(_signal, self)
        elif model == "phase-3":
            _check_phase(problem, model)
            statistics, coefficients = eqx.Partial(_linear_signs, problem), eqx.Partial(_linear, self)
        elif model == "second-order":
            _check_smooth(problem)
            statistics, coefficients = eqx.Partial(_signs_ahead, problem), eqx.Partial(_second_order, self)
        else:
            statistics, coefficients = eqx.Partial(_signs, problem), eqx.Partial(_coefficients, self, model)
        return SDE(
            statistics=statistics,
            coefficients=coefficients,
            position=itself,
            state_from_chain=parameters,
            chain=self.chain(problem),
            start_steps=0,
            model=model,
            noise_like=law.sign_increments_like,
            whiten=eqx.Partial(_whiten, problem) if problem.noise.independent else None,
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
    return drift, eqx.Partial(diffusion_of_a_step, rate * jnp.sqrt(sign_sgd.rate), signs.sqrt_covariance)


class _SignsAhead(NamedTuple):
    """The signs at a point, and the derivative of their mean along it."""

    signs: Signs
    along: PyTree


def _signs_ahead(problem: Problem, x: PyTree) -> _SignsAhead:
    signs = _signs(problem, x)
    along = jax.jvp(lambda x: _signs(problem, x).mean, (x,), (signs.mean,))[1]
    return _SignsAhead(signs, along)


def _second_order(sign_sgd: SignSGD, now: Instant, x: PyTree, at: _SignsAhead) -> tuple[PyTree, Any]:
    rate = sign_sgd.relative_rate(now.step)
    _, diffusion = _coefficients(sign_sgd, "compagnoni", now, x, at.signs)
    half = 0.5 * sign_sgd.rate * rate
    return jax.tree.map(lambda s, a: -rate * (s + half * a), at.signs.mean, at.along), diffusion


def _check_smooth(problem: Problem) -> None:
    noise = problem.noise
    if not (type(noise) is Gaussian or isinstance(noise, AbstractScaleFamily)) or isinstance(noise, Uniform):
        raise ValueError(
            "SignSGD's second-order SDE needs noise of constant law whose mean sign is smooth, Gaussian or Student-t for "
            f"instance, got {type(noise).__name__}"
        )


def _check_phase(problem: Problem, model: str) -> None:
    """Raises where Lemma 3.4's idealisation has no meaning."""
    noise = problem.noise
    if not (noise.independent and (type(noise) is Gaussian or isinstance(noise, AbstractScaleFamily))):
        raise ValueError(
            f"model={model!r} needs noise of constant law with independent coordinates, got {type(noise).__name__}"
        )
    scale = noise.scale
    if model == "phase-3" and _checks.is_concrete(scale):
        if not all(np.all(np.asarray(leaf) > 0) for leaf in jax.tree.leaves(scale)):
            raise ValueError(f"Phase 3 linearises the mean sign and needs noise in every coordinate, got the scale {scale}")


def _signal(sign_sgd: SignSGD, now: Instant, x: PyTree, gradient: PyTree) -> tuple[PyTree, None]:
    rate = sign_sgd.relative_rate(now.step)
    return jax.tree.map(lambda g: -rate * jnp.sign(g), gradient), None


def _linear_signs(problem: Problem, x: PyTree) -> PyTree:
    """The mean sign, linear in the gradient as it is at 0."""
    noise: Any = problem.noise

    def over(scale: Array, gradient: PyTree) -> PyTree:
        return jax.tree.map(lambda g: (noise.slope / scale).astype(g.dtype) * g, gradient)

    # One scale may stand for the whole gradient.
    return jax.tree.map(over, noise.scale, problem.gradient(x))


def _linear(sign_sgd: SignSGD, now: Instant, x: PyTree, mean_sign: PyTree) -> tuple[PyTree, Any]:
    rate = sign_sgd.relative_rate(now.step)
    drift = jax.tree.map(lambda s: -rate * s, mean_sign)
    return drift, eqx.Partial(_linear_diffusion, rate * jnp.sqrt(sign_sgd.rate), mean_sign)


def _linear_diffusion(scale: Array, mean_sign: PyTree, dw: PyTree) -> PyTree:
    return jax.tree.map(lambda s, z: -scale * jnp.sqrt(jnp.maximum(1 - s * s, 0)) * z, mean_sign, dw)


def _whiten(problem: Problem, x: PyTree, gradient: PyTree) -> PyTree:
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
