"""Measurements that several statements share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..estimation import Stationary, expectations, extrapolate_law, stationary
from ..optimizers import SignSGD
from ..problems import Gaussian, Problem, Quadratic
from ..processes import SDE, Chain
from ..simulation import Moments, simulate

# A Hessian with coupled coordinates, and noise whose correlations are others than the Hessian's.
HESSIAN = np.array([[2.0, 0.6, -0.3], [0.6, 1.2, 0.4], [-0.3, 0.4, 0.8]])
COVARIANCE = np.array([[1.0, -0.3, 0.2], [-0.3, 0.6, 0.1], [0.2, 0.1, 0.8]])
START = np.array([1.0, -0.8, 0.6])


def quadratic(hessian: Any, scale: Any = 1.0) -> Problem:
    """A quadratic with independent Gaussian noise."""
    return Problem(Quadratic(jnp.asarray(hessian, float)), Gaussian(jnp.asarray(scale, float)))


def coupled() -> Problem:
    """The quadratic in three coupled coordinates with correlated noise."""
    return Problem(Quadratic(jnp.asarray(HESSIAN, float)), Gaussian(covariance=jnp.asarray(COVARIANCE, float)))


def key(number: int) -> jax.Array:
    """A key for the check with this number of its own."""
    return jax.random.key(number)


# A value and its standard error.
Measured = tuple[np.ndarray, np.ndarray]


class Moment(NamedTuple):
    """Means and variances over seeds at the end of a run, with standard errors."""

    mean: np.ndarray
    mean_stderr: np.ndarray
    variance: np.ndarray
    variance_stderr: np.ndarray


def end(process: Chain | SDE, x0: Any, *, steps: int, seeds: int, number: int, substeps: int = 1) -> Moment:
    """Plain moments of the parameters after `steps`, over independent seeds; for nearly Gaussian laws."""
    x0 = jnp.asarray(x0, float)
    run = simulate(process, x0, steps=steps, seeds=seeds, key=key(number), substeps=substeps, progress=False)["x"]
    variance = np.asarray(run.variance, float)[-1]
    return Moment(np.asarray(run.mean, float)[-1], np.sqrt(variance / seeds), variance, variance * np.sqrt(2 / (seeds - 1)))


def plain_covariance(process: Chain | SDE, x0: Any, *, steps: int, seeds: int, number: int, substeps: int = 1) -> Measured:
    """The covariance over seeds at the end of a run and its standard errors, as of a Gaussian law."""
    x0 = jnp.asarray(x0, float)
    run = simulate(
        process,
        x0,
        steps=steps,
        seeds=seeds,
        key=key(number),
        substeps=substeps,
        reduce=Moments(covariance=True),
        progress=False,
    )
    c = np.asarray(run["x"].covariance, float)[-1]
    return c, np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / (seeds - 1))


class SignMoments(NamedTuple):
    """Mean and covariance of the sign of a stochastic gradient, with standard errors."""

    mean: np.ndarray
    mean_stderr: np.ndarray
    covariance: np.ndarray
    covariance_stderr: np.ndarray


def sign_moments(problem: Problem, x0: Any, seeds: int, number: int) -> SignMoments:
    """Moments of the sign of one stochastic gradient, from one step of SignSGD's chain."""
    x0 = jnp.asarray(x0, float)
    run = simulate(
        SignSGD(1.0).chain(problem), x0, steps=1, seeds=seeds, key=key(number), progress=False,
        observe={"sign": lambda x: x0 - x}, reduce=Moments(covariance=True),
    )["sign"]  # fmt: skip
    mean, covariance = np.asarray(run.mean, float)[-1], np.asarray(run.covariance, float)[-1]
    # The fourth moments of centred signs, from the squares of signs being 1.
    a = mean**2
    fourth = np.add.outer(-a, -a) + 1 - 3 * np.outer(a, a) + 4 * np.outer(mean, mean) * (covariance + np.outer(mean, mean))
    errors = np.sqrt(np.maximum(fourth - covariance**2, 1e-12) / seeds)
    return SignMoments(mean, np.sqrt(np.diag(covariance) / seeds), covariance, errors)


def settled(
    process: Chain | SDE, x0: Any, *, seeds: int, number: int, substeps: int = 1, steps: int | None = None
) -> Stationary:
    """The stationary law, by control variates where there are any."""
    x0 = jnp.asarray(x0, float)
    return stationary(
        process,
        x0,
        key=key(number),
        seeds=seeds,
        substeps=substeps,
        steps=steps,
        observe={},
        diagnostic_seeds=64,
        progress=False,
    )


def along(
    process: Chain | SDE, x0: Any, functions: Any, *, steps: int, every: int, seeds: int, number: int, substeps: int = 1
) -> Any:
    """Expectations along the way, by control variates where there are any."""
    x0 = jnp.asarray(x0, float)
    return expectations(
        process, x0, functions, steps=steps, every=every, seeds=seeds, key=key(number), substeps=substeps, progress=False
    )


def settled_covariance(process: Chain | SDE, x0: Any, *, seeds: int, number: int, substeps: int = 4) -> Measured:
    """The stationary covariance and its standard errors; an SDE's extrapolated to a solver step of zero."""
    law = _limit(process, x0, seeds, number, substeps)
    return law.covariance, law.stderr.covariance


def settled_loss(process: Chain | SDE, x0: Any, *, seeds: int, number: int, substeps: int = 4) -> Measured:
    """The stationary loss and its standard error; an SDE's extrapolated to a solver step of zero."""
    law = _limit(process, x0, seeds, number, substeps)
    return law.loss, law.stderr.loss


def _limit(process: Chain | SDE, x0: Any, seeds: int, number: int, substeps: int) -> Stationary:
    refinements = (1,) if isinstance(process, Chain) else (substeps, 2 * substeps)
    laws = [settled(process, x0, seeds=seeds, number=number, substeps=n) for n in refinements]
    return extrapolate_law(*laws) if len(laws) == 2 else laws[0]
