"""Optimizers with their hyperparameters changed by what they do."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .. import _checks
from ._base import AbstractOptimizer, check_optimizer
from ._roles import Roles


def roles_of(optimizer: Any, what: str) -> Roles:
    """The roles that the optimizer's own class declares, or its instance where the class has them as a property; raises
    `ValueError` where there are none: `what` is not known."""
    check_optimizer(optimizer)
    kind = type(optimizer)
    roles = vars(kind).get("roles")
    if isinstance(roles, property):
        roles = optimizer.roles
    if roles is None:
        names = ", ".join(sorted({other.__name__ for other in _subclasses(AbstractOptimizer) if vars(other).get("roles")}))
        raise ValueError(
            f"{what} not known for the optimizer {kind.__name__}, only for {names}: "
            "the class of an optimizer declares what its hyperparameters do as `roles`"
        )
    return roles


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

    **Raises:** `ValueError` for an optimizer whose class declares no roles, and where b would fall below 0, because of `why`.
    """
    roles = roles_of(optimizer, "how hyperparameters change with the length of a step is")
    changes = dict(rates)
    for name in roles.averages:
        b = 1 - (1 - optimizer.hyperparameter(name)) * forgetting
        if _checks.is_concrete(b):
            if float(b) < -4 * jnp.finfo(b.dtype).eps * float(forgetting):  # more than rounding
                raise ValueError(f"{name} would have to be {float(b):.4g}, below 0, {why}")
            b = jnp.maximum(b, 0)
        changes[name] = b
    for names, factor in ((roles.gradients, gradient), (roles.squares, gradient**2), (roles.decays, decay)):
        changes |= {name: optimizer.hyperparameter(name) * factor for name in names}
    return eqx.tree_at(lambda o: [o.hyperparameter(name) for name in changes], optimizer, list(changes.values()))


def _subclasses(kind: type) -> Iterator[type]:
    for other in kind.__subclasses__():
        yield other
        yield from _subclasses(other)
