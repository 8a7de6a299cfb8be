"""Whole laws over seeds: numbers of seeds in bins. They are whole numbers, so that merging rounds nothing."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _checks
from .._missing import missing_allowed
from ._reducers import AbstractReducer, unravel


def _as_edges(edges: Any) -> Float[Array, "..."]:
    numbers = _checks.as_float64("edges", edges)
    if numbers.ndim == 0 or numbers.shape[-1] < 2:
        raise ValueError(f"edges must have two numbers or more along its last axis, got shape {numbers.shape}")
    made = jnp.asarray(numbers, float)
    if not np.all(np.isfinite(made)) or not np.all(np.diff(made, axis=-1) > 0):
        raise ValueError(f"edges must be finite and increase in {made.dtype}")
    return made


def _as_edges_of_pairs(edges: Any) -> tuple[Float[Array, " a"], Float[Array, " b"]]:
    both = edges if isinstance(edges, (tuple, list)) and len(edges) == 2 and np.ndim(edges[0]) == 1 else (edges, edges)
    first, second = (_as_edges(part) for part in both)
    if first.ndim != 1 or second.ndim != 1:
        raise ValueError(f"edges must be one list of numbers, or one for each axis, got shape {first.shape}")
    return first, second


def _as_pairs(pairs: Any) -> tuple[tuple[int, int], ...]:
    if np.shape(pairs) == (2,):
        pairs = [pairs]
    if np.ndim(pairs) != 2 or np.shape(pairs)[1] != 2 or not len(pairs):
        raise ValueError(f"pairs must be pairs of numbers of coordinates, such as [(0, 1)], got {pairs!r}")
    return tuple((_checks.count("pairs", a, least=0), _checks.count("pairs", b, least=0)) for a, b in pairs)


def _as_probabilities(q: Any) -> tuple[float, ...]:
    values = _checks.as_float64("q", q)
    if values.ndim > 1 or values.size == 0:
        raise ValueError(f"q must be a probability or a list of some, got shape {values.shape}")
    _checks.number("q", q, low=0.0, high=1.0, closed="low high")
    return tuple(float(v) for v in np.atleast_1d(values))


class _AbstractCounts(AbstractReducer):
    """Numbers of seeds, which are added."""

    moments_only: ClassVar[bool] = False
    rounds: ClassVar[bool] = False

    @property
    def seed_multiple(self) -> int:
        return 1

    def merge(self, a: Int[Array, "..."], b: Int[Array, "..."]) -> Int[Array, "..."]:
        return a + b


def _counted(places: Int[Array, "seeds k"], keep: Bool[Array, " seeds"], size: int) -> Int[Array, "k size"]:
    """How many of the seeds that are kept have each of the places 0, ..., size - 1, for each coordinate."""
    coordinates = jnp.arange(places.shape[1])[None]
    return jnp.zeros((places.shape[1], size), jnp.int32).at[coordinates, places].add(keep[:, None].astype(jnp.int32))


def _seeds_in(counts: Int[Array, "n k places"]) -> Int[Array, " n"]:
    """How many seeds were counted: as many for each coordinate, of which there may be none."""
    return jnp.max(jnp.sum(counts, axis=-1), axis=1, initial=0)


class Histogram(_AbstractCounts):
    """How many seeds lie in each bin, for each coordinate of an observable.

    As in NumPy, a bin holds its lower edge and not its upper one, but the last bin holds both. Memory does not grow with the
    number of seeds.

    **Arguments:** `edges`: increasing numbers, one more than there are bins. All coordinates have the same ones or, with axes
    of the observable's shape before the last one, each its own.

    **Raises:** `ValueError` for edges that do not increase, or of another shape.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5))
    >>> law = js.simulate(js.SGD(0.1).chain(problem), jnp.zeros(1), steps=100, seeds=64, key=jax.random.key(0),
    ...                   reduce=js.Histogram([-1.0, 0.0, 1.0]), progress=False)["x"]
    >>> law.counts.shape, int(law.counts[-1].sum())
    ((2, 1, 2), 64)
    """

    edges: Float[Array, "..."] = eqx.field(converter=_as_edges)

    def init(self, like: Float[Array, " k"]) -> Int[Array, "k places"]:
        return jnp.zeros((self._for(like).shape[0], self.edges.shape[-1] + 1), jnp.int32)

    def update(
        self, stats: Int[Array, "k places"], values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]
    ) -> Int[Array, "k places"]:
        edges = self._for(values[0])
        return stats + _counted(_places(edges, values), keep, edges.shape[1] + 1)

    def result(
        self, stats: Int[Array, "n k places"], ts: Float[Array, " n"], shape: PyTree, seeds: int
    ) -> "HistogramStatistics":
        return HistogramStatistics(ts, self.edges.astype(ts.dtype), stats, shape)

    def _for(self, like: Float[Array, " k"]) -> Float[Array, "k edges"]:
        """The edges for each coordinate, in the precision of the values."""
        edges, k = self.edges, like.shape[0]
        if edges.ndim > 1 and math.prod(edges.shape[:-1]) != k:
            raise ValueError(
                f"edges must have one axis, or before it the shape of the observable, which has {k} numbers; got shape "
                f"{edges.shape}"
            )
        return jnp.broadcast_to(edges.astype(like.dtype).reshape(-1, edges.shape[-1]), (k, edges.shape[-1]))


def _places(edges: Float[Array, "k edges"], values: Float[Array, "seeds k"]) -> Int[Array, "seeds k"]:
    """0 below the first edge, then the number of the bin from 1 on, one more than there are bins above the last edge."""
    one = lambda edges, column: jnp.searchsorted(edges, column, side="right")
    places = jax.vmap(one, (0, 1), 1)(edges, values)
    return jnp.where(values == edges[:, -1], edges.shape[1] - 1, places).astype(jnp.int32)


class HistogramStatistics(eqx.Module):
    """Numbers of seeds by bins at each recorded time, with axes of times, of the observable and, last, of bins.

    - `ts`: the recorded times, shape `(n,)`; `edges`: the edges of the bins, as they were given.
    """

    ts: Float[Array, " n"]
    edges: Float[Array, "..."]
    _counts: Int[Array, "n k places"]
    _shape: PyTree = eqx.field(static=True)

    @property
    def counts(self) -> PyTree[Int[Array, "n ..."]]:
        """The number of seeds in each bin."""
        return self._shaped(self._counts[..., 1:-1])

    @property
    def below(self) -> PyTree[Int[Array, "n ..."]]:
        """The number of seeds below the first edge."""
        return unravel(self._counts[..., 0], self._shape)

    @property
    def above(self) -> PyTree[Int[Array, "n ..."]]:
        """The number of seeds above the last edge."""
        return unravel(self._counts[..., -1], self._shape)

    @property
    def count(self) -> Int[Array, " n"]:
        """The number of seeds that have a finite value, in bins and beyond them."""
        return _seeds_in(self._counts)

    @property
    def density(self) -> PyTree[Float[Array, "n ..."]]:
        """The density over each bin: the share of the seeds that lie in it, divided by its width. nan without seeds."""
        with missing_allowed():
            return self._shaped(self._shares / self._widths)

    @property
    def stderr(self) -> PyTree[Float[Array, "n ..."]]:
        """The standard error of the density, of a binomial law."""
        shares, count = self._shares, self.count[:, None, None]
        with missing_allowed():
            return self._shaped(jnp.sqrt(shares * (1 - shares) / count) / self._widths)

    @property
    def cdf(self) -> PyTree[Float[Array, "n ..."]]:
        """The share of the seeds below each edge; at the last one, not above it."""
        with missing_allowed():
            below = jnp.cumsum(self._counts, axis=-1)[..., :-1]
            return self._shaped(below / self.count[:, None, None].astype(self.ts.dtype))

    @property
    def centres(self) -> Float[Array, "..."]:
        """The middles of the bins."""
        return (self.edges[..., 1:] + self.edges[..., :-1]) / 2

    @property
    def _shares(self) -> Float[Array, "n k bins"]:
        return self._counts[..., 1:-1] / self.count[:, None, None].astype(self.ts.dtype)

    @property
    def _widths(self) -> Float[Array, "k bins"]:
        return jnp.diff(self.edges, axis=-1).reshape(-1, self.edges.shape[-1] - 1)

    def _shaped(self, values: Array) -> PyTree:
        """`values`, of axes of times, of raveled coordinates and one more, with the observable's own axes in the middle."""
        last_first = unravel(jnp.moveaxis(values, -1, 1), self._shape)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, -1), last_first)


