"""Any Optax factory as an optimizer: its transform, and the SDE that is derived from it."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._promotion import usual_promotion
from ..derivation import derived_sde
from ..problems import Problem
from ..processes import SDE
from ._base import AbstractOptimizer, LearningRate, as_hyperparameter, as_rates, check_problem
from ._roles import Roles

_ORDERS = {"derived": 2, "derived-1": 1, "derived-3": 3, "ode": 1}

# Optax's own names for what hyperparameters do.
_AVERAGES = ("b1", "b2", "b3", "decay", "decay_rate", "momentum", "nesterov_decay", "rho")
_GRADIENTS = ("eps", "max_delta")
_SQUARES = ("eps_root", "initial_accumulator_value", "initial_scale")
_DECAYS = ("weight_decay",)


class Optax(AbstractOptimizer):
    """An optimizer of Optax's, or of your own, by the factory that makes its transform.

    Its SDE is derived from one update, as by [`derive`][].

    **Arguments:**

    - `factory`: a function of `learning_rate` and other hyperparameters to an `optax.GradientTransformation`, such as
      `optax.lion`.
    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.
    - `roles`: what the hyperparameters do, a `jaxsde.optimizers.Roles`, for scaling rules, SVAG and weak errors. By default
      those of Optax's own names: `b1`, `b2`, `decay` and `momentum` are decay constants of averages, `eps` has the units of
      the gradient, and parameters decay by `weight_decay`.
    - the other hyperparameters, by name. Floating-point numbers and arrays are data: another number is no other program. All
      else, whole numbers among it, is part of the program.

    **Raises:** `TypeError` for hyperparameters that the factory does not take; `ValueError` for numbers out of range, or those
    that the factory decides by while it makes the transform.

    >>> import jaxsde as js
    >>> opt = Optax(optax.lion, learning_rate=0.01, b1=0.9, b2=0.95)
    >>> chain = opt.chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5)))
    >>> round(chain.apply(chain.init(jnp.ones(1)), jnp.ones(1)).x.item(), 4)
    0.99
    """

    models: ClassVar[tuple[str, ...]] = tuple(_ORDERS)
    factory: Callable[..., optax.GradientTransformation] = eqx.field(static=True)
    learning_rate: Any
    reference_rate: Float[Array, ""] | None
    numbers: dict[str, Array]
    settings: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    own_roles: Roles = eqx.field(static=True)

    def __init__(
        self,
        factory: Callable[..., optax.GradientTransformation],
        learning_rate: LearningRate,
        *,
        reference_rate: ArrayLike | None = None,
        roles: Roles | None = None,
        **hyperparameters: Any,
    ):
        if not callable(factory):
            raise TypeError(f"factory must be a function that makes an Optax transform, such as optax.lion, got {factory!r}")
        self.factory = factory
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        is_number = lambda v: isinstance(v, (float, jax.Array, np.ndarray, np.floating))
        self.numbers = {k: as_hyperparameter(k, v) for k, v in sorted(hyperparameters.items()) if is_number(v)}
        self.settings = tuple((k, v) for k, v in sorted(hyperparameters.items()) if not is_number(v))
        self._check_made()
        self.own_roles = _usual_roles(self) if roles is None else roles

    def transform(self) -> optax.GradientTransformation:
        """What the factory makes."""
        return self.factory(learning_rate=self.learning_rate, **self.numbers, **dict(self.settings))

    def sde(self, problem: Problem, model: str = "derived", *, start: PyTree | None = None, start_steps: int = 3) -> SDE:
        """The SDE that is derived from one update; see [`derive`][].

        **Arguments:**

        - `model`: `"derived"` has the first correction for the finite step, `"derived-1"` none, `"derived-3"` two; `"ode"` is
          the drift of the second alone.
        - `start`, `start_steps`: as in `derive`.

        **Raises:** as `derive` does.
        """
        check_problem(problem)
        self.check_model(model)
        return derived_sde(
            self.chain(problem),
            start=start,
            order=_ORDERS[model],
            start_steps=start_steps,
            noisy=model != "ode",
            model=model,
        )

    def _check_made(self) -> None:
        """Raises unless the factory makes a transform of these hyperparameters, with numbers that are not known yet."""
        name = getattr(self.factory, "__name__", repr(self.factory))
        try:
            parameters = inspect.signature(self.factory).parameters
        except (TypeError, ValueError):
            parameters = {}
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        unknown = [k for k in ("learning_rate", *self.numbers, *dict(self.settings)) if k not in parameters]
        if parameters and unknown and not anything:
            raise TypeError(f"{name} takes no {', '.join(unknown)}; it takes {', '.join(parameters)}")
        made: list[Any] = []

        def make(numbers: Any) -> Any:
            with usual_promotion():
                made.append(eqx.combine(numbers, self).transform())
            return ()

        try:
            jax.eval_shape(make, eqx.filter(self, eqx.is_array))
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(
                f"{name} decides by the value of a hyperparameter when it makes the transform, so that value cannot be data: "
                f"give it with functools.partial({name}, ...) instead"
            ) from error
        if not (hasattr(made[0], "init") and hasattr(made[0], "update")):
            raise TypeError(f"{name} must return an optax.GradientTransformation, got {made[0]!r}")


def _usual_roles(optimizer: Optax) -> Roles:
    named = lambda names: tuple(name for name in optimizer.numbers if name in names)
    return Roles(
        normalised=False, averages=named(_AVERAGES), gradients=named(_GRADIENTS), squares=named(_SQUARES), decays=named(_DECAYS)
    )
