"""Laws over seeds by the numbers of seeds in bins."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _checks
from .._missing import missing_allowed
from ._counts import AbstractCounts, counted, seeds_in, shares
from ._reducers import AbstractStatistics, unravel


def _as_edges(edges: Any) -> Float[Array, "..."]:
    numbers = _checks.as_float64("edges", edges)
    if numbers.ndim == 0 or numbers.shape[-1] < 2:
        raise ValueError(f"edges must have two numbers or more along its last axis, got shape {numbers.shape}")
    numbers = numbers.astype(jnp.result_type(float))
    if not np.all(np.isfinite(numbers)) or not np.all(np.diff(numbers, axis=-1) > 0):
        raise ValueError(f"edges must be finite and increase in {numbers.dtype}")
    return jnp.asarray(numbers)


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


class Histogram(AbstractCounts):
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
        return stats + counted(_places(edges, values), keep, edges.shape[1] + 1)

    def result(
        self, stats: Int[Array, "*groups n k places"], ts: Float[Array, " n"], shape: PyTree, seeds: int
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
    return jnp.where(values == edges[None, :, -1], edges.shape[1] - 1, places).astype(jnp.int32)


class HistogramStatistics(AbstractStatistics):
    """Numbers of seeds by bins at each recorded time, with axes of times, of the observable and, last, of bins; those of a
    jackknife's `left_out` statistics have an axis of groups before them.

    - `ts`: the recorded times, shape `(n,)`; `edges`: the edges of the bins, as they were given.
    """

    ts: Float[Array, " n"]
    edges: Float[Array, "..."]
    _counts: Int[Array, "*groups n k places"]
    _shape: PyTree = eqx.field(static=True)
    _grouped: ClassVar[tuple[str, ...]] = ("_counts",)

    @property
    def counts(self) -> PyTree[Int[Array, "..."]]:
        """The number of seeds in each bin."""
        return self._shaped(self._counts[..., 1:-1])

    @property
    def below(self) -> PyTree[Int[Array, "..."]]:
        """The number of seeds below the first edge."""
        return unravel(self._counts[..., 0], self._shape)

    @property
    def above(self) -> PyTree[Int[Array, "..."]]:
        """The number of seeds above the last edge."""
        return unravel(self._counts[..., -1], self._shape)

    @property
    def count(self) -> Int[Array, "*groups n"]:
        """The number of seeds that have a finite value, in bins and beyond them."""
        return seeds_in(self._counts)

    @property
    def density(self) -> PyTree[Float[Array, "..."]]:
        """The density over each bin: the share of the seeds that lie in it, divided by its width. nan without seeds."""
        with missing_allowed():
            return self._shaped(self._shares / self._widths)

    @property
    def stderr(self) -> PyTree[Float[Array, "..."]]:
        """The standard error of the density, of a binomial law."""
        part, count = self._shares, self.count[..., None, None].astype(self.ts.dtype)
        with missing_allowed():
            return self._shaped(jnp.sqrt(part * (1 - part) / count) / self._widths)

    @property
    def cdf(self) -> PyTree[Float[Array, "..."]]:
        """The share of the seeds below each edge; at the last one, not above it."""
        with missing_allowed():
            below = jnp.cumsum(self._counts, axis=-1)[..., :-1]
            return self._shaped(shares(below, self.count, self.ts.dtype))

    @property
    def centres(self) -> Float[Array, "..."]:
        """The middles of the bins."""
        return (self.edges[..., 1:] + self.edges[..., :-1]) / 2

    @property
    def _shares(self) -> Float[Array, "*groups n k bins"]:
        return shares(self._counts[..., 1:-1], self.count, self.ts.dtype)

    @property
    def _widths(self) -> Float[Array, "*ones k bins"]:
        widths = jnp.diff(self.edges, axis=-1).reshape(-1, self.edges.shape[-1] - 1)
        return jnp.expand_dims(widths, tuple(range(self._counts.ndim - 2)))

    def _shaped(self, values: Array) -> PyTree:
        """`values`, whose last axes are those of raveled coordinates and of bins, with the observable's own axes before the
        last one."""
        leading = values.ndim - 2
        bins_first = unravel(jnp.swapaxes(values, -1, -2), self._shape)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, leading, -1), bins_first)


class JointHistogram(AbstractCounts):
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
        return stats + counted(places, keep, stats.shape[1])

    def result(
        self, stats: Int[Array, "*groups n pairs places"], ts: Float[Array, " n"], shape: PyTree, seeds: int
    ) -> "JointHistogramStatistics":
        first, second = (edges.astype(ts.dtype) for edges in self.edges)
        cells = stats.reshape(*stats.shape[:-1], first.size + 1, second.size + 1)
        return JointHistogramStatistics(ts, first, second, cells)


class JointHistogramStatistics(AbstractStatistics):
    """Numbers of seeds by bins of a plane at each recorded time, for each of the pairs.

    - `ts`: the recorded times, shape `(n,)`; `first_edges`, `second_edges`: the edges along both axes.
    """

    ts: Float[Array, " n"]
    first_edges: Float[Array, " a"]
    second_edges: Float[Array, " b"]
    _counts: Int[Array, "*groups n pairs places others"]
    _grouped: ClassVar[tuple[str, ...]] = ("_counts",)

    @property
    def counts(self) -> Int[Array, "*groups n pairs bins others"]:
        """The number of seeds in each bin."""
        return self._counts[..., 1:-1, 1:-1]

    @property
    def count(self) -> Int[Array, "*groups n"]:
        """The number of seeds that have a finite value, in bins and beyond them."""
        return seeds_in(self._counts.reshape(*self._counts.shape[:-2], -1))

    @property
    def outside(self) -> Int[Array, "*groups n pairs"]:
        """The number of seeds that lie in no bin."""
        return self.count[..., None] - jnp.sum(self.counts, axis=(-2, -1))

    @property
    def density(self) -> Float[Array, "*groups n pairs bins others"]:
        """The density over each bin: the share of the seeds that lie in it, divided by its area. nan where there is no seed."""
        area = jnp.outer(jnp.diff(self.first_edges), jnp.diff(self.second_edges))
        with missing_allowed():
            return shares(self.counts, self.count, self.ts.dtype) / jnp.expand_dims(area, tuple(range(self.counts.ndim - 2)))