class JointHistogram(_AbstractCounts):
    """How many seeds lie in each bin of a plane, for pairs of coordinates of an observable.

    **Arguments:**

    - `edges`: increasing numbers for both axes, or a pair of such lists, one for each axis.
    - `pairs`: pairs of coordinates by their numbers in the raveled observable.

    **Raises:** `ValueError` for edges that do not increase, or pairs of other coordinates than there are.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.5))
    >>> law = js.simulate(js.SGD(0.1).chain(problem), jnp.zeros(2), steps=100, seeds=64, key=jax.random.key(0),
    ...                   observe={"x": lambda x: x}, reduce=js.JointHistogram([-1.0, 0.0, 1.0]), progress=False)["x"]
    >>> law.counts.shape, int(law.counts[-1].sum() + law.outside[-1, 0])
    ((2, 1, 2, 2), 64)
    """

    edges: tuple[Float[Array, " a"], Float[Array, " b"]] = eqx.field(converter=_as_edges_of_pairs)
    pairs: tuple[tuple[int, int], ...] = eqx.field(static=True, default=((0, 1),), converter=_as_pairs)

    def init(self, like: Float[Array, " k"]) -> Int[Array, "pairs places"]:
        largest = max(max(pair) for pair in self.pairs)
        if largest >= like.shape[0]:
            raise ValueError(
                f"pairs must be of coordinates below {like.shape[0]}, as an observable has so many, got {largest}: choose "
                "what is observed with observe="
            )
        return jnp.zeros((len(self.pairs), (self.edges[0].size + 1) * (self.edges[1].size + 1)), jnp.int32)

    def update(
        self, stats: Int[Array, "pairs places"], values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]
    ) -> Int[Array, "pairs places"]:
        along = []
        for edges, numbers in zip(self.edges, zip(*self.pairs, strict=True), strict=True):
            whose = values[:, np.asarray(numbers)]
            along.append(_places(jnp.broadcast_to(edges.astype(values.dtype), (whose.shape[1], edges.size)), whose))
        places = along[0] * (self.edges[1].size + 1) + along[1]
        return stats + _counted(places, keep, stats.shape[1])

    def result(
        self, stats: Int[Array, "n pairs places"], ts: Float[Array, " n"], shape: PyTree, seeds: int
    ) -> "JointHistogramStatistics":
        first, second = (edges.astype(ts.dtype) for edges in self.edges)
        cells = stats.reshape(*stats.shape[:2], first.size + 1, second.size + 1)
        return JointHistogramStatistics(ts, first, second, cells)


