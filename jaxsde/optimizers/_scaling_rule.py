"""Scaling rules found by the machine: the exponents of the batch size that leave an optimizer's SDE as it is."""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import _checks
from .._tree import as_params
from ..derivation import derived_sde, linearise
from ..problems import Problem, Quadratic
from ._adjusted import roles_of
from ._base import AbstractOptimizer, check_optimizer, check_problem
from ._probed_roles import AVERAGE_NAMES
from ._roles import Roles
from ._scaling import with_batch

_SHARE = 0.1
"""By which numbers are changed, up and down, for derivatives of logarithms: of powers these are exact at any size."""
_NOISES = (1.0, 4.0)
"""Factors of the noise's covariance at which the SDE is to stay as it is: a rule is for all of them."""
_UNSEEN = 1e-3
"""Logarithmic derivatives below: the hyperparameter has no effect here."""


class ScalingRule(NamedTuple):
    """Exponents of the batch size $\\delta$; see [`scaling_rule`][]."""

    exponents: dict[str, float]
    """For each hyperparameter: it is multiplied by $\\delta$ to this power; of a decay constant b that is 1 - b."""
    averages: tuple[str, ...]
    """The decay constants among them."""
    unseen: tuple[str, ...]
    """Hyperparameters without effect near this stationary point, which stay as they are."""
    mismatch: float
    """The largest change, per unit of $\\log \\delta$, that the rule leaves in the logarithms of the rates and variances."""

    def apply(self, opt: AbstractOptimizer, batch_ratio: float) -> AbstractOptimizer:
        """The optimizer for a batch `batch_ratio` times as large; `steps` become `steps` / `batch_ratio`.

        **Raises:** `ValueError` where a decay constant would fall below 0.
        """
        _checks.scalar("batch_ratio", batch_ratio, low=0.0)
        numbers = opt.hyperparameters
        new = {}
        for name, power in self.exponents.items():
            factor = float(batch_ratio) ** power
            value = numbers[name]
            new[name] = 1 - (1 - value) * factor if name in self.averages else value * factor
            if name in self.averages and float(new[name]) < 0:
                raise ValueError(
                    f"{name} would have to be {float(new[name]):.4g}, below 0, for a batch {batch_ratio} times as large"
                )
        return _with_numbers(opt, new)


