"""What all optimizers share: a learning rate or schedule, the clock it sets, and the two sides of each optimizer."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from .. import _checks
from ..problems import Gaussian, Problem
from ..processes import SDE, Chain, ChainState

LearningRate = float | Array | Callable[[Any], Any]


class AbstractOptimizer(eqx.Module):
    """An optimizer: hyperparameters as pytree leaves, an Optax transform and an SDE."""

    models: ClassVar[tuple[str, ...]] = ("compagnoni",)
    """The SDE's models: what `sde` takes as `model`."""
    learning_rate: eqx.AbstractVar[Any]
    reference_rate: eqx.AbstractVar[Float[Array, ""] | None]

    @abc.abstractmethod
    def transform(self) -> optax.GradientTransformation:
        """The optimizer as an Optax transform."""

    @abc.abstractmethod
    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The optimizer's SDE on `problem`."""

    def chain(self, problem: Problem) -> Chain:
        """The optimizer run on stochastic gradients of `problem`."""
        return Chain(self.transform, problem, self.rate, eqx.Partial(self.sde, problem))

    def check_model(self, model: str) -> None:
        """Raises `ValueError` unless `model` is one of the optimizer's."""
        _checks.choice(f"{type(self).__name__}'s model", model, self.models)

    @property
    def rate(self) -> Float[Array, ""]:
        """$\\eta$: the learning rate, or with a schedule its reference rate. One step lasts $\\eta$."""
        return self.learning_rate if self.reference_rate is None else self.reference_rate

    def relative_rate(self, t: Array | float) -> Array | float:
        """$\\eta_t$, the schedule at time $t$ over the reference rate; 1 without a schedule."""
        if self.reference_rate is None:
            return 1.0
        return self.learning_rate(t / self.reference_rate) / self.reference_rate


def as_hyperparameter(value: ArrayLike) -> Array:
    """A number as an array, so that a new number is no new program. Python numbers keep their weak type."""
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array + 0.0


def as_learning_rate(value: LearningRate) -> Any:
    """A schedule as it is, a number as an array."""
    return value if callable(value) else as_hyperparameter(value)


def as_reference_rate(value: ArrayLike | None) -> Array | None:
    """A number as an array; none as none."""
    return None if value is None else as_hyperparameter(value)


def check_rates(optimizer: AbstractOptimizer) -> None:
    """Raises unless the learning rate is positive, or a schedule with a positive reference rate."""
    if callable(optimizer.learning_rate):
        if optimizer.reference_rate is None:
            raise ValueError(
                "a learning-rate schedule needs reference_rate=, the rate that sets the clock t = k * reference_rate "
                "(usually the schedule's peak)"
            )
        _checks.number("reference_rate", optimizer.reference_rate, low=0.0)
        return
    if optimizer.reference_rate is not None:
        raise ValueError("reference_rate goes with a learning-rate schedule; learning_rate is a number here")
    _checks.number("learning_rate", optimizer.learning_rate, low=0.0)


def check_covariance(problem: Problem, name: str) -> None:
    """Raises where the gradient noise has no covariance, without which the optimizer has no SDE."""
    if not problem.noise.has_variance:
        raise ValueError(
            f"{name}'s SDE needs the covariance of the gradient noise, which is infinite here (Student-t noise has one "
            f"for df > 2, alpha-stable noise for alpha = 2). {name}'s chain runs all the same; SignSGD has an SDE for any noise"
        )


def itself(y: Any) -> Any:
    """The position where the state is the parameters."""
    return y


def position(y: Any) -> Any:
    """The position where it is a part of the state."""
    return y.x


def parameters(state: ChainState) -> Any:
    """The SDE's state where it is the chain's parameters."""
    return state.x


class GradientStatistics(NamedTuple):
    """What an adaptive method's SDE needs of the stochastic gradient at a point."""

    gradient: Any
    variance: Any
    """Of each coordinate."""
    root: Any
    """The linear map by a square root of the covariance."""


def gradient_statistics(problem: Problem, x: Any) -> GradientStatistics:
    """The statistics of the stochastic gradient of `problem` at the parameters `x`."""
    return GradientStatistics(problem.gradient(x), problem.noise.variance(x), problem.noise.root(x))


def gradient_innovation(problem: Problem) -> Any:
    """The noise of a stochastic gradient of `problem` as a function of parameters and gradient, whitened, for an SDE's
    `innovation`; None where that takes more than the constant covariance of the noise."""
    noise = problem.noise
    if noise.independent and noise.has_variance:
        return eqx.Partial(_standardised, problem)
    if isinstance(noise, Gaussian):
        values, vectors = jnp.linalg.eigh(noise.matrix)
        kept = values > 1e-6 * jnp.max(values)
        inverse_root = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
        return eqx.Partial(_whitened, problem, (vectors * inverse_root) @ vectors.T)
    return None


def _noise(problem: Problem, x: Any, gradient: Any) -> Any:
    return jax.tree.map(jnp.subtract, gradient, problem.gradient(x))


def _standardised(problem: Problem, x: Any, gradient: Any) -> Any:
    def over(z: Array, variance: Array) -> Array:
        return jnp.where(variance > 0, z / jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)

    return jax.tree.map(over, _noise(problem, x, gradient), problem.noise.variance(x))


def _whitened(problem: Problem, inverse_root: Array, x: Any, gradient: Any) -> Any:
    noise, unravel = ravel_pytree(_noise(problem, x, gradient))
    return unravel(inverse_root.astype(noise.dtype) @ noise)


def second_moment(y: Any) -> Any:
    """The part of an adaptive method's state that a step moves first."""
    return y.v
