"""RMSprop and RMSpropW: the Optax transforms and the SDEs."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _checks
from ..problems import Problem
from ..processes import SDE, ChainState, Instant
from ._base import (
    AbstractOptimizer,
    GradientStatistics,
    LearningRate,
    as_hyperparameter,
    as_rates,
    check_covariance,
    check_problem,
    gradient_statistics,
    gradient_whitening,
    itself,
    position,
    second_moment,
)
from ._roles import Roles
from ._second_order import (
    SquareNoise,
    both_noises,
    check_square_noise,
    corrected,
    floor_second_moment,
    square_noise,
    square_whitening,
)

_MODELS = ("compagnoni", "compagnoni-full", "malladi", "second-order", "second-order-drift", "ode")
_ROLES = Roles(normalised=True, averages=("decay",), gradients=("eps",), squares=("initial_scale",), svag=True)


class RMSpropState(NamedTuple):
    """State of RMSprop's SDE: parameters and the mean square of the gradient, shaped alike."""

    x: PyTree
    v: PyTree


class RMSprop(AbstractOptimizer):
    """RMSprop, $v_{k+1} = \\beta v_k + (1 - \\beta) g_k^2$, $x_{k+1} = x_k - \\eta\\,g_k / (\\sqrt{v_{k+1}} + \\epsilon)$.

    No bias correction, and $\\epsilon$ outside the root (unlike the default of `optax.rmsprop`).

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `decay`: $\\beta$ in [0, 1).
    - `eps`: $\\epsilon \\ge 0$.
    - `initial_scale`: $v_0 \\ge 0$. From zero the first steps are up to $1 / \\sqrt{1 - \\beta}$ times as long as later
      ones; the variance of the noise is the value it settles at.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    >>> RMSprop(learning_rate=0.1, decay=0.99).decay.item() == jnp.float32(0.99)
    Array(True, dtype=bool)
    """

    models: ClassVar[tuple[str, ...]] = _MODELS
    roles: ClassVar[Roles | None] = _ROLES
    learning_rate: Any
    decay: Float[Array, ""]
    eps: Float[Array, ""]
    initial_scale: Float[Array, ""]
    reference_rate: Float[Array, ""] | None

    def __init__(
        self,
        learning_rate: LearningRate,
        decay: ArrayLike = 0.9,
        eps: ArrayLike = 1e-8,
        initial_scale: ArrayLike = 0.0,
        *,
        reference_rate: ArrayLike | None = None,
    ):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.decay = as_hyperparameter("decay", decay, low=0.0, high=1.0, closed="low")
        self.eps = as_hyperparameter("eps", eps, low=0.0, closed="low")
        self.initial_scale = as_hyperparameter("initial_scale", initial_scale, low=0.0, closed="low")

    def transform(self) -> optax.GradientTransformation:
        """`optax.scale_by_rms` with `eps` outside the root, and the learning rate."""
        return optax.chain(_scale(self), optax.scale_by_learning_rate(self.learning_rate))

    def sde(self, problem: Problem, model: str = "compagnoni", *, start_steps: int = 1) -> SDE:
        """The SDE of RMSprop on `problem`; see [`RMSpropW.sde`][], with $\\theta = 0$."""
        return _sde(self, jnp.zeros(()), problem, model, start_steps)


