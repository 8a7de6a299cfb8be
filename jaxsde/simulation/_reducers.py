"""Statistics over seeds as monoids: batches, chunks and devices combine by `merge`, in any grouping."""

import abc
import itertools
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _checks


class AbstractReducer(eqx.Module):
    """Turns the seeds' values of an observable into statistics.

    Values come as vectors: an observable's pytree, raveled. Statistics form a monoid: `init` is its neutral element,
    `merge` its associative product.
    """

    weak: eqx.AbstractClassVar[bool]
    """Whether the result depends on moments only, so that increments need only the right moments."""

    @property
    @abc.abstractmethod
    def multiple(self) -> int:
        """Numbers of seeds that `update` takes are multiples of this."""

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


class Moments(AbstractReducer):
    """Mean and variance over the finite seeds, streamed.

    **Arguments:** `covariance`: whether to keep the full covariance of an observable's coordinates as well.

    >>> Moments(covariance=True).weak
    True
    """

    covariance: bool = eqx.field(static=True, default=False)
    weak: ClassVar[bool] = True

    def __check_init__(self):
        _checks.instance("covariance", self.covariance, bool, "True or False")

    @property
    def multiple(self) -> int:
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
        mean = weight * jnp.sum(jnp.where(kept, values, 0), axis=0)
        deviations = jnp.where(kept, values - mean, 0)
        return self.merge(stats, _MomentSums(count, mean, self._sum_of_products(deviations)))

    def merge(self, a: _MomentSums, b: _MomentSums) -> _MomentSums:
        # Chan, Golub and LeVeque's update, which loses no digits to large means.
        count = a.count + b.count
        share = (b.count / jnp.maximum(count, 1)).astype(a.mean.dtype)
        shift = b.mean - a.mean
        between = a.count.astype(a.mean.dtype) * share * self._product(shift)
        return _MomentSums(count, a.mean + share * shift, a.deviations + b.deviations + between)

    def result(self, stats: _MomentSums, ts: Float[Array, " n"], shape: PyTree, seeds: int) -> "MomentStatistics":
        return MomentStatistics(ts, stats.count, stats.mean, stats.deviations, shape)

    def _product(self, shift: Array) -> Array:
        return jnp.outer(shift, shift) if self.covariance else shift * shift

    def _sum_of_products(self, deviations: Array) -> Array:
        if self.covariance:
            return jnp.matmul(deviations.T, deviations, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(deviations * deviations, axis=0)


class MomentStatistics(eqx.Module):
    """Moments of an observable over the finite seeds at each recorded time.

    The properties have a leading axis of the `n` times `ts`, followed by the observable's shape.
    """

    ts: Float[Array, " n"]
    count: Int[Array, " n"]
    _mean: Float[Array, "n k"]
    _deviations: Float[Array, "..."]
    _shape: PyTree = eqx.field(static=True)

    @property
    def mean(self) -> PyTree:
        """The mean over seeds."""
        return unravel(self._mean, self._shape)

    @property
    def variance(self) -> PyTree:
        """The unbiased variance over seeds."""
        return unravel(self._flat_variance, self._shape)

    @property
    def stderr(self) -> PyTree:
        """The standard error of the mean."""
        return unravel(jnp.sqrt(self._flat_variance / self.count[..., None]), self._shape)

    @property
    def covariance(self) -> Float[Array, "n k k"]:
        """The unbiased covariance matrix over the raveled coordinates; kept by `Moments(covariance=True)` only."""
        if self._deviations.ndim == self._mean.ndim:
            raise ValueError("the covariance was not kept: simulate with reduce=jaxsde.Moments(covariance=True)")
        return self._deviations / (self.count[..., None, None] - 1)

    @property
    def _flat_variance(self) -> Array:
        squares = self._deviations
        if squares.ndim > self._mean.ndim:
            squares = jnp.diagonal(squares, axis1=-2, axis2=-1)
        return squares / (self.count[..., None] - 1)


class Samples(AbstractReducer):
    """Every seed's value, diverged seeds included. Memory grows with the number of seeds.

    >>> Samples().weak
    False
    """

    weak: ClassVar[bool] = False

    @property
    def multiple(self) -> int:
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


class Jackknife(AbstractReducer):
    """A reducer kept for `groups` groups of seeds, so that any function of its statistics gets a standard error.

    **Arguments:** `reducer`: [`Moments`][]; `groups`: the number of groups, at least 2 and at most that of seeds.

    **Raises:** `TypeError` for another reducer, `ValueError` for fewer groups.

    >>> Jackknife(Moments(), groups=20).weak
    True
    """

    reducer: Moments
    groups: int = eqx.field(static=True)
    weak: ClassVar[bool] = True

    def __init__(self, reducer: Moments, groups: int = 40):
        _checks.instance("reducer", reducer, Moments, "jaxsde.Moments()")
        self.reducer = reducer
        self.groups = _checks.count("groups", groups, least=2)

    @property
    def multiple(self) -> int:
        return self.groups

    def init(self, like: Float[Array, " k"]) -> Any:
        empty = self.reducer.init(like)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.groups, *leaf.shape)), empty)

    def update(self, stats: Any, values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]) -> Any:
        # Every groups-th seed goes to the same group, so that groups fill evenly whatever the number of seeds.
        values = values.reshape(-1, self.groups, *values.shape[1:])
        keep = keep.reshape(-1, self.groups)
        return jax.vmap(self.reducer.update, in_axes=(0, 1, 1))(stats, values, keep)

    def merge(self, a: Any, b: Any) -> Any:
        return jax.vmap(self.reducer.merge)(a, b)

    def result(self, stats: Any, ts: Float[Array, " n"], shape: PyTree, seeds: int) -> "JackknifeStatistics":
        merge = jax.vmap(self.reducer.merge)
        parts = [jax.tree.map(lambda leaf, g=g: leaf[:, g], stats) for g in range(self.groups)]
        # before[g] holds the groups up to g, after[g] those from g on: each leave-one-out is then a single merge.
        before, after = list(itertools.accumulate(parts, merge)), list(itertools.accumulate(parts[::-1], merge))[::-1]
        rest = [after[1], *(merge(before[g - 1], after[g + 1]) for g in range(1, self.groups - 1)), before[-2]]
        without = tuple(self.reducer.result(part, ts, shape, seeds) for part in rest)
        return JackknifeStatistics(self.reducer.result(before[-1], ts, shape, seeds), without)


class JackknifeStatistics(eqx.Module):
    """Statistics over all seeds, `total`, and over all but one group of them, `without`, one entry per group."""

    total: MomentStatistics
    without: tuple[MomentStatistics, ...]

    @property
    def ts(self) -> Float[Array, " n"]:
        """The recorded times."""
        return self.total.ts
