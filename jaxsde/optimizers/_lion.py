"""Signum and Lion, signs of averaged gradients: the Optax transforms and the SDEs."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._special import SIGN_SLOPE
from ..problems import Gaussian, Problem, Signs, sign_law
from ..processes import SDE, ChainState, Instant
from ._base import (
    AbstractOptimizer,
    LearningRate,
    as_hyperparameter,
    as_rates,
    check_covariance,
    check_problem,
    gradient_whitening,
    position,
)
from ._roles import Roles

_MODELS = ("fresh", "slow", "ode")
_ROLES = Roles(normalised=True)


class LionState(NamedTuple):
    """State of the SDE of Lion or Signum: parameters and the mean gradient, shaped alike."""

    x: PyTree
    m: PyTree


class SignNoise(NamedTuple):
    """Two Brownian motions, each shaped like the parameters: the gradient's noise, and that of its sign beside it."""

    gradient: PyTree
    sign: PyTree


class Signum(AbstractOptimizer):
    """Signum, the sign of a mean gradient: $m_{k+1} = \\beta_1 m_k + (1 - \\beta_1) g_k$,
    $x_{k+1} = x_k - \\eta\\,\\mathrm{sign}(m_{k+1})$ from $m_0 = 0$.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `b1`: $\\beta_1$ in [0, 1); with 0 it is SignSGD.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    The scaling rule is SignSGD's and leaves $\\beta_1$ as it is, which keeps the law where noise dominates and the gradient
    changes little within $1 / (1 - \\beta_1)$ steps.

    >>> Signum(learning_rate=0.5).transform().init(jnp.zeros(1))[0].ema.tolist()
    [0.0]
    """

    models: ClassVar[tuple[str, ...]] = _MODELS
    roles: ClassVar[Roles | None] = _ROLES
    learning_rate: Any
    b1: Float[Array, ""]
    reference_rate: Float[Array, ""] | None

    def __init__(self, learning_rate: LearningRate, b1: ArrayLike = 0.9, *, reference_rate: ArrayLike | None = None):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.b1 = as_hyperparameter("b1", b1, low=0.0, high=1.0, closed="low")

    def transform(self) -> optax.GradientTransformation:
        """`optax.ema` without bias correction, which changes no sign, `optax.scale_by_sign`, and the learning rate: as
        `optax.signum`."""
        return optax.chain(
            optax.ema(self.b1, debias=False), optax.scale_by_sign(), optax.scale_by_learning_rate(self.learning_rate)
        )

    def sde(self, problem: Problem, model: str = "fresh") -> SDE:
        """The SDE of Signum on `problem`; see [`Lion.sde`][], with $\\beta_2 = \\beta_1$ and $\\theta = 0$: its step takes the
        sign of the mean that it keeps."""
        return _sde(self, _Hyperparameters(self.b1, self.b1, jnp.zeros(()), "ema"), problem, model)


