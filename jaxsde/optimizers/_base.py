"""What all optimizers share: a learning rate or schedule, the clock it sets, and the two sides of each optimizer."""

import abc
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from .. import _checks
from .._promotion import usual_promotion
from .._traced import AbstractFunctionHolder, traced
from ..problems import Gaussian, Problem
from ..processes import SDE, Chain, ChainState
from ._roles import Roles

LearningRate = float | Array | Callable[[Any], Any]


class AbstractOptimizer(AbstractFunctionHolder):
    """An optimizer: hyperparameters as pytree leaves, an Optax transform and an SDE."""

    models: ClassVar[tuple[str, ...]] = ("compagnoni",)
    """The SDE's models: what `sde` takes as `model`, the default first. Empty where no SDE is known."""
    roles: ClassVar[Roles | None] = None
    """What the hyperparameters do; a property where that differs between instances. Subclasses do not inherit it."""
    learning_rate: eqx.AbstractVar[Any]
    reference_rate: eqx.AbstractVar[Float[Array, ""] | None]

    def __new__(cls, *arguments: Any, **named: Any):
        # Others call it lr. Python would name what is wrong, and not what there is instead.
        if named:
            _checks.names(cls.__name__, inspect.signature(cls).parameters.values(), named)
        return super().__new__(cls)

    @abc.abstractmethod
    def transform(self) -> optax.GradientTransformation:
        """The optimizer as an Optax transform."""

    @abc.abstractmethod
    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The optimizer's SDE on `problem`."""

    def sde_for(self, problem: Problem, model: str, params: PyTree, **options: Any) -> SDE:
        """The SDE for parameters like `params`, on whose structure that of some optimizers depends."""
        del params
        return self.sde(problem, model=model, **options)

    def chain(self, problem: Problem) -> Chain:
        """The optimizer run on stochastic gradients of `problem`."""
        check_problem(problem)
        return Chain(self.transform, problem, self.rate)

    def traced(self, params: Any) -> "AbstractOptimizer":
        """The optimizer with a schedule of a user's traced."""
        del params
        if not callable(self.learning_rate):
            return self
        step = jax.ShapeDtypeStruct((), jnp.int32)
        with usual_promotion():
            schedule = traced(self.learning_rate, step)
        return eqx.tree_at(lambda o: o.learning_rate, self, schedule)

    @property
    def default_model(self) -> str:
        """The first of the `models`, which `sde` takes unless told otherwise."""
        return (self.models or AbstractOptimizer.models)[0]

    def check_model(self, model: str) -> None:
        """Raises `ValueError` unless `model` is one of the optimizer's."""
        if not self.models:
            raise ValueError(f"{self.called} declares no models of an SDE")
        _checks.choice(f"{self.called}'s model", model, self.models)

    @property
    def called(self) -> str:
        """What reports and errors call it."""
        return type(self).__name__

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters that are one number each, by name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if eqx.is_array(value) and value.ndim == 0}

    def hyperparameter(self, name: str) -> Any:
        """A hyperparameter by its name, as in `roles`."""
        return getattr(self, name)

    @property
    def rate(self) -> Float[Array, ""]:
        """$\\eta$: the learning rate, or with a schedule its reference rate. One step lasts $\\eta$."""
        # Of a user's own optimizer it may be Python's number.
        return jnp.asarray(self.learning_rate if self.reference_rate is None else self.reference_rate)

    def relative_rate(self, step: Int[Array, ""]) -> Array | float:
        """$\\eta_t$, the schedule at a step, as Optax counts them, over the reference rate; 1 without a schedule."""
        if self.reference_rate is None:
            return 1.0
        with usual_promotion():
            rate = self.learning_rate(step)
        return jnp.asarray(rate, self.reference_rate.dtype) / self.reference_rate


def as_hyperparameter(name: str, value: Any, **limits: Any) -> Array:
    """One number as an array, so that a new number is no new program. Python numbers keep their weak type.

    **Raises:** `TypeError` or `ValueError` unless it is one real number, of single precision at least and within the `limits`
    of `_checks.number`.
    """
    _checks.scalar(name, value, **limits)
    array = jnp.asarray(_checks.whole_as_float(value))
    array = array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(float)
    if not jnp.issubdtype(array.dtype, jnp.floating):  # being traced, when no more than its type is known
        raise TypeError(f"{name} must be a real number, got dtype {array.dtype}")
    _checks.precision(name, array.dtype)
    return array


