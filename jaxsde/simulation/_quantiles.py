"""Quantiles over seeds, with a bounded relative error, from the numbers of seeds in buckets that grow with the values."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _checks
from .._missing import missing_allowed
from ._counts import AbstractCounts, counted, seeds_in
from ._reducers import AbstractStatistics, unravel


def _as_probabilities(q: Any) -> tuple[float, ...]:
    values = _checks.as_float64("q", q)
    if values.ndim > 1 or values.size == 0:
        raise ValueError(f"q must be a probability or a list of some, got shape {values.shape}")
    _checks.number("q", q, low=0.0, high=1.0, closed="low high")
    return tuple(float(v) for v in np.atleast_1d(values))


class Quantiles(AbstractCounts):
    """Quantiles over the seeds, with a bounded relative error, for each coordinate of an observable.

    Values are counted in buckets that grow with them (masson2019): so many to each power of two that no value in a bucket is
    farther from the bucket's own than the accuracy. So memory does not grow with the number of seeds, and merging loses
    nothing. Values nearer to zero than the smallest of `magnitudes` count as zero, those farther than the largest as infinite.

    Each of the recorded times takes 4 bytes for each bucket and coordinate: 31 kB for each coordinate with the numbers that are
    given here by default.

    **Arguments:**

    - `q`: probabilities, one or several: 0.5 is the median, 0 the smallest value, 1 the largest.
    - `relative_accuracy`: the largest relative error of a quantile, from 1e-4 to 0.3.
    - `magnitudes`: the smallest and the largest absolute value that are told apart.

    **Raises:** `ValueError` for numbers out of range.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5))
    >>> law = js.simulate(js.SGD(0.1).chain(problem), jnp.zeros(1), steps=100, seeds=64, key=jax.random.key(0),
    ...                   reduce=js.Quantiles([0.1, 0.5, 0.9]), progress=False)["x"]
    >>> law.quantiles.shape
    (2, 3, 1)
    """

    q: tuple[float, ...] = eqx.field(static=True, converter=_as_probabilities)
    relative_accuracy: float = eqx.field(static=True, default=0.01)
    magnitudes: tuple[float, float] = eqx.field(static=True, default=(1e-9, 1e9))

    def __check_init__(self):
        _checks.number("relative_accuracy", self.relative_accuracy, low=1e-4, high=0.3, closed="low high")
        _checks.number("magnitudes", self.magnitudes, low=1e-37, high=1e37)
        if np.shape(self.magnitudes) != (2,) or not self.magnitudes[0] < self.magnitudes[1]:
            raise ValueError(f"magnitudes must be a small and a large number, got {self.magnitudes!r}")

    def init(self, like: Float[Array, " k"]) -> Int[Array, "k places"]:
        return jnp.zeros((like.shape[0], 2 * self._buckets.count + 3), jnp.int32)

    def update(
        self, stats: Int[Array, "k places"], values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]
    ) -> Int[Array, "k places"]:
        return stats + counted(self._buckets.place(values), keep, stats.shape[1])

    def result(
        self, stats: Int[Array, "*groups n k places"], ts: Float[Array, " n"], shape: PyTree, seeds: int
    ) -> "QuantileStatistics":
        values = jnp.asarray(self._buckets.values(), ts.dtype)
        return QuantileStatistics(ts, *_shares(self.q, ts.dtype), values, stats, shape)

    @property
    def _buckets(self) -> "_Buckets":
        return _Buckets(self.relative_accuracy, *self.magnitudes)


class _Buckets(NamedTuple):
    """Buckets for absolute values. Their edges are the numbers whose mantissa has `bits` binary digits: which bucket a value
    belongs to is read off its own digits, the same on every machine and in any precision."""

    accuracy: float
    smallest: float
    largest: float

    @property
    def bits(self) -> int:
        # From l to u = l (1 + 2^-bits) at most: the harmonic mean of both is nearest to all between them, to (u - l) / (u + l).
        return max(0, math.ceil(math.log2(1 / (2 * self.accuracy) - 0.5)))

    @property
    def count(self) -> int:
        return self._number(self.largest) - self._number(self.smallest) + 1

    def place(self, values: Array) -> Int[Array, "..."]:
        """In order of the values: 0 for those beyond the largest negative one, `count` + 1 for zero, and so on."""
        info = jnp.finfo(values.dtype)
        integer = {32: jnp.int32, 64: jnp.int64}[info.bits]
        # In double precision exponents begin elsewhere.
        first = self._number(self.smallest) - ((1023 - (1 - info.minexp)) << self.bits)
        digits = jax.lax.bitcast_convert_type(jnp.abs(values), integer) >> (info.nmant - self.bits)
        rank = jnp.clip(digits - first + 1, 0, self.count + 1).astype(jnp.int32)
        return self.count + 1 + jnp.where(values < 0, -rank, rank)

    def values(self) -> np.ndarray:
        """The value that stands for each place."""
        numbers = np.arange(self.count + 1) + self._number(self.smallest)
        edges = (numbers.astype(np.int64) << (_DIGITS - self.bits)).view(np.float64)
        means = 2 / (1 / edges[1:] + 1 / edges[:-1])
        positive = np.concatenate([means, [np.inf]])
        return np.concatenate([-positive[::-1], [0.0], positive])

    def _number(self, magnitude: float) -> int:
        return int(np.float64(magnitude).view(np.int64)) >> (_DIGITS - self.bits)


_DIGITS = 52
"""Of the mantissa in double precision."""


def _shares(q: tuple[float, ...], dtype: Any) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Probabilities and what they lack to 1, which has its own digits: 0.999 of a thousand seeds leaves one."""
    return jnp.asarray(q, dtype), jnp.asarray([1 - share for share in q], dtype)