class Lion(AbstractOptimizer):
    """Lion, $x_{k+1} = x_k - \\eta\\,\\big(\\mathrm{sign}(\\beta_1 m_k + (1 - \\beta_1) g_k) + \\theta x_k\\big)$,
    $m_{k+1} = \\beta_2 m_k + (1 - \\beta_2) g_k$ from $m_0 = 0$.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `b1`, `b2`: $\\beta_1, \\beta_2$ in [0, 1).
    - `weight_decay`: $\\theta \\ge 0$, decoupled.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    The scaling rule is SignSGD's, with $\\theta$ scaled as that of AdamW, and leaves $\\beta_1$ and $\\beta_2$ as they are;
    see [`Signum`][].

    >>> Lion(learning_rate=0.1, b2=1.0)
    Traceback (most recent call last):
    ValueError: b2 must lie in [0, 1), got 1.0
    """

    models: ClassVar[tuple[str, ...]] = _MODELS
    roles: ClassVar[Roles | None] = _ROLES._replace(decays=("weight_decay",))
    learning_rate: Any
    b1: Float[Array, ""]
    b2: Float[Array, ""]
    weight_decay: Float[Array, ""]
    reference_rate: Float[Array, ""] | None

    def __init__(
        self,
        learning_rate: LearningRate,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.99,
        weight_decay: ArrayLike = 1e-3,
        *,
        reference_rate: ArrayLike | None = None,
    ):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.b1 = as_hyperparameter("b1", b1, low=0.0, high=1.0, closed="low")
        self.b2 = as_hyperparameter("b2", b2, low=0.0, high=1.0, closed="low")
        self.weight_decay = as_hyperparameter("weight_decay", weight_decay, low=0.0, closed="low")

    def transform(self) -> optax.GradientTransformation:
        """`optax.lion`."""
        return optax.lion(self.learning_rate, b1=self.b1, b2=self.b2, weight_decay=self.weight_decay)

    def sde(self, problem: Problem, model: str = "fresh") -> SDE:
        """The SDE of Lion on `problem` (all of it derived here).

        With $\\rho = (1 - \\beta_2) / \\eta$ and $\\eta_t$ the schedule relative to the reference rate, from $M_0 = 0$:

        **Arguments:** `model`:

        - `"fresh"`: the sign is that of a stochastic gradient about $A = \\nabla f(X) + \\frac{\\beta_1}{1 - \\beta_1} M$, as
          $\\beta_1 m + (1 - \\beta_1) g$ is $(1 - \\beta_1)(A + Z)$ given $x$ and $m$. For Gaussian noise with independent
          coordinates of standard deviations $\\sigma$, with $a = A / \\sigma$, $s = \\mathrm{Erf}(a / \\sqrt2)$ and
          $c = \\sqrt{2 / \\pi}\\,e^{-a^2 / 2}$:
          $dX = -\\eta_t (s + \\theta X)\\,dt - \\eta_t \\sqrt\\eta \\big(c\\,dW + \\sqrt{1 - s^2 - c^2}\\,dW'\\big)$,
          $dM = \\rho (\\nabla f(X) - M)\\,dt + \\sqrt\\eta\\,\\rho\\,\\sigma\\,dW$. The step and the mean share the
          gradient's noise, $E[Z\\,\\mathrm{sign}(A + Z)] = c\\,\\sigma$: without that, the stationary variance on a quadratic
          falls short by 15 to 40 %. With $\\beta_1 = 0$, X has SignSGD's SDE.
        - `"slow"`: $dX = -\\eta_t (\\mathrm{sign}(M) + \\theta X)\\,dt$, and the same $dM$ for noise of any law with a
          covariance: for Signum as $\\beta_1 \\to 1$ at constant $\\rho$. Its drift jumps, so that no theorem gives an order.
          Lion has it only if $\\beta_1$ tends to 1 faster than $\\beta_2$ does; at $\\beta_1 = 0.9, \\beta_2 = 0.99$ and
          $\\eta = 0.02$ its stationary variance on a quadratic is three times the optimizer's.
        - `"ode"`: the drift of the first alone, for noise whose signs have a law, of which it takes the mean sign.

        An average over few steps is no diffusion: M has the variance $\\sigma^2 (1 - \\beta_2) / 2$ where the optimizer's
        mean has $\\sigma^2 (1 - \\beta_2) / (1 + \\beta_2)$.

        The noise of the first is a pair of Brownian motions, W and W'.

        **Raises:** `ValueError` for another model; for `"fresh"` where the noise is not Gaussian with independent coordinates;
        for `"slow"` where it has no covariance; for `"ode"` where its signs have no law.
        """
        return _sde(self, _Hyperparameters(self.b1, self.b2, self.weight_decay, "mu"), problem, model)


class _Hyperparameters(eqx.Module):
    """Those of Lion, of which Signum is a case, and the name of the mean gradient in the transform's state."""

    b1: Array
    b2: Array
    weight_decay: Array
    mean: str = eqx.field(static=True)


def _sde(optimizer: Signum | Lion, numbers: _Hyperparameters, problem: Problem, model: str) -> SDE:
    check_problem(problem)
    optimizer.check_model(model)
    name = type(optimizer).__name__
    if model == "fresh" and not (type(problem.noise) is Gaussian and problem.noise.independent):
        raise ValueError(
            f"model='fresh' needs the joint law of the gradient noise and of the step's sign, and is there for Gaussian noise "
            f"with independent coordinates; got {type(problem.noise).__name__} noise. model='slow' takes any with a covariance"
        )
    if model == "slow":
        check_covariance(problem, name)
    if model == "ode":
        sign_law(problem.noise, f"{name}'s SDE")
    by_model = {"fresh": _fresh, "slow": _slow, "ode": _ode}
    return SDE(
        statistics=eqx.Partial(_statistics, problem, model),
        coefficients=eqx.Partial(by_model[model], optimizer, numbers, problem),
        position=position,
        state_from_chain=eqx.Partial(_state_from_chain, numbers),
        chain=optimizer.chain(problem),
        start_steps=0,
        model=model,
        noise_like=_both_noises if model == "fresh" else None,
        whiten=gradient_whitening(problem) if model == "slow" else None,
    )


