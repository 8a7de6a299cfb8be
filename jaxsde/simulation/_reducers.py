"""Statistics over seeds as monoids: batches, chunks and devices combine by `merge`, in any grouping."""

import abc
import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _checks
from .._linalg import matmul
from .._missing import missing_allowed
from .._moments import merge_moments


class AbstractReducer(eqx.Module):
    """Turns the seeds' values of an observable into statistics.

    Values come as vectors: an observable's pytree, raveled. Statistics form a monoid: `init` is its neutral element,
    `merge` its associative product.
    """

    @property
    @abc.abstractmethod
    def moments_only(self) -> bool:
        """Whether the result depends on moments only, so that increments need only the right moments."""

    @property
    def rounds(self) -> bool:
        """Whether `merge` rounds. Many chunks are then merged in float64."""
        return True

    @property
    def memory(self) -> int:
        """How many earlier records `update` wants as well: a seed's vector is then that of its value at the record, and at one
        record before, at two, and so on, all in a row; nan before the first record."""
        return 0

    @property
    @abc.abstractmethod
    def seed_multiple(self) -> int:
        """Numbers of seeds that `update` takes are multiples of this."""

    def check_seeds(self, seeds: int) -> None:
        """Raises `ValueError` for too few seeds."""

    @abc.abstractmethod
    def init(self, like: Float[Array, " k"]) -> Any:
        """The statistics of no seeds, for values like `like`."""

    @abc.abstractmethod
    def update(self, stats: Any, values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]) -> Any:
        """The statistics with those seeds added for which `keep` holds."""

    @abc.abstractmethod
    def merge(self, a: Any, b: Any) -> Any:
        """The statistics of the seeds of both."""

    @abc.abstractmethod
    def result(self, stats: Any, ts: Float[Array, " n"], shape: PyTree, seeds: int) -> Any:
        """What the user sees, from statistics with a leading axis for the times `ts`.

        `shape` is the pytree of one seed's value, `seeds` the number of seeds that were asked for.
        """


