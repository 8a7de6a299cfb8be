"""What hyperparameters do: how each optimizer's change with the length of a step and the size of the gradient."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .. import _checks
from ._adam import Adam, AdamW
from ._base import AbstractOptimizer
from ._rmsprop import RMSprop, RMSpropW
from ._sgd import SGD
from ._sign_sgd import SignSGD


class Roles(NamedTuple):
    """Names of hyperparameters by what they do."""

    averages: tuple[str, ...] = ()
    """The decay rates b of running averages, which last 1 / (1 - b) steps."""
    gradients: tuple[tuple[str, int], ...] = ()
    """Those with the units of a power of the gradient."""
    decays: tuple[str, ...] = ()
    """Those by which parameters decay, times the learning rate."""


_RMSPROP = Roles(("decay",), (("eps", 1), ("initial_scale", 2)))
_ADAM = Roles(("b1", "b2"), (("eps", 1),))
_DECAYS = ("weight_decay",)

# By exact type: a subclass may do anything with the hyperparameters that it inherits.
_ROLES: dict[type, Roles] = {
    SGD: Roles(),
    SignSGD: Roles(),
    RMSprop: _RMSPROP,
    RMSpropW: _RMSPROP._replace(decays=_DECAYS),
    Adam: _ADAM,
    AdamW: _ADAM._replace(decays=_DECAYS),
}


def known(optimizer: Any, what: str) -> AbstractOptimizer:
    """`optimizer`; raises unless it is one of the package's own, of which `what` exists."""
    _checks.instance("opt", optimizer, AbstractOptimizer, "an optimizer such as jaxsde.SGD(0.01)")
    if type(optimizer) not in _ROLES:
        names = ", ".join(kind.__name__ for kind in _ROLES)
        raise ValueError(f"{what} not known for the optimizer {type(optimizer).__name__}, only for {names}")
    return optimizer


def adjusted(
    optimizer: AbstractOptimizer,
    rates: dict[str, Any],
    *,
    forgetting: Any = 1.0,
    gradient: Any = 1.0,
    decay: Any = 1.0,
    why: str = "",
) -> AbstractOptimizer:
    """The optimizer with other `rates` (`learning_rate`, and `reference_rate` where it has one).

    Moreover with 1 - b of its averages times `forgetting`, in units in which the gradient is `gradient` times as large, and
    with parameters that decay `decay` times as fast, per unit of the learning rate.

    **Raises:** `ValueError` for an optimizer whose hyperparameters are not known, and where b would fall below 0, because
    of `why`.
    """
    known(optimizer, "how hyperparameters change with the length of a step is")
    roles = _ROLES[type(optimizer)]
    changes = dict(rates)
    for name in roles.averages:
        b = 1 - (1 - getattr(optimizer, name)) * forgetting
        if _checks.is_concrete(b):
            if float(b) < -4 * jnp.finfo(b.dtype).eps * float(forgetting):  # more than rounding
                raise ValueError(f"{name} would have to be {float(b):.4g}, below 0, {why}")
            b = jnp.maximum(b, 0)
        changes[name] = b
    for name, power in roles.gradients:
        changes[name] = getattr(optimizer, name) * gradient**power
    for name in roles.decays:
        changes[name] = getattr(optimizer, name) * decay
    return eqx.tree_at(lambda o: [getattr(o, name) for name in changes], optimizer, list(changes.values()))
