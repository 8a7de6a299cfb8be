"""Covariances between times, over seeds."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _checks
from .._missing import missing_allowed
from .._moments import merge_moments
from ._reducers import AbstractStatistics, AbstractSummary, unravel

_LONGEST = 1000


def _as_lags(lags: Any) -> tuple[int, ...]:
    numbers = (lags,) if np.ndim(lags) == 0 else tuple(lags)
    if not numbers:
        raise ValueError("lags must be one number of records or more, got none")
    found = tuple(_checks.count("lags", lag, least=0) for lag in numbers)
    if max(found) > _LONGEST:
        raise ValueError(f"lags must be at most {_LONGEST}, as values at so many records are kept, got {max(found)}")
    return found


class _LagSums(NamedTuple):
    """For each lag: how many seeds, and for each coordinate the means and the sums of products of the deviations from them."""

    count: Int[Array, " lags"]
    mean: Float[Array, "lags 2 k"]  # at the record, and at the earlier one
    squares: Float[Array, "lags 2 k"]
    products: Float[Array, "lags k"]


class Covariances(AbstractSummary):
    """Covariances of an observable between each recorded time and earlier ones, over seeds, for each coordinate.

    Each seed's values at as many records as the longest lag are kept along the way, so memory grows with seeds that run at a
    time, and not with all of them.

    **Arguments:** `lags`: one number or several: how many records lie between the two times. With `every=10` in [`simulate`][]
    a lag of 3 is one of 30 optimizer steps; one of 0 gives the variance.

    **Raises:** `ValueError` or `TypeError` for lags that are no numbers of records, or above 1,000.

    >>> import jaxsde as js
    >>> chain = js.SGD(0.1).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5)))
    >>> run = js.simulate(chain, jnp.zeros(1), steps=100, every=1, seeds=64, key=jax.random.key(0),
    ...                   reduce=js.Covariances([0, 1, 10]), progress=False)["x"]
    >>> run.covariance.shape, run.correlation[-1, 0, 0].round(4).item()
    ((101, 3, 1), 1.0)
    """

    lags: tuple[int, ...] = eqx.field(static=True, converter=_as_lags)
    moments_only: ClassVar[bool] = True

    @property
    def memory(self) -> int:
        return max(self.lags)

    @property
    def seed_multiple(self) -> int:
        return 1

    def init(self, like: Float[Array, " records_k"]) -> _LagSums:
        lags, k = len(self.lags), like.shape[0] // (self.memory + 1)
        pairs = jnp.zeros((lags, 2, k), like.dtype)
        return _LagSums(jnp.zeros((lags,), jnp.int32), pairs, pairs, jnp.zeros((lags, k), like.dtype))

    def update(self, stats: _LagSums, values: Float[Array, "seeds records_k"], keep: Bool[Array, " seeds"]) -> _LagSums:
        seeds = values.shape[0]
        records = values.reshape(seeds, self.memory + 1, values.shape[1] // (self.memory + 1))
        then = records[:, np.asarray(self.lags)]
        pairs = jnp.stack([jnp.broadcast_to(records[:, :1], then.shape), then], axis=2)  # seeds, lags, 2, k
        kept = keep[:, None] & jnp.all(jnp.isfinite(then), axis=2)
        count = jnp.sum(kept, axis=0, dtype=jnp.int32)
        wanted, weight = kept[:, :, None, None], 1 / jnp.maximum(count, 1).astype(values.dtype)[None, :, None, None]
        mean = jnp.sum(jnp.where(wanted, weight * pairs, 0), axis=0)
        deviations = jnp.where(wanted, pairs - mean[None], 0)
        squares, products = jnp.sum(deviations**2, axis=0), jnp.sum(deviations[:, :, 0] * deviations[:, :, 1], axis=0)
        return self.merge(stats, _LagSums(count, mean, squares, products))

    def merge(self, a: _LagSums, b: _LagSums) -> _LagSums:
        counts = a.count[:, None, None], b.count[:, None, None]
        mean, squares = merge_moments(counts[0], a.mean, a.squares, counts[1], b.mean, b.squares)
        together = jnp.maximum(a.count + b.count, 1).astype(mean.dtype)[:, None]
        weight = a.count[:, None].astype(mean.dtype) * (b.count[:, None].astype(mean.dtype) / together)
        shift = b.mean - a.mean
        between = jnp.where(weight > 0, weight * shift[:, 0] * shift[:, 1], 0)
        return _LagSums(a.count + b.count, mean, squares, a.products + b.products + between)

    def result(self, stats: _LagSums, ts: Float[Array, " n"], shape: PyTree, seeds: int) -> "CovarianceStatistics":
        return CovarianceStatistics(ts, jnp.asarray(self.lags), *stats, shape)


class CovarianceStatistics(AbstractStatistics):
    """Covariances between times, with axes of recorded times, of lags, and of the observable.

    - `ts`: the recorded times, shape `(n,)`; `lags`: the lags, in records.
    - `count`: over how many seeds, shape `(n, lags)`: none where the earlier time would be before the start.
    """

    ts: Float[Array, " n"]
    lags: Int[Array, " lags"]
    count: Int[Array, "*groups n lags"]
    _mean: Float[Array, "*groups n lags 2 k"]
    _squares: Float[Array, "*groups n lags 2 k"]
    _products: Float[Array, "*groups n lags k"]
    _shape: PyTree = eqx.field(static=True)
    _grouped: ClassVar[tuple[str, ...]] = ("count", "_mean", "_squares", "_products")

    @property
    def covariance(self) -> PyTree[Float[Array, "..."]]:
        """The unbiased covariance between each recorded time and the one that lies `lags` records before it; nan where there
        is none."""
        with missing_allowed():
            return unravel(self._products / self._degrees, self._shape)

    @property
    def correlation(self) -> PyTree[Float[Array, "..."]]:
        """The covariance divided by both standard deviations."""
        with missing_allowed():
            return unravel(self._correlation, self._shape)

    @property
    def stderr(self) -> PyTree[Float[Array, "..."]]:
        """The standard error of the covariance if the values at both times are jointly normal; for other laws keep a
        [`Jackknife`][]."""
        with missing_allowed():
            variances = self._squares / self._degrees[..., None, :]
            fourth = variances[..., 0, :] * variances[..., 1, :] + (self._products / self._degrees) ** 2
            return unravel(jnp.sqrt(fourth / self._degrees), self._shape)

    @property
    def _correlation(self) -> Array:
        deviations = jnp.sqrt(self._squares)
        return jnp.where(self.count[..., None] > 1, self._products, jnp.nan) / (deviations[..., 0, :] * deviations[..., 1, :])

    @property
    def _degrees(self) -> Array:
        degrees = (self.count - 1).astype(self._mean.dtype)
        return jnp.where(self.count > 1, degrees, jnp.nan)[..., None]