class JointHistogramStatistics(eqx.Module):
    """Numbers of seeds by bins of a plane at each recorded time, for each of the pairs.

    - `ts`: the recorded times, shape `(n,)`; `first_edges`, `second_edges`: the edges along both axes.
    """

    ts: Float[Array, " n"]
    first_edges: Float[Array, " a"]
    second_edges: Float[Array, " b"]
    _counts: Int[Array, "n pairs places others"]

    @property
    def counts(self) -> Int[Array, "n pairs bins others"]:
        """The number of seeds in each bin."""
        return self._counts[..., 1:-1, 1:-1]

    @property
    def count(self) -> Int[Array, " n"]:
        """The number of seeds that have a finite value, in bins and beyond them."""
        return _seeds_in(self._counts.reshape(*self._counts.shape[:2], -1))

    @property
    def outside(self) -> Int[Array, "n pairs"]:
        """The number of seeds that lie in no bin."""
        return self.count[:, None] - jnp.sum(self.counts, axis=(-2, -1))

    @property
    def density(self) -> Float[Array, "n pairs bins others"]:
        """The density over each bin: the share of the seeds that lie in it, divided by its area. nan where there is no seed."""
        area = jnp.diff(self.first_edges)[:, None] * jnp.diff(self.second_edges)
        with missing_allowed():
            return self.counts / self.count[:, None, None, None].astype(self.ts.dtype) / area


