"""Moments of a stationary law: averages over seeds, and over pairs of records of the run's second half."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy  # whose parts load when they are first used
from jaxtyping import PyTree

from .._tree import flat
from ..simulation import JackknifeStatistics
from ._diagnostics import trendless
from ._statistics import choose_better, jackknife_stderr, rounding_stderr

# The largest number of coordinates for which full covariances are recorded.
LARGEST_SIZE = 64

# The probability that the verdict finds a trend in one of the curves although there is none.
_FALSE_ALARMS = 0.003


class StationaryErrors(NamedTuple):
    """Standard errors of the entries of a [`Stationary`][], or the factors by which their variances were reduced."""

    mean: np.ndarray
    covariance: Any
    loss: np.ndarray
    variance: np.ndarray


def moment_functions(loss: Callable, reference: jax.Array) -> dict[str, Callable[[PyTree], jax.Array]]:
    """What to record for the moments, which are taken relative to `reference`."""
    second = _products if reference.size <= LARGEST_SIZE else _squares
    return {"mean": eqx.Partial(_offset, reference), "second": eqx.Partial(second, reference), "loss": loss}


def _offset(reference: jax.Array, x: PyTree) -> jax.Array:
    return flat(x) - reference.astype(flat(x).dtype)


def _products(reference: jax.Array, x: PyTree) -> jax.Array:
    offset = _offset(reference, x)
    return jnp.outer(offset, offset)


def _squares(reference: jax.Array, x: PyTree) -> jax.Array:
    return _offset(reference, x) ** 2


class PairedMeans(NamedTuple):
    """The mean of an observable in pairs of records: over all seeds `(pairs, k)`, without each group `(groups, pairs, k)`, and
    the standard errors of records `(pairs, k)`."""

    total: np.ndarray
    without: np.ndarray
    stderr: np.ndarray

    @staticmethod
    def of(statistics: JackknifeStatistics, start: int, known: Any) -> "PairedMeans":
        """From the record `start` on, with `known` added to the means at all records."""

        def curve(moments: Any) -> np.ndarray:
            mean = np.asarray(moments.mean, float)
            return _paired(mean.reshape(*moments.count.shape, -1) + known, start, axis=moments.count.ndim - 1)

        stderr = np.asarray(statistics.total.stderr, float).reshape(len(statistics.ts), -1)
        return PairedMeans(curve(statistics.total), curve(statistics.left_out), _paired(stderr, start, axis=0))

    @property
    def finite(self) -> bool:
        """Whether the means are finite."""
        return bool(np.all(np.isfinite(self.total)))


def _paired(curves: np.ndarray, start: int, axis: int) -> np.ndarray:
    """Averages the records from `start` on two by two along the axis of times."""
    tail = np.moveaxis(curves, axis, 0)[start:]
    return np.moveaxis(tail.reshape(-1, 2, *tail.shape[1:]).mean(axis=1), 0, axis)


def without_trend(curves: Mapping[str, PairedMeans]) -> bool:
    """Tells whether no curve shows a trend. The limit grows with the number of curves, as chance then makes larger trends."""
    groups, count = next(iter(curves.values())).without.shape[0], sum(c.total.shape[1] for c in curves.values())
    limit = float(scipy.special.stdtrit(groups - 1, 1 - _FALSE_ALARMS / (2 * count)))
    return all(
        trendless(c.total[:, i], c.stderr[:, i], c.without[..., i], limit)
        for c in curves.values()
        for i in range(c.total.shape[1])
    )


def averages(curves: Mapping[str, PairedMeans], reference: np.ndarray, dtype: Any) -> tuple[Any, Any]:
    """Averages mean, covariance and loss over time. Standard errors are those of the jackknife and a few roundings."""
    d = reference.size

    def quantities(pick: Callable[[PairedMeans], np.ndarray]) -> StationaryErrors:
        mean, second, loss = (pick(curves[n]).mean(axis=-2) for n in ("mean", "second", "loss"))
        covariance = None
        if d <= LARGEST_SIZE:
            covariance = second.reshape(*second.shape[:-1], d, d) - mean[..., :, None] * mean[..., None, :]
        variance = second - mean**2 if covariance is None else np.diagonal(covariance, axis1=-2, axis2=-1)
        return StationaryErrors(mean + reference, covariance, loss[..., 0], variance)

    def error(value: Any, parts: Any) -> Any:
        return None if value is None else np.hypot(jackknife_stderr(parts), rounding_stderr(value, dtype))

    values, parts = quantities(lambda c: c.total), quantities(lambda c: c.without)
    return values, StationaryErrors(*map(error, values, parts))


def better_of(plain: tuple[Any, Any], best: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """Takes, entry by entry, the plain estimate or the controlled one, with its standard error and the reduction."""
    columns = zip(plain[0], plain[1], best[0], best[1], strict=True)
    chosen: list[tuple[Any, Any, Any]] = [
        (None, None, None) if column[0] is None else choose_better(*column) for column in columns
    ]
    values, errors, factors = (StationaryErrors(*entries) for entries in zip(*chosen, strict=True))
    return values, errors, factors