class RMSpropW(AbstractOptimizer):
    """RMSprop with decoupled weight decay:
    $x_{k+1} = x_k - \\eta\\,(g_k / (\\sqrt{v_{k+1}} + \\epsilon) + \\theta x_k)$, $v$ as in [`RMSprop`][].

    **Arguments:** those of [`RMSprop`][], and `weight_decay`: $\\theta \\ge 0$.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    >>> RMSpropW(learning_rate=0.1, weight_decay=-1.0)
    Traceback (most recent call last):
    ValueError: weight_decay must lie in [0, inf), got -1.0
    """

    models: ClassVar[tuple[str, ...]] = _MODELS
    roles: ClassVar[Roles | None] = _ROLES._replace(decays=("weight_decay",))
    learning_rate: Any
    decay: Float[Array, ""]
    eps: Float[Array, ""]
    initial_scale: Float[Array, ""]
    weight_decay: Float[Array, ""]
    reference_rate: Float[Array, ""] | None

    def __init__(
        self,
        learning_rate: LearningRate,
        decay: ArrayLike = 0.9,
        eps: ArrayLike = 1e-8,
        initial_scale: ArrayLike = 0.0,
        weight_decay: ArrayLike = 1e-4,
        *,
        reference_rate: ArrayLike | None = None,
    ):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.decay = as_hyperparameter("decay", decay, low=0.0, high=1.0, closed="low")
        self.eps = as_hyperparameter("eps", eps, low=0.0, closed="low")
        self.initial_scale = as_hyperparameter("initial_scale", initial_scale, low=0.0, closed="low")
        self.weight_decay = as_hyperparameter("weight_decay", weight_decay, low=0.0, closed="low")

    def transform(self) -> optax.GradientTransformation:
        """`optax.scale_by_rms` with `eps` outside the root, `optax.add_decayed_weights` and the learning rate."""
        return optax.chain(
            _scale(self),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.learning_rate),
        )

    def sde(self, problem: Problem, model: str = "compagnoni", *, start_steps: int = 1) -> SDE:
        """The SDE of RMSpropW on `problem`.

        With $\\rho = (1 - \\beta) / \\eta$, $P = \\sqrt V + \\epsilon$ and $\\eta_t$ the schedule relative to the reference
        rate:

        $dX = -\\eta_t P^{-1} (\\nabla f(X)\\,dt + \\sqrt\\eta\\,\\Sigma(X)^{1/2} dW) - \\eta_t \\theta X\\,dt$,
        $dV = \\rho\\,(\\nabla f(X)^2 + \\mathrm{diag}\\,\\Sigma(X) - V)\\,dt$.

        **Arguments:**

        - `model`: `"compagnoni"` is the above (compagnoni2025); `"malladi"` drops $\\nabla f(X)^2$ from $dV$
          (malladi2022, written in the clock $t = k \\eta$); `"ode"` is the drift of the first alone;
          `"compagnoni-full"` keeps the noise of V that the first drops, $\\sqrt\\eta \\rho (2 \\nabla f \\Sigma^{1/2} dW +
          \\sqrt 2\\,\\Sigma\\,dW')$ for Gaussian noise with independent coordinates: of order 1 as well, but nearer to the
          optimizer while the loss still falls; `"second-order"` is of weak order 2 as $\\eta \\to 0$ at constant $\\rho$:
          its drift is corrected by terms of order $\\eta$, for the flow within a step and for the denominator that has seen
          the gradient it divides, and V has that noise too (after callisti2025). It is best with `initial_scale` > 0 and
          `start_steps=0`. The noise of the last two is a pair of Brownian motions, W and W'. `"second-order-drift"` has the
          drift of the second order and the noise of `"compagnoni"`, for any noise with a covariance, mini-batches among them.
          It is of order 1, as V has no noise, and derivatives of the covariance and third moments of the noise are left out.
        - `start_steps`: how many true optimizer steps come first; after them the optimizer and the SDE have the same
          law. With $v_0 = 0$ the SDE is singular at $t = 0$.

        With $b_0$ the drift of `"ode"` and $g = \\nabla f(X)$, the drift of second order is
        $b_0 - \\frac\\eta2 (b_0 \\cdot \\nabla)\\,b_0$, and in $X$ also
        $\\eta \\rho\\,(g^3 + 3 g\\,\\mathrm{diag}\\,\\Sigma - g V) / (2 \\sqrt V P^2)$: the root that divides the gradient has
        seen it. With $v_k$ in the denominator instead, that term would be absent.

        **Raises:** `ValueError` for another model or noise without a covariance, and for `"compagnoni-full"` and
        `"second-order"` where the noise is not Gaussian with independent coordinates.
        """
        return _sde(self, self.weight_decay, problem, model, start_steps)


def _scale(optimizer: RMSprop | RMSpropW) -> optax.GradientTransformation:
    return optax.scale_by_rms(
        decay=optimizer.decay, eps=optimizer.eps, initial_scale=optimizer.initial_scale, eps_in_sqrt=False
    )


def _sde(optimizer: RMSprop | RMSpropW, weight_decay: Array, problem: Problem, model: str, start_steps: int) -> SDE:
    check_problem(problem)
    optimizer.check_model(model)
    check_covariance(problem, type(optimizer).__name__)
    common: dict[str, Any] = dict(
        position=position,
        state_from_chain=_state_from_chain,
        chain=optimizer.chain(problem),
        start_steps=_checks.count("start_steps", start_steps, least=0),
        model=model,
    )
    coefficients = eqx.Partial(_coefficients, optimizer, weight_decay, model)
    statistics = eqx.Partial(gradient_statistics, problem)
    if model not in ("compagnoni-full", "second-order", "second-order-drift"):
        whiten = gradient_whitening(problem)
        return SDE(statistics, coefficients, semi_implicit=second_moment, whiten=whiten, **common)
    if model == "second-order-drift":
        coefficients = eqx.Partial(_second_order_drift, optimizer, weight_decay, problem)
        return SDE(itself, coefficients, whiten=gradient_whitening(problem), **common)
    check_square_noise(problem, model)
    common |= dict(noise_like=both_noises, whiten=square_whitening(problem))
    if model == "compagnoni-full":
        return SDE(statistics, coefficients, semi_implicit=second_moment, **common)
    return SDE(itself, eqx.Partial(_second_order, optimizer, weight_decay, problem), **common)


