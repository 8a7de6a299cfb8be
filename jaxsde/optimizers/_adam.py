"""Adam and AdamW: the Optax transforms and the SDEs."""

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
    debias,
    floor_second_moment,
    square_noise,
    square_whitening,
)

_MODELS = ("compagnoni", "compagnoni-drift", "compagnoni-full", "malladi", "second-order", "second-order-drift", "ode")
_ROLES = Roles(normalised=True, averages=("b1", "b2"), gradients=("eps",), svag=True)


class AdamState(NamedTuple):
    """State of Adam's SDE: parameters, mean and mean square of the gradient (without bias correction), shaped alike."""

    x: PyTree
    m: PyTree
    v: PyTree


class Adam(AbstractOptimizer):
    """Adam, $m_{k+1} = \\beta_1 m_k + (1 - \\beta_1) g_k$, $v_{k+1} = \\beta_2 v_k + (1 - \\beta_2) g_k^2$,
    $x_{k+1} = x_k - \\eta\\,\\hat m / (\\sqrt{\\hat v} + \\epsilon)$ with
    $\\hat m = m_{k+1} / (1 - \\beta_1^{k+1})$, $\\hat v = v_{k+1} / (1 - \\beta_2^{k+1})$.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `b1`, `b2`: $\\beta_1, \\beta_2$ in [0, 1).
    - `eps`: $\\epsilon \\ge 0$, outside the root.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    >>> Adam(learning_rate=0.1, b1=1.0)
    Traceback (most recent call last):
    ValueError: b1 must lie in [0, 1), got 1.0
    """

    models: ClassVar[tuple[str, ...]] = _MODELS
    roles: ClassVar[Roles | None] = _ROLES
    learning_rate: Any
    b1: Float[Array, ""]
    b2: Float[Array, ""]
    eps: Float[Array, ""]
    reference_rate: Float[Array, ""] | None

    def __init__(
        self,
        learning_rate: LearningRate,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.999,
        eps: ArrayLike = 1e-8,
        *,
        reference_rate: ArrayLike | None = None,
    ):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.b1 = as_hyperparameter("b1", b1, low=0.0, high=1.0, closed="low")
        self.b2 = as_hyperparameter("b2", b2, low=0.0, high=1.0, closed="low")
        self.eps = as_hyperparameter("eps", eps, low=0.0, closed="low")

    def transform(self) -> optax.GradientTransformation:
        """`optax.adam`."""
        return optax.adam(self.learning_rate, b1=self.b1, b2=self.b2, eps=self.eps)

    def sde(self, problem: Problem, model: str = "compagnoni", *, start_steps: int = 1) -> SDE:
        """The SDE of Adam on `problem`; see [`AdamW.sde`][], with $\\theta = 0$."""
        return _sde(self, jnp.zeros(()), problem, model, start_steps)


