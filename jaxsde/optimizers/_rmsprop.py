"""RMSprop and RMSpropW: the Optax transforms and the SDEs."""

import operator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _checks
from ..problems import Problem
from ..processes import SDE, ChainState
from ._base import (
    AbstractOptimizer,
    GradientStatistics,
    LearningRate,
    as_hyperparameter,
    as_learning_rate,
    as_reference_rate,
    check_covariance,
    check_rates,
    gradient_statistics,
    second_moment,
)


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

    **Raises:** `ValueError` for hyperparameters out of range.

    >>> RMSprop(learning_rate=0.1, decay=0.99).decay.item() == jnp.float32(0.99)
    Array(True, dtype=bool)
    """

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
        self.learning_rate = as_learning_rate(learning_rate)
        self.decay = as_hyperparameter(decay)
        self.eps = as_hyperparameter(eps)
        self.initial_scale = as_hyperparameter(initial_scale)
        self.reference_rate = as_reference_rate(reference_rate)

    def __check_init__(self):
        _check(self)

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

    **Raises:** `ValueError` for hyperparameters out of range.

    >>> RMSpropW(learning_rate=0.1, weight_decay=-1.0)
    Traceback (most recent call last):
    ValueError: weight_decay must lie in [0, inf), got -1.0
    """

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
        self.learning_rate = as_learning_rate(learning_rate)
        self.decay = as_hyperparameter(decay)
        self.eps = as_hyperparameter(eps)
        self.initial_scale = as_hyperparameter(initial_scale)
        self.weight_decay = as_hyperparameter(weight_decay)
        self.reference_rate = as_reference_rate(reference_rate)

    def __check_init__(self):
        _check(self)
        _checks.number("weight_decay", self.weight_decay, low=0.0, closed="low")

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

        - `model`: `"compagnoni"` is the above (Compagnoni et al., 2025); `"malladi"` drops $\\nabla f(X)^2$ from $dV$
          (Malladi et al., 2022, written in the clock $t = k \\eta$); `"ode"` is the drift of the first alone.
        - `start_steps`: how many true optimizer steps come first; after them the optimizer and the SDE have the same
          law. With $v_0 = 0$ the SDE is singular at $t = 0$.

        **Raises:** `ValueError` for another model, or noise without a covariance.
        """
        return _sde(self, self.weight_decay, problem, model, start_steps)


def _check(optimizer: RMSprop | RMSpropW) -> None:
    check_rates(optimizer)
    _checks.number("decay", optimizer.decay, low=0.0, high=1.0, closed="low")
    _checks.number("eps", optimizer.eps, low=0.0, closed="low")
    _checks.number("initial_scale", optimizer.initial_scale, low=0.0, closed="low")


def _scale(optimizer: RMSprop | RMSpropW) -> optax.GradientTransformation:
    return optax.scale_by_rms(
        decay=optimizer.decay, eps=optimizer.eps, initial_scale=optimizer.initial_scale, eps_in_sqrt=False
    )


def _sde(optimizer: RMSprop | RMSpropW, weight_decay: Array, problem: Problem, model: str, start_steps: int) -> SDE:
    _checks.choice("model", model, ("compagnoni", "malladi", "ode"))
    check_covariance(problem, type(optimizer).__name__)
    return SDE(
        statistics=eqx.Partial(gradient_statistics, problem),
        coefficients=eqx.Partial(_coefficients, optimizer, weight_decay, model),
        position=operator.attrgetter("x"),
        from_chain=_from_chain,
        chain=optimizer.chain(problem),
        start_steps=_checks.count("start_steps", start_steps, least=0),
        leading=second_moment,
    )


def _coefficients(
    optimizer: RMSprop | RMSpropW, weight_decay: Array, model: str, t: Array, y: RMSpropState, statistics: GradientStatistics
) -> tuple[RMSpropState, Any]:
    rate, eta = optimizer.relative_rate(t), optimizer.rate
    rho = (1 - optimizer.decay) / eta
    denominator = jax.tree.map(lambda v: jnp.sqrt(v) + optimizer.eps, y.v)

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
    return drift, eqx.Partial(_diffusion, rate * jnp.sqrt(eta), denominator, statistics.root)


def _diffusion(scale: Array, denominator: PyTree, root: Any, dw: PyTree) -> RMSpropState:
    dx = jax.tree.map(lambda z, p: -scale * z / p, root(dw), denominator)
    return RMSpropState(dx, jax.tree.map(jnp.zeros_like, dx))


def _from_chain(state: ChainState) -> RMSpropState:
    return RMSpropState(state.x, optax.tree.get(state.transform, "nu"))
