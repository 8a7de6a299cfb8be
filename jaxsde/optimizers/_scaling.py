"""Scaling rules: the hyperparameters for another batch size that leave an optimizer's SDE as it is."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from .. import _checks
from .._clock import step_of
from ..problems import AbstractScaleFamily, Gaussian, Problem
from ._adjusted import adjusted, roles_of
from ._base import AbstractOptimizer, check_problem


def scaled(opt: AbstractOptimizer, batch_ratio: ArrayLike) -> AbstractOptimizer:
    """The optimizer for a batch $\\delta$ times as large, whose noise has the covariance $\\Sigma / \\delta$.

    - SGD, the linear rule: $\\eta \\to \\delta\\eta$, which keeps $\\eta\\Sigma$.
    - SignSGD: $\\eta \\to \\sqrt\\delta\\,\\eta$, which keeps $\\eta\\sigma$, and with it the law where noise dominates
      (derived here from Lemma 3.7).
    - RMSprop, Adam, the square-root rule: with $\\kappa = \\sqrt\\delta$, $\\eta \\to \\kappa\\eta$,
      $1 - \\beta_i \\to \\kappa^2 (1 - \\beta_i)$, $\\epsilon \\to \\epsilon / \\kappa$, and $v_0 \\to v_0 / \\kappa^2$
      (malladi2022).
    - RMSpropW, AdamW: moreover $\\theta \\to \\kappa\\theta$, from the invariance of the bound of Lemma 3.13.
    - An optimizer of your own, by the `roles` that its class declares: the square-root rule if it is `normalised`, else the
      linear one, which scales averages alike and keeps weight decay.

    In each case `steps` becomes `steps` / $\\delta$: a step does the work of $\\delta$ smaller ones. Schedules are scaled and
    compressed accordingly.

    **Arguments:** `opt`; `batch_ratio`: $\\delta > 0$, a number.

    **Returns:** an optimizer of the same kind.

    **Raises:** `ValueError` where a decay rate would fall below 0, and for an optimizer whose class declares no `roles`.

    >>> import jaxsde as js
    >>> new = scaled(js.AdamW(0.01, b1=0.9, b2=0.99, weight_decay=0.1), 4.0)
    >>> [round(float(v), 4) for v in (new.learning_rate, new.b1, new.b2, new.weight_decay)]
    [0.02, 0.6, 0.96, 0.2]
    """
    batch_ratio = _checked_ratio(batch_ratio)
    root = jnp.sqrt(batch_ratio)
    if roles_of(opt, "a scaling rule is").normalised:
        return _changed(opt, root, batch_ratio, batch_ratio, root, root)
    return _changed(opt, batch_ratio, batch_ratio, batch_ratio, root, 1.0)


def fixed_rate_scaled(opt: AbstractOptimizer, batch_ratio: ArrayLike) -> AbstractOptimizer:
    """The adaptive optimizer for a batch $\\delta$ times as large at the same learning rate.

    $1 - \\beta_i \\to \\sqrt\\delta (1 - \\beta_i)$, $\\theta \\to \\sqrt\\delta\\,\\theta$, $\\epsilon \\to \\epsilon /
    \\sqrt\\delta$, and `steps` becomes `steps` / $\\sqrt\\delta$: the curve against rescaled time keeps its rate, while the
    stationary covariance falls by the factor $1 / \\sqrt\\delta$. The member of the family of Lemma 3.13 with $\\kappa = 1$.

    **Arguments, returns, raises:** as those of [`scaled`][]; SGD and SignSGD have nothing to scale and are refused.

    >>> import jaxsde as js
    >>> round(float(fixed_rate_scaled(js.AdamW(0.01, b1=0.9, b2=0.99, weight_decay=0.1), 4.0).weight_decay), 4)
    0.2
    """
    batch_ratio = _checked_ratio(batch_ratio)
    roles = roles_of(opt, "a scaling rule is")
    if not (roles.normalised and roles.averages):
        raise ValueError(f"the rule is for adaptive methods: {opt.called} has nothing to scale but its learning rate")
    root = jnp.sqrt(batch_ratio)
    return _changed(opt, jnp.ones(()), root, root, root, root)


def with_batch(problem: Problem, batch_ratio: ArrayLike) -> Problem:
    """The problem with a batch $\\delta$ times as large: noise of $1 / \\sqrt\\delta$ times the scale.

    Exact for Gaussian noise. A mean of other draws has this covariance too, but tends to a Gaussian, while the noise here
    keeps its law.

    **Arguments:** `problem` with noise of constant law and finite variance; `batch_ratio`: $\\delta > 0$, a number.

    **Returns:** a `Problem` with the same loss.

    **Raises:** `ValueError` for other noise.

    >>> import jaxsde as js
    >>> with_batch(js.Problem(js.Quadratic([1.0]), js.Gaussian(2.0)), 4.0).noise.scale.item()
    1.0
    """
    batch_ratio = _checked_ratio(batch_ratio)
    check_problem(problem)
    noise = problem.noise
    if not noise.has_variance:
        raise ValueError(f"a mean of {type(noise).__name__} noise without variance does not shrink as one over the root")
    if type(noise) is Gaussian and noise.matrix is not None:
        smaller: Any = Gaussian(covariance=noise.matrix / batch_ratio)
    elif type(noise) is Gaussian or isinstance(noise, AbstractScaleFamily):
        scale = jax.tree.map(lambda s: s / jnp.sqrt(batch_ratio), noise.scale)
        smaller = eqx.tree_at(lambda n: n.scale, noise, scale)
    else:
        raise ValueError(f"with_batch needs noise of constant law, got {type(noise).__name__}")
    return Problem(problem.loss, smaller)


def _checked_ratio(batch_ratio: ArrayLike) -> ArrayLike:
    _checks.scalar("batch_ratio", batch_ratio, low=0.0)
    return _checks.whole_as_float(batch_ratio)


def _changed(opt: AbstractOptimizer, kappa: Any, steps: Any, forgetting: Any, noise: Any, decay: Any) -> AbstractOptimizer:
    """The optimizer with rates times `kappa`, `steps` times fewer steps, 1 - beta times `forgetting`, decay times `decay`, for
    gradients whose noise is `noise` times smaller."""
    rates: dict[str, Any] = {"learning_rate": opt.rate * kappa}
    if callable(opt.learning_rate):
        rates = {
            "learning_rate": eqx.Partial(_compressed, opt.learning_rate, kappa, steps), "reference_rate": opt.rate * kappa
        }  # fmt: skip
    why = "for a batch this many times larger"
    return adjusted(opt, rates, forgetting=forgetting, gradient=1 / noise, decay=decay, why=why)


def _compressed(schedule: Any, kappa: Any, steps: Any, count: Array) -> Array:
    # A schedule counts whole steps: the one that has begun by then, where `steps` is no whole number.
    place = count * jnp.asarray(steps, jnp.result_type(float))
    return kappa * schedule(step_of(place, float(jnp.finfo(place.dtype).eps)))