class AdamW(AbstractOptimizer):
    """Adam with decoupled weight decay,
    $x_{k+1} = x_k - \\eta\\,(\\hat m / (\\sqrt{\\hat v} + \\epsilon) + \\theta x_k)$, all else as in [`Adam`][].

    **Arguments:** those of [`Adam`][], and `weight_decay`: $\\theta \\ge 0$.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    >>> AdamW(learning_rate=0.1).weight_decay.item() == jnp.float32(1e-4)
    Array(True, dtype=bool)
    """

    models: ClassVar[tuple[str, ...]] = _MODELS
    roles: ClassVar[Roles | None] = _ROLES._replace(decays=("weight_decay",))
    learning_rate: Any
    b1: Float[Array, ""]
    b2: Float[Array, ""]
    eps: Float[Array, ""]
    weight_decay: Float[Array, ""]
    reference_rate: Float[Array, ""] | None

    def __init__(
        self,
        learning_rate: LearningRate,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.999,
        eps: ArrayLike = 1e-8,
        weight_decay: ArrayLike = 1e-4,
        *,
        reference_rate: ArrayLike | None = None,
    ):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.b1 = as_hyperparameter("b1", b1, low=0.0, high=1.0, closed="low")
        self.b2 = as_hyperparameter("b2", b2, low=0.0, high=1.0, closed="low")
        self.eps = as_hyperparameter("eps", eps, low=0.0, closed="low")
        self.weight_decay = as_hyperparameter("weight_decay", weight_decay, low=0.0, closed="low")

    def transform(self) -> optax.GradientTransformation:
        """`optax.adamw`."""
        return optax.adamw(self.learning_rate, b1=self.b1, b2=self.b2, eps=self.eps, weight_decay=self.weight_decay)

    def sde(self, problem: Problem, model: str = "compagnoni", *, start_steps: int = 1) -> SDE:
        """The SDE of AdamW on `problem` (compagnoni2025, Theorem 3.12).

        With $\\rho_i = (1 - \\beta_i) / \\eta$, $\\gamma_i(t) = 1 - e^{-\\rho_i t}$,
        $P = \\sqrt V + \\epsilon \\sqrt{\\gamma_2(t)}$ and $\\eta_t$ the schedule relative to the reference rate:

        $dX = -\\eta_t \\frac{\\sqrt{\\gamma_2(t)}}{\\gamma_1(t)} P^{-1} \\big((M + \\eta \\rho_1 (\\nabla f(X) - M))\\,dt +
        \\sqrt\\eta\\,\\eta \\rho_1 \\Sigma(X)^{1/2} dW\\big) - \\eta_t \\theta X\\,dt$,
        $dM = \\rho_1 (\\nabla f(X) - M)\\,dt + \\sqrt\\eta\\,\\rho_1 \\Sigma(X)^{1/2} dW$,
        $dV = \\rho_2\\,(\\nabla f(X)^2 + \\mathrm{diag}\\,\\Sigma(X) - V)\\,dt$.

        The optimizer divides the mean it has just updated, $m + \\eta \\rho_1 (g - m)$. The theorem is quoted with that
        step's mean alone, without the term with $\\eta \\rho_1 \\Sigma^{1/2} dW$ in $dX$. But then the noise that reaches
        $X$ is $\\beta_1$ times what the optimizer has: the stationary variance falls short by the factor $\\beta_1^2$, and
        $\\beta_1 = 0$ has no noise at all instead of RMSprop's. Both are weak approximations of order 1; this one has the
        one-step covariance right for any $\\beta_1$.

        **Arguments:**

        - `model`: `"compagnoni"` is the above (compagnoni2025); `"compagnoni-drift"` is the form quoted, with that
          mean in the drift alone; `"malladi"` drops $\\nabla f(X)^2$ from $dV$ and all terms with $\\eta \\rho_1$ from $dX$
          (malladi2022, written in the clock $t = k \\eta$); `"ode"` is the drift of the first alone;
          `"compagnoni-full"` keeps the noise of V that the first drops, $\\sqrt\\eta \\rho_2 (2 \\nabla f \\Sigma^{1/2} dW +
          \\sqrt 2\\,\\Sigma\\,dW')$ for Gaussian noise with independent coordinates: of order 1 as well, but nearer to
          the optimizer while the loss still falls; `"second-order"` is of weak order 2 as $\\eta \\to 0$ at constant
          $\\rho_1, \\rho_2$ and away from $t = 0$: its drift is corrected by terms of order $\\eta$, so that the look-ahead
          has the factor 1/2, bias corrections are the optimizer's own, $1 - \\beta_i^{t/\\eta}$, and V has that noise too
          (after callisti2025). The noise of the last two is a pair of Brownian motions, W and W'.
          `"second-order-drift"` has the drift of the second order and the noise of `"compagnoni"`, for any noise with a
          covariance, mini-batches among them. It is of order 1, as V has no noise and derivatives of the covariance are left
          out. With $\\beta_1$ fixed its stationary variance is nearer to the optimizer's than that of `"second-order"`, which
          falls short by the factor $\\beta_1^2$.
        - `start_steps`: how many true optimizer steps come first, at least 1: the bias correction is singular at
          $t = 0$. After them the optimizer and the SDE have the same law.

        With $b_0$ the drift of `"ode"` at $\\eta \\rho_1 = 0$ and with those bias corrections, the drift of second order is
        $b_0 + \\frac\\eta2 (\\partial_t + b_0^M \\cdot \\nabla_M + b_0^V \\cdot \\nabla_V - b_0^X \\cdot \\nabla_X)\\,b_0$ in
        $X$, as the step divides averages that have moved already, and $b_0 - \\frac\\eta2 (b_0 \\cdot \\nabla)\\,b_0$ in $M$
        and $V$. No noise enters $X$ at that order. With $v_k$ and $t_k$ in the step instead, $\\nabla_V$ and $\\partial_t$
        would change sign.

        **Raises:** `ValueError` for another model or noise without a covariance, and for `"compagnoni-full"` and
        `"second-order"` where the noise is not Gaussian with independent coordinates.
        """
        return _sde(self, self.weight_decay, problem, model, start_steps)