class Quantiles(_AbstractCounts):
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
        return stats + _counted(self._buckets.place(values), keep, stats.shape[1])

    def result(
        self, stats: Int[Array, "n k places"], ts: Float[Array, " n"], shape: PyTree, seeds: int
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


class QuantileStatistics(eqx.Module):
    """Quantiles of an observable at each recorded time, from counts of seeds in buckets.

    - `ts`: the recorded times, shape `(n,)`; `q`: the probabilities.
    """

    ts: Float[Array, " n"]
    q: Float[Array, " m"]
    _rest: Float[Array, " m"]
    _values: Float[Array, " places"]
    _counts: Int[Array, "n k places"]
    _shape: PyTree = eqx.field(static=True)

    @property
    def count(self) -> Int[Array, " n"]:
        """The number of seeds that have a finite value."""
        return _seeds_in(self._counts)

    @property
    def quantiles(self) -> PyTree[Float[Array, "n m ..."]]:
        """The quantiles, with an axis for the probabilities after that of times. nan where there is no seed."""
        with missing_allowed():
            return unravel(self._at(self.q, self._rest), self._shape)

    @property
    def stderr(self) -> PyTree[Float[Array, "n m ..."]]:
        """The standard errors of the quantiles: half the distance of those whose ranks are one standard error away
        (woodruff1952). Within a bucket it is zero."""
        count = jnp.maximum(self.count, 1).astype(self.ts.dtype)[:, None]
        apart = jnp.sqrt(self.q * self._rest / count)
        within = lambda share: jnp.clip(share, 0, 1)
        low, high = (self._at(within(self.q + side), within(self._rest - side)) for side in (-apart, apart))
        with missing_allowed():
            return unravel(jnp.where(high == low, jnp.where(jnp.isnan(low), low, 0), (high - low) / 2), self._shape)

    def quantile(self, q: Any) -> PyTree[Float[Array, "n m ..."]]:
        """The quantiles at other probabilities `q`, one or several.

        **Raises:** `ValueError` for probabilities out of range.
        """
        with missing_allowed():
            return unravel(self._at(*_shares(_as_probabilities(q), self.ts.dtype)), self._shape)

    def _at(self, q: Float[Array, "*n m"], rest: Float[Array, "*n m"]) -> Float[Array, "n m k"]:
        """The least values that a share `q` of the seeds does not exceed, and the share `rest` may."""
        below, count = jnp.cumsum(self._counts, axis=-1), self.count[:, None]
        # 0.7 of 10 seeds is the seventh, however 0.7 is rounded. Few seeds on one side are counted from there.
        least = 1 - 4 * jnp.finfo(q.dtype).eps
        ranks = jnp.where(
            q < rest, jnp.ceil(q * count * least).astype(jnp.int32), count - jnp.floor(rest * count / least).astype(jnp.int32)
        )
        ranks = jnp.clip(ranks, 1, jnp.maximum(count, 1))
        place = jax.vmap(jax.vmap(lambda cells, r: jnp.searchsorted(cells, r, side="left"), (0, None), 1), (0, 0))(below, ranks)
        return jnp.where(count[..., None] > 0, self._values[jnp.minimum(place, self._values.size - 1)], jnp.nan)
