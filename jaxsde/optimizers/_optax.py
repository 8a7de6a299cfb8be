"""Any Optax factory as an optimizer: its transform, and the SDE that is derived from it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _checks
from .._promotion import usual_promotion
from ..derivation import derived_sde
from ..problems import Problem
from ..processes import SDE
from ._base import AbstractOptimizer, LearningRate, as_hyperparameter, as_rates, check_problem
from ._probed_roles import ROLE_NAMES, probed_roles
from ._roles import Roles

_ORDERS = {"derived": 2, "derived-1": 1, "derived-3": 3, "ode": 1}


class Optax(AbstractOptimizer):
    """An optimizer of Optax's, or of your own, by the factory that makes its transform.

    Its SDE is derived from one update, as by [`derive`][].

    **Arguments:**

    - `factory`: a function of `learning_rate` and other hyperparameters to an `optax.GradientTransformation`, such as
      `optax.lion`.
    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.
    - `roles`: what the hyperparameters do, a `jaxsde.optimizers.Roles`, for scaling rules, SVAG and weak errors. By default
      it is found out when it is asked for, by Optax's own names (`b1`, `b2`, `decay` and `momentum` are decay constants, `eps`
      has the units of the gradient, and parameters decay by `weight_decay`) and by what updates do: a decay constant of a sum,
      as the momentum of `optax.sgd` is, is left as it is.
    - the other hyperparameters, by name. Floating-point numbers and arrays are data: another number is no other program. All
      else, whole numbers among it, is part of the program. Of what is not given, the factory's defaults for `b1`, `eps` and the
      like are data, too.

    **Raises:** `TypeError` for hyperparameters that the factory does not take, or that have no hash; `ValueError` for numbers
    out of range, or those that the factory decides by while it makes the transform.

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
    own_roles: Roles | None = eqx.field(static=True)

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
            hint = f". {_checks.OF_A_TRANSFORM}" if _checks.is_transform(factory) else ""
            raise TypeError(
                "factory must be a function that makes an Optax transform, such as optax.lion, got "
                f"{_checks.described(factory)}{hint}"
            )
        self.factory = factory
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.numbers = {k: as_hyperparameter(k, v) for k, v in sorted(hyperparameters.items()) if _is_number(k, v)}
        self.settings = tuple((k, v) for k, v in sorted(hyperparameters.items()) if not _is_number(k, v))
        self.own_roles = roles
        self._check_made()
        self._add_defaults()

    @property
    def called(self) -> str:
        """The factory's name."""
        return _name(self.factory)

    @property
    def roles(self) -> Roles:  # type: ignore[override]  # of an instance, where other classes declare them
        """What the hyperparameters do; raises `ValueError` where that is not known."""
        if self.own_roles is not None:
            return self.own_roles
        try:
            return probed_roles(self.factory, self.numbers, dict(self.settings))
        except ValueError as error:
            raise ValueError(f"what the hyperparameters of {self.called} do is not known: {error}") from error

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, **self.numbers}

    def hyperparameter(self, name: str) -> Any:
        """A number by its name."""
        return self.numbers[name] if name in self.numbers else getattr(self, name)

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

    def sde_for(self, problem: Problem, model: str, params: PyTree, **options: Any) -> SDE:
        return self.sde(problem, model, start=params, **options)

    def _check_made(self) -> None:
        """Raises unless the factory makes a transform of these hyperparameters, with numbers that are not known yet."""
        name, parameters = self.called, _parameters(self.factory)
        for setting, value in self.settings:
            try:
                hash(value)
            except TypeError:
                raise TypeError(
                    f"{setting} must have a hash, as it is part of the program; {type(value).__name__} has none: give it with "
                    f"functools.partial({name}, {setting}=...) instead"
                ) from None
        if self.own_roles is not None:
            declared = (*self.own_roles.averages, *self.own_roles.gradients, *self.own_roles.squares, *self.own_roles.decays)
            if any(of not in self.numbers for of in declared):
                raise ValueError(
                    f"roles must be of hyperparameters that are given as numbers, {list(self.numbers)}, got {declared}"
                )
        if parameters is not None:
            hint = "" if "learning_rate" in parameters else ". A factory has an argument of the name learning_rate"
            _checks.names(name, parameters.values(), ("learning_rate", *self.numbers, *dict(self.settings)), hint)
        try:
            made = self._made()
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(
                f"{name} decides by the value of a hyperparameter when it makes the transform, so that value cannot be data: "
                f"give it with functools.partial({name}, ...) instead"
            ) from error
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise TypeError(f"{name} must return an optax.GradientTransformation, got {made!r}")

    def _made(self) -> Any:
        """What the factory makes of numbers that are not known yet."""
        made: list[Any] = []

        def make(numbers: Any) -> Any:
            with usual_promotion():
                made.append(eqx.combine(numbers, self).transform())
            return ()

        jax.eval_shape(make, eqx.filter(self, eqx.is_array))
        return made[0]

    def _add_defaults(self) -> None:
        """Makes the factory's own defaults data, where their names say what they do and it does not decide by them."""
        given = self.numbers
        usual = {name: p.default for name, p in (_parameters(self.factory) or {}).items() if name in ROLE_NAMES}
        missing = {k: v for k, v in usual.items() if isinstance(v, float) and k not in given and k not in dict(self.settings)}
        self.numbers = dict(sorted((given | {k: as_hyperparameter(k, v) for k, v in missing.items()}).items()))
        try:
            self._made()
        except Exception:
            self.numbers = given


def _name(factory: Any) -> str:
    if isinstance(factory, functools.partial):  # some of Optax's own are
        known = (name for of in (optax, optax.contrib) for name, value in vars(of).items() if value is factory)
        return next(known, None) or _name(factory.func)
    return getattr(factory, "__name__", type(factory).__name__)


def _parameters(factory: Any) -> dict[str, inspect.Parameter] | None:
    """A factory's arguments by name; None where they are not known."""
    try:
        return dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return None


def _is_number(name: str, value: Any) -> bool:
    """Whether a hyperparameter is data. Whole numbers are where what they do is known, which does not depend on their type."""
    whole = isinstance(value, int) and not isinstance(value, bool) and name in ROLE_NAMES
    return whole or isinstance(value, (float, jax.Array, np.ndarray, np.floating))
