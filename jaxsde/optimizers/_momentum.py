"""SGD with momentum: the Optax transform and the SDEs."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..problems import Problem
from ..processes import SDE, ChainState, Instant
from ._base import (
    AbstractOptimizer,
    LearningRate,
    as_hyperparameter,
    as_rates,
    check_covariance,
    check_problem,
    diffusion_of_a_step,
    gradient_whitening,
    itself,
    parameters,
    position,
)
from ._roles import Roles


class MomentumState(NamedTuple):
    """State of the SDE of SGD with momentum: parameters and the decaying sum of gradients, shaped alike."""

    x: PyTree
    m: PyTree


class Momentum(AbstractOptimizer):
    """SGD with heavy-ball momentum, $m_{k+1} = \\beta m_k + g_k$, $x_{k+1} = x_k - \\eta m_{k+1}$ from $m_0 = 0$.

    The gradients are summed up, not averaged, as in Optax and PyTorch: in the long run a gradient moves the parameters by
    $\\eta / (1 - \\beta)$ of it.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `momentum`: $\\beta$ in [0, 1).
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    The scaling rules and SVAG leave $\\beta$ as it is: they keep the SDE of the model `"effective"`.

    >>> opt = Momentum(learning_rate=0.5, momentum=0.5).transform()
    >>> state = opt.init(jnp.zeros(1))
    >>> for _ in range(2):
    ...     updates, state = opt.update(jnp.ones(1), state)
    >>> updates.tolist()
    [-0.75]
    """

    models: ClassVar[tuple[str, ...]] = ("underdamped", "effective", "ode")
    roles: ClassVar[Roles | None] = Roles(svag=True)
    learning_rate: Any
    momentum: Float[Array, ""]
    reference_rate: Float[Array, ""] | None

    def __init__(self, learning_rate: LearningRate, momentum: ArrayLike = 0.9, *, reference_rate: ArrayLike | None = None):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.momentum = as_hyperparameter("momentum", momentum, low=0.0, high=1.0, closed="low")

    def transform(self) -> optax.GradientTransformation:
        """`optax.sgd` with momentum."""
        return optax.sgd(self.learning_rate, momentum=self.momentum)

    def sde(self, problem: Problem, model: str = "underdamped") -> SDE:
        """The SDE of SGD with momentum on `problem`.

        **Arguments:** `model`:

        - `"underdamped"`: $dX = -\\eta_t M\\,dt$, $dM = \\frac1\\eta \\big((\\nabla f(X) - (1 - \\beta) M)\\,dt +
          \\sqrt\\eta\\,\\Sigma(X)^{1/2} dW\\big)$ from $M_0 = 0$, with $\\eta_t$ the schedule relative to the reference rate.
          In the clock $s = k \\sqrt\\eta = t / \\sqrt\\eta$ and with $V = -\\sqrt\\eta M$ these are the equations of a ball
          with friction, $dV = -(\\mu V + \\nabla f)\\,ds - \\eta^{1/4} \\Sigma^{1/2} dW_s$ where
          $\\beta = 1 - \\mu \\sqrt\\eta$ (derived here; after li2019).
        - `"effective"`: $dX = -\\frac{\\eta_t}{1 - \\beta} \\big(\\nabla f(X)\\,dt + \\sqrt\\eta\\,\\Sigma(X)^{1/2} dW\\big)$,
          which is SGD's SDE with the learning rate $\\eta / (1 - \\beta)$: the limit as $\\eta \\to 0$ at constant $\\beta$
          (derived here).
        - `"ode"`: the drift of the first alone.

        The first is the default because it holds in both limits. At constant $\\beta$ its M settles within $1 / (1 - \\beta)$
        steps, which leaves the second. But where a curvature $\\lambda$ exceeds $(1 - \\beta)^2 / (4 \\eta)$, which is
        0.25 for $\\beta = 0.9$ and $\\eta = 0.01$, the optimizer overshoots and swings about the minimum, and then the
        second is nowhere near it: with $\\lambda = 1$ and $\\beta = 0.9$ it takes the mean from 1 to 0.37 by the time 0.1
        where $\\eta = 0.02$, the optimizer to 0.75, and the first model to 0.80. On a quadratic where H and $\\Sigma$ commute
        both have the stationary covariance $\\frac{\\eta}{2 (1 - \\beta)} \\Sigma H^{-1}$; the optimizer's own is
        $\\big(1 - \\frac{\\eta \\lambda}{2 (1 + \\beta)}\\big)^{-1}$ times as large.

        M changes within $1 / (1 - \\beta)$ steps: take several `substeps`. The solver moves M along its drift before X, so
        that it is stable wherever the optimizer is.

        **Raises:** `ValueError` for another model, or noise without a covariance.
        """
        check_problem(problem)
        self.check_model(model)
        if model != "ode":
            check_covariance(problem, "Momentum")
        alone = model == "effective"
        return SDE(
            statistics=eqx.Partial(_statistics, problem, model),
            coefficients=eqx.Partial(_effective if alone else _underdamped, self),
            position=itself if alone else position,
            state_from_chain=parameters if alone else _state_from_chain,
            chain=self.chain(problem),
            start_steps=0,
            semi_implicit=None if alone else _sum_of_gradients,
            model=model,
            whiten=gradient_whitening(problem),
            ordered_step=eqx.Partial(_ordered_step, self) if model == "underdamped" else None,
        )


class _Statistics(NamedTuple):
    gradient: PyTree
    root: Any


def _statistics(problem: Problem, model: str, x: PyTree) -> _Statistics:
    return _Statistics(problem.gradient(x), None if model == "ode" else problem.noise.sqrt_covariance(x))


def _underdamped(opt: Momentum, now: Instant, y: MomentumState, statistics: _Statistics) -> tuple[MomentumState, Any]:
    rate, eta = opt.relative_rate(now.step), opt.rate
    drift = MomentumState(
        jax.tree.map(lambda m: -rate * m, y.m),
        jax.tree.map(lambda g, m: (g - (1 - opt.momentum) * m) / eta, statistics.gradient, y.m),
    )
    if statistics.root is None:
        return drift, None
    return drift, eqx.Partial(_into_the_sum, jnp.sqrt(eta), statistics.root)


def _ordered_step(
    opt: Momentum, now: Instant, y: MomentumState, statistics: _Statistics, h: Array, dw: PyTree
) -> MomentumState:
    """The step of `"underdamped"`: M first, and X by the new M less the noise that has just come to it."""
    rate, eta = opt.relative_rate(now.step), opt.rate
    noise = jax.tree.map(lambda z: z / jnp.sqrt(eta), statistics.root(dw))
    m = jax.tree.map(lambda m, g, n: m + h * ((g - (1 - opt.momentum) * m) / eta) + n, y.m, statistics.gradient, noise)
    return MomentumState(jax.tree.map(lambda x, m, n: x - h * rate * (m - n), y.x, m, noise), m)


def _into_the_sum(root_eta: Array, root: Any, dw: PyTree) -> MomentumState:
    noise = jax.tree.map(lambda z: z / root_eta, root(dw))
    return MomentumState(jax.tree.map(jnp.zeros_like, noise), noise)


def _effective(opt: Momentum, now: Instant, x: PyTree, statistics: _Statistics) -> tuple[PyTree, Any]:
    rate = opt.relative_rate(now.step) / (1 - opt.momentum)
    drift = jax.tree.map(lambda g: -rate * g, statistics.gradient)
    return drift, eqx.Partial(diffusion_of_a_step, rate * jnp.sqrt(opt.rate), statistics.root)


def _sum_of_gradients(y: MomentumState) -> PyTree:
    return y.m


def _state_from_chain(state: ChainState) -> MomentumState:
    return MomentumState(state.x, optax.tree.get(state.transform, "trace"))