class _Statistics(NamedTuple):
    gradient: PyTree
    root: Any
    x: PyTree


def _statistics(problem: Problem, model: str, x: PyTree) -> _Statistics:
    return _Statistics(problem.gradient(x), None if model == "ode" else problem.noise.sqrt_covariance(x), x)


def _fresh(
    optimizer: Signum | Lion, numbers: _Hyperparameters, problem: Problem, now: Instant, y: LionState, statistics: _Statistics
) -> tuple[LionState, Any]:
    noise: Any = problem.noise
    location = _location(numbers, y, statistics)
    signs = noise.signs(location, y.x)
    drift = _drift(optimizer, numbers, now, y, statistics, signs.mean)
    shared = jax.tree.map(_shared, location, noise.sqrt_covariance(y.x)(jax.tree.map(jnp.ones_like, y.x)))
    rate, eta = optimizer.relative_rate(now.step), optimizer.rate
    return drift, eqx.Partial(
        _diffusion, rate * jnp.sqrt(eta), _into_the_mean(optimizer, numbers), signs, shared, statistics.root
    )


def _slow(
    optimizer: Signum | Lion, numbers: _Hyperparameters, problem: Problem, now: Instant, y: LionState, statistics: _Statistics
) -> tuple[LionState, Any]:
    drift = _drift(optimizer, numbers, now, y, statistics, jax.tree.map(jnp.sign, y.m))
    return drift, eqx.Partial(_slow_diffusion, _into_the_mean(optimizer, numbers), statistics.root)


def _ode(
    optimizer: Signum | Lion, numbers: _Hyperparameters, problem: Problem, now: Instant, y: LionState, statistics: _Statistics
) -> tuple[LionState, None]:
    law = sign_law(problem.noise, f"{type(optimizer).__name__}'s SDE")
    mean = law.mean_sign(_location(numbers, y, statistics), y.x)
    return _drift(optimizer, numbers, now, y, statistics, mean), None


def _location(numbers: _Hyperparameters, y: LionState, statistics: _Statistics) -> PyTree:
    """What the step adds the fresh noise to, in the units of the gradient."""
    weight = numbers.b1 / (1 - numbers.b1)
    return jax.tree.map(lambda g, m: g + weight * m, statistics.gradient, y.m)


def _drift(
    optimizer: Signum | Lion, numbers: _Hyperparameters, now: Instant, y: LionState, statistics: _Statistics, sign: PyTree
) -> LionState:
    rate, rho = optimizer.relative_rate(now.step), (1 - numbers.b2) / optimizer.rate
    return LionState(
        jax.tree.map(lambda s, x: -rate * (s + numbers.weight_decay * x), sign, y.x),
        jax.tree.map(lambda g, m: rho * (g - m), statistics.gradient, y.m),
    )


def _shared(location: Array, std: Array) -> Array:
    """$c = E[z\\,\\mathrm{sign}(a + z)]$ for standard normal z; 0 where there is no noise."""
    ratio = location / jnp.where(std > 0, std, 1)
    return jnp.where(std > 0, SIGN_SLOPE.astype(location.dtype) * jnp.exp(-0.5 * ratio * ratio), 0)


def _into_the_mean(optimizer: Signum | Lion, numbers: _Hyperparameters) -> Array:
    return (1 - numbers.b2) / jnp.sqrt(optimizer.rate)


def _diffusion(scale: Array, into_m: Array, signs: Signs, shared: PyTree, root: Any, dw: SignNoise) -> LionState:
    deviation = signs.sqrt_covariance(jax.tree.map(jnp.ones_like, dw.sign))

    def dx(std: Array, c: Array, w: Array, u: Array) -> Array:
        return -scale * (c * w + jnp.sqrt(jnp.maximum(std * std - c * c, 0)) * u)

    noise = jax.tree.map(lambda z: into_m * z, root(dw.gradient))
    return LionState(jax.tree.map(dx, deviation, shared, dw.gradient, dw.sign), noise)


def _slow_diffusion(into_m: Array, root: Any, dw: PyTree) -> LionState:
    noise = jax.tree.map(lambda z: into_m * z, root(dw))
    return LionState(jax.tree.map(jnp.zeros_like, noise), noise)


def _both_noises(y: LionState) -> SignNoise:
    return SignNoise(y.x, y.x)


def _state_from_chain(numbers: _Hyperparameters, state: ChainState) -> LionState:
    return LionState(state.x, optax.tree.get(state.transform, numbers.mean))