def _sde(optimizer: Adam | AdamW, weight_decay: Array, problem: Problem, model: str, start_steps: int) -> SDE:
    check_problem(problem)
    optimizer.check_model(model)
    check_covariance(problem, type(optimizer).__name__)
    common: dict[str, Any] = dict(
        position=position,
        state_from_chain=_state_from_chain,
        chain=optimizer.chain(problem),
        start_steps=_checks.count("start_steps", start_steps),
        model=model,
    )
    coefficients = eqx.Partial(_coefficients, optimizer, weight_decay, model)
    statistics = eqx.Partial(gradient_statistics, problem)
    if model not in ("compagnoni-full", "second-order", "second-order-drift"):
        common |= dict(semi_implicit=second_moment, whiten=gradient_whitening(problem))
        if model == "compagnoni":
            common |= dict(ordered_step=eqx.Partial(_ordered_step, optimizer, weight_decay))
        return SDE(statistics, coefficients, **common)
    if model == "second-order-drift":
        coefficients = eqx.Partial(_second_order_drift, optimizer, weight_decay, problem)
        return SDE(itself, coefficients, whiten=gradient_whitening(problem), **common)
    check_square_noise(problem, model)
    common |= dict(noise_like=both_noises, whiten=square_whitening(problem))
    if model == "compagnoni-full":
        return SDE(statistics, coefficients, semi_implicit=second_moment, **common)
    return SDE(itself, eqx.Partial(_second_order, optimizer, weight_decay, problem), **common)


def _coefficients(
    optimizer: Adam | AdamW, weight_decay: Array, model: str, now: Instant, y: AdamState, statistics: GradientStatistics
) -> tuple[AdamState, Any]:
    rate, eta, t = optimizer.relative_rate(now.step), optimizer.rate, now.t
    rho1, rho2 = (1 - optimizer.b1) / eta, (1 - optimizer.b2) / eta
    # The optimizer divides the mean it has just updated: m moved by a share of the way to the stochastic gradient.
    ahead = 0.0 if model == "malladi" else 1 - optimizer.b1
    full = model == "compagnoni-full"
    above = floor_second_moment(y.v, optimizer.b2, t / eta, 0.0, statistics.variance) if full else y.v
    gain = _gain(optimizer, now, above)

    def dx(x: Array, m: Array, g: Array, k: Array) -> Array:
        return -k * (m + ahead * (g - m)) - rate * weight_decay * x

    def dv(v: Array, g: Array, variance: Array) -> Array:
        return rho2 * ((variance if model == "malladi" else g * g + variance) - v)

    drift = AdamState(
        jax.tree.map(dx, y.x, y.m, statistics.gradient, gain),
        jax.tree.map(lambda m, g: rho1 * (g - m), y.m, statistics.gradient),
        jax.tree.map(dv, y.v, statistics.gradient, statistics.variance),
    )
    if model == "ode":
        return drift, None
    into_x = jax.tree.map(lambda k: ahead * k, gain) if model in ("compagnoni", "compagnoni-full") else None
    into_x_and_m = eqx.Partial(_diffusion, jnp.sqrt(eta), rho1, into_x, statistics.root)
    if not full:
        return drift, into_x_and_m
    std = jax.tree.map(jnp.sqrt, statistics.variance)
    into_v = eqx.Partial(square_noise, eta, rho2, statistics.gradient, std)
    return drift, lambda dw: into_x_and_m(dw.gradient)._replace(v=into_v(dw))


def _gain(optimizer: Adam | AdamW, now: Instant, v: PyTree) -> PyTree:
    """By what a step multiplies the mean gradient."""
    rate, eta, t = optimizer.relative_rate(now.step), optimizer.rate, now.t
    gamma1, root_gamma2 = -jnp.expm1(-(1 - optimizer.b1) / eta * t), jnp.sqrt(-jnp.expm1(-(1 - optimizer.b2) / eta * t))
    return jax.tree.map(lambda v: rate * root_gamma2 / gamma1 / (jnp.sqrt(v) + optimizer.eps * root_gamma2), v)


def _ordered_step(
    optimizer: Adam | AdamW,
    weight_decay: Array,
    now: Instant,
    y: AdamState,
    statistics: GradientStatistics,
    h: Array,
    dw: PyTree,
) -> AdamState:
    """The step of `"compagnoni"`: V and M first, and X by them.

    M moves by $dM = \\rho_1 (h (g - M) + n)$ with $n = \\sqrt\\eta\\,\\Sigma^{1/2} dW$, and X by the look-ahead's
    $-k (h M + \\eta\\,dM)$. By the new $M' = M + dM$ that is $-k (h M' + (\\eta - h)\\,dM)$, and
    $dM = \\frac{\\rho_1}{1 - \\rho_1 h} (h (g - M') + n)$. With one substep, $h = \\eta$ and $M'$ alone is left.
    """
    rate, eta = optimizer.relative_rate(now.step), optimizer.rate
    rho1, rho2 = (1 - optimizer.b1) / eta, (1 - optimizer.b2) / eta
    kept, rest = 1 - rho1 * h, eta - h  # at b1 = 0 both vanish with one substep
    lag = jnp.where(rest > 0, rest * rho1 / jnp.where(rest > 0, kept, 1), 0)
    g, noise = statistics.gradient, jax.tree.map(lambda z: jnp.sqrt(eta) * z, statistics.root(dw))
    v = jax.tree.map(lambda v, g, s: v + h * (rho2 * (g * g + s - v)), y.v, g, statistics.variance)
    m = jax.tree.map(lambda m, g, n: m + rho1 * (h * (g - m) + n), y.m, g, noise)

    def moved(x: Array, m: Array, g: Array, n: Array, k: Array) -> Array:
        return x - k * (h * m + lag * (h * (g - m) + n)) - h * rate * weight_decay * x

    return AdamState(jax.tree.map(moved, y.x, m, g, noise, _gain(optimizer, now, v)), m, v)


