"""Mean and covariance of one update, coordinate by coordinate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Rows = list[Array]
Blocks = list[list[Array]]
Pivots = tuple[tuple[int, ...], ...]
"""For each leaf of the parameters, the rows with noise that the rows before them do not have."""

# What rounding leaves of a pivot, as a share of the variance: below, a row has no noise of its own.
_ROUNDING = 3e-6


class Block(NamedTuple):
    """The coordinates of one leaf of the parameters with their buffers: mean of the moves, and a root of their covariance.

    Rows are x and then the buffers; `columns[k]` is how far the increment number k moves each row.
    """

    mean: Rows
    columns: list[Rows]


# So many nodes are written out in the program; more are looped over.
MOST_UNROLLED = 64


def _folded(add: Callable[[Any, Array, Array], Any], start: Any, z: Float[Array, " n"], w: Float[Array, " n"]) -> Any:
    """`start` after `add(total, z, w)` for each node and its weight."""
    if z.shape[0] > MOST_UNROLLED:
        return jax.lax.scan(lambda total, node: (add(total, *node), None), start, (z, w))[0]
    for j in range(z.shape[0]):
        if j != z.shape[0] // 2:  # the central node differs by nothing from itself
            start = add(start, z[j], w[j])
    return start


def _centre(z: Float[Array, " n"]) -> Array:
    """The node of which differences are taken."""
    return z[z.shape[0] // 2]


def mean_move(rows_at: Callable[[Array], list[Rows]], z: Float[Array, " n"], w: Float[Array, " n"]) -> list[Rows]:
    """The means of the rows of each leaf over the nodes."""
    centre = rows_at(_centre(z))

    def add(total: list[Rows], z: Array, w: Array) -> list[Rows]:
        return jax.tree.map(lambda t, v, c: t + w * (v - c), total, rows_at(z), centre)

    return jax.tree.map(jnp.add, centre, _folded(add, jax.tree.map(jnp.zeros_like, centre), z, w))


def moments(
    rows_at: Callable[[Array], list[Rows]], z: Float[Array, " n"], w: Float[Array, " n"], pivots: Pivots, aligned: bool
) -> list[Block]:
    """Mean and root of the covariance of the rows of each leaf over the nodes.

    Differences to the central node are summed, so that nothing cancels. With `aligned`, the first increment is the gradient's
    noise itself: its factor is the part of the rows that is linear in it.
    """
    centre = rows_at(_centre(z))
    nothing = jax.tree.map(jnp.zeros_like, centre)

    def add(total: Any, z: Array, w: Array) -> Any:
        mean, linear, second = total
        moved = jax.tree.map(jnp.subtract, rows_at(z), centre)
        weighted = jax.tree.map(lambda v: w * v, moved)
        if aligned:
            linear = jax.tree.map(lambda s, v: s + z * v, linear, weighted)
        products = [[[v * u for u in us[: a + 1]] for a, v in enumerate(vs)] for vs, us in zip(weighted, moved, strict=True)]
        return jax.tree.map(jnp.add, mean, weighted), linear, jax.tree.map(jnp.add, second, products)

    second = [[[jnp.zeros_like(row)] * (a + 1) for a, row in enumerate(rows)] for rows in centre]
    mean, linear, second = _folded(add, (nothing, nothing, second), z, w)
    blocks = []
    for p, places in enumerate(pivots):
        covariance = [[c - mean[p][a] * mean[p][b] for b, c in enumerate(row)] for a, row in enumerate(second[p])]
        total = [c + m for c, m in zip(centre[p], mean[p], strict=True)]
        blocks.append(Block(total, _root(covariance, places, linear[p] if aligned else None)))
    return blocks


def _root(covariance: Blocks, pivots: tuple[int, ...], first: Rows | None) -> list[Rows]:
    """The columns of a root of small positive semi-definite matrices, one array per entry: Cholesky's for these pivots, after
    the column `first` where there is one. A pivot lost in rounding is zero, and so is its column."""
    variance = [row[a] for a, row in enumerate(covariance)]
    rest, columns = covariance, []
    if first is not None:
        rest, columns = _without(rest, first), [first]
    for pivot in pivots:
        left = rest[pivot][pivot]
        some = left > jnp.asarray(_ROUNDING, left.dtype) * variance[pivot]
        length = jnp.sqrt(jnp.where(some, left, 1))
        column = [jnp.where(some, row[pivot] / length, 0) if a >= pivot else jnp.zeros_like(left) for a, row in enumerate(rest)]
        rest, columns = _without(rest, column), [*columns, column]
    return columns


def _without(covariance: Blocks, column: Rows) -> Blocks:
    return [[c - column[a] * column[b] for b, c in enumerate(row)] for a, row in enumerate(covariance)]


def spread(block: Block, increments: list[Array]) -> Rows:
    """How far the increments, one for each column, move each row."""
    if not increments:
        return [jnp.zeros_like(row) for row in block.mean]
    rows = zip(*block.columns, strict=True)
    return [jax.tree.reduce(jnp.add, [f * dw for f, dw in zip(row, increments, strict=True)]) for row in rows]