class QuantileStatistics(AbstractStatistics):
    """Quantiles of an observable at each recorded time, from counts of seeds in buckets.

    - `ts`: the recorded times, shape `(n,)`; `q`: the probabilities.
    """

    ts: Float[Array, " n"]
    q: Float[Array, " m"]
    _rest: Float[Array, " m"]
    _values: Float[Array, " places"]
    _counts: Int[Array, "*groups n k places"]
    _shape: PyTree = eqx.field(static=True)
    _grouped: ClassVar[tuple[str, ...]] = ("_counts",)

    @property
    def count(self) -> Int[Array, "*groups n"]:
        """The number of seeds that have a finite value."""
        return seeds_in(self._counts)

    @property
    def quantiles(self) -> PyTree[Float[Array, "..."]]:
        """The quantiles, with an axis for the probabilities after that of times. nan where there is no seed."""
        with missing_allowed():
            return unravel(self._at(self.q, self._rest), self._shape)

    @property
    def stderr(self) -> PyTree[Float[Array, "..."]]:
        """The standard errors of the quantiles: half the distance of those whose ranks are one standard error away
        (woodruff1952). Within a bucket it is zero."""
        count = jnp.maximum(self.count, 1).astype(self.ts.dtype)[..., None]
        q, rest = (jnp.broadcast_to(share, (*self.count.shape, share.size)) for share in (self.q, self._rest))
        apart = jnp.sqrt(q * rest / count)
        within = lambda share: jnp.clip(share, 0, 1)
        low, high = (self._at(within(q + side), within(rest - side)) for side in (-apart, apart))
        with missing_allowed():
            return unravel(jnp.where(high == low, jnp.where(jnp.isnan(low), low, 0), (high - low) / 2), self._shape)

    def quantile(self, q: Any) -> PyTree[Float[Array, "..."]]:
        """The quantiles at other probabilities `q`, one or several.

        **Raises:** `ValueError` for probabilities out of range.
        """
        with missing_allowed():
            return unravel(self._at(*_shares(_as_probabilities(q), self.ts.dtype)), self._shape)

    def _at(self, q: Float[Array, "*some m"], rest: Float[Array, "*some m"]) -> Float[Array, "*groups n m k"]:
        """The least values that a share `q` of the seeds does not exceed, and the share `rest` may."""
        below, count = jnp.cumsum(self._counts, axis=-1), self.count[..., None]
        q, rest = (jnp.broadcast_to(share, (*self.count.shape, share.shape[-1])) for share in (q, rest))
        # 0.7 of 10 seeds is the seventh, however 0.7 is rounded. Few seeds on one side are counted from there.
        least = 1 - 4 * jnp.finfo(q.dtype).eps
        ranks = jnp.where(
            q < rest,
            jnp.ceil(q * count.astype(q.dtype) * least).astype(jnp.int32),
            count - jnp.floor(rest * count.astype(q.dtype) / least).astype(jnp.int32),
        )
        ranks = jnp.clip(ranks, 1, jnp.maximum(count, 1))
        find = jax.vmap(lambda cells, r: jnp.searchsorted(cells, r, side="left"), (0, None), 1)
        for _ in count.shape[:-1]:
            find = jax.vmap(find)
        place = find(below, ranks)
        return jnp.where(count[..., None] > 0, self._values[jnp.minimum(place, self._values.size - 1)], jnp.nan)