def _corrected(
    optimizer: Adam | AdamW, weight_decay: Array, problem: Problem, now: Instant, y: AdamState, variance: PyTree
) -> tuple[AdamState, PyTree]:
    """The drift of second order at y, whose V is above 0, and the gradient there."""
    eta, rate = optimizer.rate, optimizer.relative_rate(now.step)
    rho1, rho2 = (1 - optimizer.b1) / eta, (1 - optimizer.b2) / eta

    def first_order(t: Array, y: AdamState, gradient: PyTree) -> AdamState:
        # The optimizer's own bias corrections: exp(-rho t) for beta^(t / eta) would be an error of order eta.
        gamma1, gamma2 = (debias(b, t / eta) for b in (optimizer.b1, optimizer.b2))
        root = jnp.sqrt(gamma2)

        def dx(x: Array, m: Array, v: Array) -> Array:
            return -rate * (root / gamma1 * m / (jnp.sqrt(v) + optimizer.eps * root) + weight_decay * x)

        return AdamState(
            jax.tree.map(dx, y.x, y.m, y.v),
            jax.tree.map(lambda m, g: rho1 * (g - m), y.m, gradient),
            jax.tree.map(lambda v, g, s: rho2 * (g * g + s - v), y.v, gradient, variance),
        )

    def of_fresh_averages(drift: AdamState, gradient: PyTree, along: Any) -> AdamState:
        del gradient
        # The step divides averages that have moved already: the change of dx along m, v and t, at the same x.
        still = jax.tree.map(jnp.zeros_like, drift)
        return still._replace(x=along(drift._replace(x=still.x)).x)

    return corrected(eta, problem.gradient, first_order, of_fresh_averages, jnp.asarray(now.t, eta.dtype), y)


def _above_zero(optimizer: Adam | AdamW, now: Instant, y: AdamState, variance: PyTree) -> AdamState:
    return y._replace(v=floor_second_moment(y.v, optimizer.b2, now.t / optimizer.rate, 0.0, variance))


def _second_order(
    optimizer: Adam | AdamW, weight_decay: Array, problem: Problem, now: Instant, y: AdamState, x: PyTree
) -> tuple[AdamState, Any]:
    eta, variance = optimizer.rate, problem.noise.variance(x)
    rho1, rho2 = (1 - optimizer.b1) / eta, (1 - optimizer.b2) / eta
    drift, gradient = _corrected(optimizer, weight_decay, problem, now, _above_zero(optimizer, now, y, variance), variance)
    std = jax.tree.map(jnp.sqrt, variance)

    def diffusion(dw: SquareNoise) -> AdamState:
        dm = jax.tree.map(lambda s, z: jnp.sqrt(eta) * rho1 * s * z, std, dw.gradient)
        return AdamState(jax.tree.map(jnp.zeros_like, dm), dm, square_noise(eta, rho2, gradient, std, dw))

    return drift, diffusion


def _second_order_drift(
    optimizer: Adam | AdamW, weight_decay: Array, problem: Problem, now: Instant, y: AdamState, x: PyTree
) -> tuple[AdamState, Any]:
    eta, variance = optimizer.rate, problem.noise.variance(x)
    y = _above_zero(optimizer, now, y, variance)
    drift, _ = _corrected(optimizer, weight_decay, problem, now, y, variance)
    into_x = jax.tree.map(lambda k: (1 - optimizer.b1) * k, _gain(optimizer, now, y.v))
    root = problem.noise.sqrt_covariance(x)
    return drift, eqx.Partial(_diffusion, jnp.sqrt(eta), (1 - optimizer.b1) / eta, into_x, root)


def _diffusion(root_eta: Array, rho1: Array, into_x: PyTree, root: Any, dw: PyTree) -> AdamState:
    noise = jax.tree.map(lambda z: root_eta * z, root(dw))
    nothing = jax.tree.map(jnp.zeros_like, noise)
    dx = nothing if into_x is None else jax.tree.map(lambda k, z: -k * z, into_x, noise)
    return AdamState(dx, jax.tree.map(lambda z: rho1 * z, noise), nothing)


def _state_from_chain(state: ChainState) -> AdamState:
    return AdamState(state.x, optax.tree.get(state.transform, "mu"), optax.tree.get(state.transform, "nu"))