def unravel(vectors: Array, shape: PyTree) -> PyTree:
    """`vectors`, whose last axis holds raveled values, as a pytree of arrays with the other axes leading."""
    leaves, structure = jax.tree.flatten(shape)
    ends = np.cumsum([int(np.prod(leaf.shape)) for leaf in leaves])[:-1]
    parts = jnp.split(vectors, ends, axis=-1)
    shaped = [part.reshape(*vectors.shape[:-1], *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


class _MomentSums(NamedTuple):
    count: Array
    mean: Array
    deviations: Array  # sums of squared deviations from the mean, or of their outer products


class AbstractStatistics(eqx.Module):
    """Statistics that a [`Jackknife`][] can keep for each group of seeds: some of their fields then have an axis of groups."""

    ts: eqx.AbstractVar[Float[Array, " n"]]
    """The recorded times."""
    _grouped: eqx.AbstractClassVar[tuple[str, ...]]
    """The names of the fields that have an axis of groups."""

    def by_group(self) -> tuple["AbstractStatistics", ...]:
        """The statistics along the axis of groups, one by one."""
        parts = zip(*(getattr(self, name) for name in self._grouped), strict=True)
        return tuple(dataclasses.replace(self, **dict(zip(self._grouped, part, strict=True))) for part in parts)


class AbstractSummary(AbstractReducer):
    """A reducer whose memory does not grow with the number of seeds, and whose result is an [`AbstractStatistics`][]."""


class Moments(AbstractSummary):
    """Mean and variance over the seeds whose value is finite, streamed.

    **Arguments:** `covariance`: whether to keep the full covariance of an observable's coordinates as well.

    >>> Moments(covariance=True).moments_only
    True
    """

    covariance: bool = eqx.field(static=True, default=False)
    moments_only: ClassVar[bool] = True

    def __check_init__(self):
        _checks.instance("covariance", self.covariance, bool, "True or False")

    @property
    def seed_multiple(self) -> int:
        return 1

    def init(self, like: Float[Array, " k"]) -> _MomentSums:
        k = like.shape[0]
        return _MomentSums(
            jnp.zeros((), jnp.int32),
            jnp.zeros((k,), like.dtype),
            jnp.zeros((k, k) if self.covariance else (k,), like.dtype),
        )

    def update(self, stats: _MomentSums, values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]) -> _MomentSums:
        count = jnp.sum(keep, dtype=jnp.int32)
        weight = 1 / jnp.maximum(count, 1).astype(values.dtype)
        kept = keep[:, None]
        total = jnp.sum(jnp.where(kept, values, 0), axis=0)
        # The sum of large numbers may be infinite where their mean is not.
        mean = jnp.where(jnp.isfinite(total), weight * total, jnp.sum(jnp.where(kept, weight * values, 0), axis=0))
        deviations = jnp.where(kept, values - mean[None], 0)
        return self.merge(stats, _MomentSums(count, mean, self._sum_of_products(deviations)))

    def merge(self, a: _MomentSums, b: _MomentSums) -> _MomentSums:
        return _MomentSums(a.count + b.count, *merge_moments(*a, *b))

    def result(self, stats: _MomentSums, ts: Float[Array, " n"], shape: PyTree, seeds: int) -> "MomentStatistics":
        with missing_allowed():
            mean = jnp.where(stats.count[..., None] > 0, stats.mean, jnp.nan)
        return MomentStatistics(ts, stats.count, mean, stats.deviations, shape)

    def _sum_of_products(self, deviations: Array) -> Array:
        if self.covariance:
            return matmul(deviations.T, deviations)
        return jnp.sum(deviations * deviations, axis=0)


class MomentStatistics(AbstractStatistics):
    """Moments of an observable at each recorded time, over the seeds that have a finite value of it.

    - `ts`: the recorded times, shape `(n,)`; `count`: over how many seeds the moments are taken at each, shape `(n,)`.

    The other properties have a leading axis of these times, followed by the observable's shape; those of a jackknife's
    `left_out` statistics an axis of groups before it. Where the count is too small for a statistic (0 for a mean, below 2 for a
    variance) it is nan.
    """

    ts: Float[Array, " n"]
    count: Int[Array, "*groups n"]
    _mean: Float[Array, "*groups n k"]
    _deviations: Float[Array, "..."]
    _shape: PyTree = eqx.field(static=True)
    _grouped: ClassVar[tuple[str, ...]] = ("count", "_mean", "_deviations")

    @property
    def mean(self) -> PyTree:
        """The mean over seeds."""
        with missing_allowed():
            return unravel(self._mean, self._shape)

    @property
    def variance(self) -> PyTree:
        """The unbiased variance over seeds."""
        with missing_allowed():
            return unravel(self._flat_variance, self._shape)

    @property
    def stderr(self) -> PyTree:
        """The standard error of the mean: that of sampling and one rounding, as the mean has no more digits."""
        with missing_allowed():
            return unravel(self._flat_stderr, self._shape)

    @property
    def _flat_stderr(self) -> Array:
        sampling = jnp.sqrt(self._flat_variance / self.count[..., None].astype(self._mean.dtype))
        rounding = jnp.finfo(self._mean.dtype).eps * jnp.abs(self._mean)
        return jnp.hypot(sampling, rounding)

    @property
    def covariance(self) -> Float[Array, "*groups n k k"]:
        """The unbiased covariance matrix over the raveled coordinates; kept by `Moments(covariance=True)` only."""
        if self._deviations.ndim == self._mean.ndim:
            raise ValueError("the covariance was not kept: simulate with reduce=jaxsde.Moments(covariance=True)")
        with missing_allowed():
            return self._deviations / self._degrees[..., None]

    @property
    def _flat_variance(self) -> Array:
        squares = self._deviations
        if squares.ndim > self._mean.ndim:
            squares = jnp.diagonal(squares, axis1=-2, axis2=-1)
        return squares / self._degrees

    @property
    def _degrees(self) -> Array:
        """The degrees of freedom of variances, with an axis for coordinates; nan where there are none."""
        degrees = (self.count - 1).astype(self._mean.dtype)
        return jnp.where(self.count > 1, degrees, jnp.nan)[..., None]


class Samples(AbstractReducer):
    """Every seed's value, diverged seeds included. Memory grows with the number of seeds.

    >>> Samples().moments_only
    False
    """

    moments_only: ClassVar[bool] = False
    rounds: ClassVar[bool] = False

    @property
    def seed_multiple(self) -> int:
        return 1

    def init(self, like: Float[Array, " k"]) -> Array:
        return jnp.zeros((0, *like.shape), like.dtype)

    def update(self, stats: Array, values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]) -> Array:
        return self.merge(stats, values)

    def merge(self, a: Array, b: Array) -> Array:
        return jnp.concatenate([a, b])

    def result(self, stats: Array, ts: Float[Array, " n"], shape: PyTree, seeds: int) -> "SampleStatistics":
        return SampleStatistics(ts, unravel(stats[:, :seeds], shape))


