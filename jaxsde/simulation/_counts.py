"""Numbers of seeds in bins: whole numbers, so that merging rounds nothing."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._reducers import AbstractSummary


class AbstractCounts(AbstractSummary):
    """Numbers of seeds, which are added."""

    moments_only: ClassVar[bool] = False
    rounds: ClassVar[bool] = False

    @property
    def seed_multiple(self) -> int:
        return 1

    def merge(self, a: Int[Array, "..."], b: Int[Array, "..."]) -> Int[Array, "..."]:
        return a + b


def counted(places: Int[Array, "seeds k"], keep: Bool[Array, " seeds"], size: int) -> Int[Array, "k size"]:
    """How many of the seeds that are kept have each of the places 0, ..., size - 1, for each coordinate."""
    coordinates = jnp.arange(places.shape[1])[None]
    return jnp.zeros((places.shape[1], size), jnp.int32).at[coordinates, places].add(keep[:, None].astype(jnp.int32))


def shares(counts: Int[Array, "*some places"], seeds: Int[Array, "*fewer"], dtype: Any) -> Float[Array, "*some places"]:
    """Counts over the number of `seeds`, whose axes are the first ones of theirs; nan without seeds."""
    whole = seeds.reshape(seeds.shape + (1,) * (counts.ndim - seeds.ndim))
    return counts.astype(dtype) / whole.astype(dtype)


def seeds_in(counts: Int[Array, "*n k places"]) -> Int[Array, "*n"]:
    """How many seeds were counted: as many for each coordinate, of which there may be none."""
    return jnp.max(jnp.sum(counts, axis=-1), axis=-1, initial=0)
