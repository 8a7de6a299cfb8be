"""Statistics kept for groups of seeds."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .. import _checks
from ._reducers import AbstractReducer, AbstractStatistics, AbstractSummary


def _as_groups(groups: int) -> int:
    return _checks.count("groups", groups, least=2)


class Jackknife(AbstractReducer):
    """A reducer kept for `groups` groups of seeds, so that any function of its statistics gets a standard error.

    **Arguments:** `reducer`: [`Moments`][], [`Histogram`][], [`JointHistogram`][] or [`Quantiles`][]; `groups`: the number of
    groups, at least 2 and at most that of seeds.

    **Raises:** `TypeError` for another reducer, `ValueError` for fewer groups.

    >>> import jaxsde as js
    >>> Jackknife(js.Moments(), groups=20).moments_only
    True
    """

    reducer: AbstractSummary
    groups: int = eqx.field(static=True, default=40, converter=_as_groups)

    def __check_init__(self):
        _checks.instance("reducer", self.reducer, AbstractSummary, "jaxsde.Moments(), or a reducer of counts")

    @property
    def moments_only(self) -> bool:
        return self.reducer.moments_only

    @property
    def rounds(self) -> bool:
        return self.reducer.rounds

    @property
    def memory(self) -> int:
        return self.reducer.memory

    @property
    def seed_multiple(self) -> int:
        return self.groups

    def check_seeds(self, seeds: int) -> None:
        if self.groups > seeds:
            raise ValueError(
                f"groups must be at most seeds: each of the {self.groups} groups needs a seed, of which there are {seeds}"
            )

    def init(self, like: Float[Array, " k"]) -> Any:
        empty = self.reducer.init(like)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.groups, *leaf.shape)), empty)

    def update(self, stats: Any, values: Float[Array, "seeds k"], keep: Bool[Array, " seeds"]) -> Any:
        # Every groups-th seed goes to the same group, so that groups fill evenly whatever the number of seeds.
        each = keep.shape[0] // self.groups
        values = values.reshape(each, self.groups, *values.shape[1:])
        keep = keep.reshape(each, self.groups)
        return jax.vmap(self.reducer.update, in_axes=(0, 1, 1))(stats, values, keep)

    def merge(self, a: Any, b: Any) -> Any:
        return jax.vmap(self.reducer.merge)(a, b)

    def result(self, stats: Any, ts: Float[Array, " n"], shape: PyTree, seeds: int) -> "JackknifeStatistics":
        total, left_out = _leave_one_out(self.reducer, stats)
        return JackknifeStatistics(*(self.reducer.result(part, ts, shape, seeds) for part in (total, left_out)))


class JackknifeStatistics(eqx.Module):
    """Statistics over all seeds, `total`, and over all but one group of them, `left_out`, with a leading axis of groups; both
    are what the reducer gives."""

    total: Any
    left_out: Any

    @property
    def without(self) -> tuple[AbstractStatistics, ...]:
        """The statistics over all but one group of seeds, one entry per group."""
        return self.left_out.by_group()

    @property
    def ts(self) -> Float[Array, " n"]:
        """The recorded times."""
        return self.total.ts


@eqx.filter_jit
def _leave_one_out(reducer: AbstractSummary, stats: Any) -> tuple[Any, Any]:
    """The statistics of all groups, whose axis is the second, and those without each of them, with that axis first.

    Covariances of many groups and times are large: beside what is given and returned, a single group's are held at a time.
    """
    merge = jax.vmap(reducer.merge)
    groups = jax.tree.leaves(stats)[0].shape[1]
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:, 0]), stats)
    places = jax.tree.map(lambda leaf: jnp.zeros((groups, *leaf.shape), leaf.dtype), nothing)

    def with_group(total: Any, group: Array) -> Any:
        return merge(total, jax.tree.map(lambda leaf: leaf[:, group], stats))

    # What is left without a group is a single merge of all groups before it and all after it: these come first, from behind.
    def put_later(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        later, places = carry
        group = groups - 1 - i
        return with_group(later, group), jax.tree.map(lambda put, part: put.at[group].set(part), places, later)

    def add_earlier(group: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        earlier, places = carry
        left = merge(earlier, jax.tree.map(lambda put: put[group], places))
        return with_group(earlier, group), jax.tree.map(lambda put, part: put.at[group].set(part), places, left)

    places = jax.lax.fori_loop(0, groups, put_later, (nothing, places))[1]
    return jax.lax.fori_loop(0, groups, add_earlier, (nothing, places))