class SampleStatistics(eqx.Module):
    """An observable's values at the times `ts`: `values` has shape `(n, seeds, ...)`, seed i always in the same place."""

    ts: Float[Array, " n"]
    values: PyTree[Float[Array, "n seeds ..."]]


class _AbstractCombined(eqx.Module):
    """Reducers by names, and what all of them need."""

    reducers: dict[str, AbstractReducer]

    @property
    def moments_only(self) -> bool:
        return all(reducer.moments_only for reducer in self.reducers.values())

    @property
    def rounds(self) -> bool:
        return any(reducer.rounds for reducer in self.reducers.values())

    @property
    def memory(self) -> int:
        return max(reducer.memory for reducer in self.reducers.values())

    @property
    def seed_multiple(self) -> int:
        return math.lcm(*(reducer.seed_multiple for reducer in self.reducers.values()))

    def check_seeds(self, seeds: int) -> None:
        for reducer in self.reducers.values():
            reducer.check_seeds(seeds)


class ByObservable(_AbstractCombined):
    """A reducer for each observable, by its name."""

    def __getitem__(self, observable: str) -> AbstractReducer:
        return self.reducers[observable]


class Several(_AbstractCombined, AbstractReducer):
    """Several reducers in one run, by names. An observable's statistics are then a dictionary of theirs.

    **Arguments:** reducers by name: `Several(moments=Moments(), law=Histogram(edges))`.

    **Raises:** `TypeError` for what is no reducer, `ValueError` for none.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5))
    >>> both = js.Several(moments=js.Moments(), median=js.Quantiles(0.5))
    >>> run = js.simulate(js.SGD(0.1).chain(problem), jnp.zeros(1), steps=10, seeds=8, key=jax.random.key(0), reduce=both)
    >>> run["x"]["moments"].mean.shape, run["x"]["median"].quantiles.shape
    ((2, 1), (2, 1, 1))
    """

    def __init__(self, **reducers: AbstractReducer):
        if not reducers:
            raise ValueError("Several needs a reducer, such as Several(moments=jaxsde.Moments())")
        for name, reducer in reducers.items():
            _checks.instance(name, reducer, AbstractReducer, "a reducer such as jaxsde.Moments()")
        self.reducers = reducers

    def init(self, like: Float[Array, " k"]) -> dict[str, Any]:
        return {name: reducer.init(self._part(reducer, like)) for name, reducer in self.reducers.items()}

    def update(self, stats: dict[str, Any], values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]) -> dict[str, Any]:
        wanted = {name: self._part(reducer, values) for name, reducer in self.reducers.items()}
        return {name: reducer.update(stats[name], wanted[name], keep) for name, reducer in self.reducers.items()}

    def _part(self, reducer: AbstractReducer, values: Float[Array, "*seeds k"]) -> Float[Array, "*seeds j"]:
        """As many records of a vector as the reducer wants."""
        return values[..., : values.shape[-1] // (self.memory + 1) * (reducer.memory + 1)]

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {name: reducer.merge(a[name], b[name]) for name, reducer in self.reducers.items()}

    def result(self, stats: dict[str, Any], ts: Float[Array, " n"], shape: PyTree, seeds: int) -> dict[str, Any]:
        return {name: reducer.result(stats[name], ts, shape, seeds) for name, reducer in self.reducers.items()}
