"""Mean and covariance of one update, coordinate by coordinate."""

from collections.abc import Callable
from typing import NamedTuple

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


def mean_move(rows_at: Callable[[Array], list[Rows]], z: Float[Array, " n"], w: Float[Array, " n"]) -> list[Rows]:
    """The means of the rows of each leaf over the nodes."""
    centre = rows_at(jnp.zeros((), z.dtype))
    total = [[jnp.zeros_like(row) for row in rows] for rows in centre]
    for j in range(z.shape[0]):
        moved = rows_at(z[j])
        total = [
            [t + w[j] * (v - c) for t, v, c in zip(ts, vs, cs, strict=True)]
            for ts, vs, cs in zip(total, moved, centre, strict=True)
        ]
    return [[c + t for c, t in zip(cs, ts, strict=True)] for cs, ts in zip(centre, total, strict=True)]


def moments(
    rows_at: Callable[[Array], list[Rows]], z: Float[Array, " n"], w: Float[Array, " n"], pivots: Pivots, aligned: bool
) -> list[Block]:
    """Mean and root of the covariance of the rows of each leaf over the nodes.

    Differences to the central node are summed, so that nothing cancels. With `aligned`, the first increment is the gradient's
    noise itself: its factor is the part of the rows that is linear in it.
    """
    centre = rows_at(jnp.zeros((), z.dtype))
    mean = [[jnp.zeros_like(row) for row in rows] for rows in centre]
    linear = [[jnp.zeros_like(row) for row in rows] for rows in centre]
    second = [[[jnp.zeros_like(row)] * (a + 1) for a, row in enumerate(rows)] for rows in centre]
    for j in range(z.shape[0]):
        for p, (rows, base) in enumerate(zip(rows_at(z[j]), centre, strict=True)):
            moved = [v - c for v, c in zip(rows, base, strict=True)]
            weighted = [w[j] * v for v in moved]
            mean[p] = [m + v for m, v in zip(mean[p], weighted, strict=True)]
            if aligned:
                linear[p] = [s + z[j] * v for s, v in zip(linear[p], weighted, strict=True)]
            second[p] = [[c + v * moved[b] for b, c in enumerate(row)] for v, row in zip(weighted, second[p], strict=True)]
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


def spread(columns: list[Rows], increments: list[Array]) -> Rows:
    """How far the increments, one for each column, move each row."""
    rows = zip(*columns, strict=True)
    return [jax.tree.reduce(jnp.add, [f * dw for f, dw in zip(row, increments, strict=True)]) for row in rows]