def as_rates(learning_rate: LearningRate, reference_rate: ArrayLike | None) -> tuple[Any, Array | None]:
    """The learning rate, a schedule as it is and a number as an array, and the reference rate that goes with a schedule.

    **Raises:** `TypeError` or `ValueError` unless the learning rate is one positive number, or a schedule, a function of the
    step to a rate that is not negative, with a positive reference rate.
    """
    if not callable(learning_rate):
        rate = as_hyperparameter("learning_rate", learning_rate, low=0.0)
        if reference_rate is not None:
            raise ValueError("reference_rate goes with a learning-rate schedule; learning_rate is a number here")
        return rate, None
    if reference_rate is None:
        raise ValueError(
            "a learning-rate schedule needs reference_rate=, the rate that sets the clock t = k * reference_rate "
            "(usually the schedule's peak)"
        )
    _check_schedule(learning_rate)
    return learning_rate, as_hyperparameter("reference_rate", reference_rate, low=0.0)


def _check_schedule(schedule: Callable[[Any], Any]) -> None:
    """Raises unless `schedule` can be traced as a function of the step to one number that is a rate at the first step."""
    first = jnp.zeros((), jnp.int32)
    wanted = "learning_rate must be a number or a schedule, a function of the step (traced, an int32) to one rate"
    try:
        with usual_promotion():
            rate = jax.eval_shape(schedule, first)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(f"{wanted}; called with a step it raised {type(error).__name__}: {reason}") from error
    dtype = getattr(rate, "dtype", jnp.dtype(bool))
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{wanted}; it returns {rate}")
    if rate.shape != ():
        raise ValueError(f"{wanted}; it returns an array of shape {rate.shape}")
    with usual_promotion():
        start = schedule(first)
    if _checks.is_concrete(start) and not 0 <= float(start) < float("inf"):
        raise ValueError(f"{wanted}, finite and not negative; it returns {float(start):g} at step 0")


def check_optimizer(opt: Any) -> None:
    """Raises unless `opt` is one."""
    _checks.instance("opt", opt, AbstractOptimizer, "an optimizer such as jaxsde.SGD(0.01)")


def check_problem(problem: Any) -> None:
    """Raises unless `problem` is one."""
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")


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


def diffusion_of_a_step(scale: Array, root: Callable[[Any], Any], dw: Any) -> Any:
    """The diffusion of an optimizer that moves against what has noise with this root of its covariance: the increment stands
    for that noise, so it enters with a minus, as in the optimizer."""
    return jax.tree.map(lambda z: -scale * z, root(dw))


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
    return GradientStatistics(problem.gradient(x), problem.noise.variance(x), problem.noise.sqrt_covariance(x))


def gradient_whitening(problem: Problem) -> Any:
    """The noise of a stochastic gradient of `problem` as a function of parameters and gradient, whitened, for an SDE's
    `whiten`; None where that takes more than the constant covariance of the noise."""
    noise = problem.noise
    if noise.independent and noise.has_variance:
        return eqx.Partial(_standardised, problem)
    if type(noise) is Gaussian:
        return eqx.Partial(_whitened, problem)
    return None


def _noise(problem: Problem, x: Any, gradient: Any) -> Any:
    return jax.tree.map(jnp.subtract, gradient, problem.gradient(x))


def _standardised(problem: Problem, x: Any, gradient: Any) -> Any:
    def over(z: Array, variance: Array) -> Array:
        return jnp.where(variance > 0, z / jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)

    return jax.tree.map(over, _noise(problem, x, gradient), problem.noise.variance(x))


def _whitened(problem: Problem, x: Any, gradient: Any) -> Any:
    law: Any = problem.noise
    return law.whiten(_noise(problem, x, gradient))


def second_moment(y: Any) -> Any:
    """The part of an adaptive method's state that a step moves first."""
    return y.v