def scaling_rule(opt: AbstractOptimizer, problem: Problem, x0: PyTree | None = None) -> ScalingRule:
    """Finds how hyperparameters must change with the batch size so that the SDE, in units of work, stays as it is.

    With a batch $\\delta$ times as large the noise has the covariance $\\Sigma / \\delta$, and one step does the work of
    $\\delta$. Near its stationary point the derived SDE has as many rates as its state has numbers, and a stationary covariance
    of the parameters. The rule keeps the covariance, and all rates per unit of work: one linear equation for each, in the
    exponents of the hyperparameters. It finds the linear rule for SGD and the square-root rule for Adam.

    **Arguments:**

    - `opt`: an optimizer with a constant learning rate, such as `jaxsde.Optax(optax.lion, 0.01)`.
    - `problem`: with noise of constant law and finite variance, of few parameters: a quadratic of one or two does.
    - `x0`: where the stationary point is looked for; by default, for a [`Quadratic`][], at its minimum.

    **Returns:** a [`ScalingRule`][], with a method `apply(opt, batch_ratio)`.

    **Raises:** `ValueError` where the derived SDE has no linear picture near `x0` (see [`linearise`][]), for a schedule, and
    for noise without a variance.

    >>> import jaxsde as js
    >>> rule = scaling_rule(js.SGD(0.01), js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))
    >>> {name: round(power, 2) for name, power in rule.exponents.items()}
    {'learning_rate': 1.0}
    """
    check_optimizer(opt)
    check_problem(problem)
    if opt.reference_rate is not None:
        raise ValueError("a scaling rule is found for a constant learning rate, not for a schedule")
    x0 = _minimum(problem) if x0 is None else as_params(x0)
    opt = _with_numbers(opt, _visible(opt, problem, x0))
    averages = (*AVERAGE_NAMES, *_roles(opt).averages)

    def observed(changes: dict[str, float], batch: float) -> np.ndarray:
        numbers = opt.hyperparameters
        new = {}
        for name, log in changes.items():
            value = float(numbers[name])
            new[name] = 1 - (1 - value) * np.exp(log) if name in averages else value * np.exp(log)
        changed = _with_numbers(opt, new)
        return np.array([_logarithms(changed, with_batch(problem, np.exp(batch) / n), x0) for n in _NOISES])

    names = [name for name, value in opt.hyperparameters.items() if float(value) != 0]
    slope = lambda up, down: (up - down) / (2 * _SHARE)
    by_batch = slope(observed({}, _SHARE), observed({}, -_SHARE))
    columns = np.array([slope(observed({name: _SHARE}, 0.0), observed({name: -_SHARE}, 0.0)).ravel() for name in names]).T
    # Symmetric function number k of the rates goes with the k-th power of the work per step; covariances stay.
    rates = by_batch.shape[1] - _size(x0)
    target = (np.concatenate([np.arange(1, rates + 1), np.zeros(_size(x0))]) - by_batch).ravel()
    seen = [i for i in range(len(names)) if np.max(np.abs(columns[:, i])) > _UNSEEN]
    powers = np.linalg.lstsq(columns[:, seen], target, rcond=1e-4)[0]
    mismatch = float(np.max(np.abs(columns[:, seen] @ powers - target)))
    exponents = {names[i]: float(power) for i, power in zip(seen, powers, strict=True)}
    unseen = tuple(name for name in names if name not in exponents)
    return ScalingRule(exponents, tuple(a for a in averages if a in exponents), unseen, mismatch)


def _size(x0: PyTree) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(x0))


def _roles(opt: AbstractOptimizer) -> Roles:
    try:
        return roles_of(opt, "what hyperparameters do is")
    except ValueError:
        return Roles()


def _with_numbers(opt: AbstractOptimizer, new: dict[str, Any]) -> AbstractOptimizer:
    old = opt.hyperparameters
    values = [jnp.asarray(value, old[name].dtype) for name, value in new.items()]
    return eqx.tree_at(lambda o: [o.hyperparameter(name) for name in new], opt, values) if new else opt


def _visible(opt: AbstractOptimizer, problem: Problem, x0: PyTree) -> dict[str, Any]:
    """Numbers in the units of the gradient, such as eps, as large as its noise: smaller ones have no effect to see."""
    roles, numbers = _roles(opt), opt.hyperparameters
    variance = float(np.mean([np.mean(leaf) for leaf in jax.tree.leaves(problem.noise.variance(x0))]))
    return {name: max(float(numbers[name]), np.sqrt(variance)) for name in roles.gradients if name in numbers}


def _minimum(problem: Problem) -> PyTree:
    if not isinstance(problem.loss, Quadratic):
        raise TypeError("x0 is needed, near a stationary point, unless the loss is a jaxsde.Quadratic")
    minimum = 0.0 if problem.loss.minimum is None else problem.loss.minimum
    return jnp.zeros(problem.loss.hessian.shape[0]) + minimum


def _logarithms(opt: AbstractOptimizer, problem: Problem, x0: PyTree) -> np.ndarray:
    """Of the elementary symmetric functions of the derived SDE's rates per step, and of the parameters' variances."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        response = linearise(derived_sde(opt.chain(problem), start=x0, order=1), x0)
    if not np.all(np.isfinite(response.covariance)):
        raise ValueError(f"there is no linear picture to scale: {response.why}")
    symmetric = np.abs(np.poly(-float(opt.rate) * response.jacobian))[1:]
    return np.log(np.concatenate([symmetric, np.diagonal(response.covariance)]))