def _coefficients(
    optimizer: RMSprop | RMSpropW,
    weight_decay: Array,
    model: str,
    now: Instant,
    y: RMSpropState,
    statistics: GradientStatistics,
) -> tuple[RMSpropState, Any]:
    rate, eta = optimizer.relative_rate(now.step), optimizer.rate
    rho = (1 - optimizer.decay) / eta
    full = model == "compagnoni-full"
    above = (
        floor_second_moment(y.v, optimizer.decay, now.t / eta, optimizer.initial_scale, statistics.variance) if full else y.v
    )
    denominator = jax.tree.map(lambda v: jnp.sqrt(v) + optimizer.eps, above)

    def dx(x: Array, g: Array, p: Array) -> Array:
        return -rate * (g / p + weight_decay * x)

    def dv(v: Array, g: Array, variance: Array) -> Array:
        return rho * ((variance if model == "malladi" else g * g + variance) - v)

    drift = RMSpropState(
        jax.tree.map(dx, y.x, statistics.gradient, denominator),
        jax.tree.map(dv, y.v, statistics.gradient, statistics.variance),
    )
    if model == "ode":
        return drift, None
    into_x = eqx.Partial(_diffusion, rate * jnp.sqrt(eta), denominator, statistics.root)
    if not full:
        return drift, into_x
    std = jax.tree.map(jnp.sqrt, statistics.variance)
    into_v = eqx.Partial(square_noise, eta, rho, statistics.gradient, std)
    return drift, lambda dw: into_x(dw.gradient)._replace(v=into_v(dw))


def _diffusion(scale: Array, denominator: PyTree, root: Any, dw: PyTree) -> RMSpropState:
    dx = jax.tree.map(lambda z, p: -scale * z / p, root(dw), denominator)
    return RMSpropState(dx, jax.tree.map(jnp.zeros_like, dx))


def _corrected(
    optimizer: RMSprop | RMSpropW, weight_decay: Array, problem: Problem, now: Instant, y: RMSpropState, variance: PyTree
) -> tuple[RMSpropState, PyTree, PyTree]:
    """The drift of second order at y, whose V is above 0, the gradient there, and the denominator."""
    eta, rate = optimizer.rate, optimizer.relative_rate(now.step)
    rho = (1 - optimizer.decay) / eta

    def first_order(t: Array, y: RMSpropState, gradient: PyTree) -> RMSpropState:
        statistics = GradientStatistics(gradient, variance, None)
        return _coefficients(optimizer, weight_decay, "ode", now._replace(t=t), y, statistics)[0]

    denominator = jax.tree.map(lambda v: jnp.sqrt(v) + optimizer.eps, y.v)

    def of_fresh_denominator(drift: RMSpropState, gradient: PyTree, along: Any) -> RMSpropState:
        # The mean of g (1 / (sqrt v' + eps) - 1 / (sqrt v + eps)) with v' = v + eta rho (g^2 - v): third moments of g.
        def one(g: Array, s: Array, v: Array, p: Array) -> Array:
            return rate * rho * (g**3 + 3 * g * s - v * g) / (2 * jnp.sqrt(v) * p * p)

        del along
        third = jax.tree.map(one, gradient, variance, y.v, denominator)
        return RMSpropState(third, jax.tree.map(jnp.zeros_like, drift.v))

    drift, gradient = corrected(eta, problem.gradient, first_order, of_fresh_denominator, jnp.asarray(now.t, eta.dtype), y)
    return drift, gradient, denominator


def _above_zero(optimizer: RMSprop | RMSpropW, now: Instant, y: RMSpropState, variance: PyTree) -> RMSpropState:
    v = floor_second_moment(y.v, optimizer.decay, now.t / optimizer.rate, optimizer.initial_scale, variance)
    return y._replace(v=v)


def _second_order(
    optimizer: RMSprop | RMSpropW, weight_decay: Array, problem: Problem, now: Instant, y: RMSpropState, x: PyTree
) -> tuple[RMSpropState, Any]:
    eta, variance = optimizer.rate, problem.noise.variance(x)
    y = _above_zero(optimizer, now, y, variance)
    drift, gradient, denominator = _corrected(optimizer, weight_decay, problem, now, y, variance)
    std, scale = jax.tree.map(jnp.sqrt, variance), optimizer.relative_rate(now.step) * jnp.sqrt(eta)

    def diffusion(dw: SquareNoise) -> RMSpropState:
        dx = jax.tree.map(lambda s, p, z: -scale * s / p * z, std, denominator, dw.gradient)
        return RMSpropState(dx, square_noise(eta, (1 - optimizer.decay) / eta, gradient, std, dw))

    return drift, diffusion


def _second_order_drift(
    optimizer: RMSprop | RMSpropW, weight_decay: Array, problem: Problem, now: Instant, y: RMSpropState, x: PyTree
) -> tuple[RMSpropState, Any]:
    variance = problem.noise.variance(x)
    y = _above_zero(optimizer, now, y, variance)
    drift, _, denominator = _corrected(optimizer, weight_decay, problem, now, y, variance)
    scale = optimizer.relative_rate(now.step) * jnp.sqrt(optimizer.rate)
    return drift, eqx.Partial(_diffusion, scale, denominator, problem.noise.sqrt_covariance(x))


def _state_from_chain(state: ChainState) -> RMSpropState:
    return RMSpropState(state.x, optax.tree.get(state.transform, "nu"))
