"""Mean and covariance of one update, coordinate by coordinate."""

import functools
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
_MOST_UNROLLED = 64


class Nodes(NamedTuple):
    """Where an update is evaluated for means over the law of the noise."""

    z: Float[Array, " n"]
    weights: Float[Array, " n"] | None
    """None where they are equal."""
    stride: int = 1
    """Shifted nodes are as many samples, each with every so-maniest node, which differ by their shift alone."""

    @property
    def centre(self) -> Array:
        """The node of which differences are taken, so that nothing cancels."""
        return self.z[self.z.size // 2]

    def means(self, of: Callable[[Array, Callable[[Any], Any]], Any]) -> list[Any]:
        """The mean, over each of the samples, of a pytree of arrays that vanish at the central node. `of(z, weighed)` returns
        it times the node's weight, by which `weighed` multiplies."""

        def at(z: Array, w: Array | None) -> Any:
            return of(z, lambda tree: tree if w is None else jax.tree.map(lambda v: w * v, tree))

        count = self.z.size
        if count > _MOST_UNROLLED:
            nothing = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(lambda z: of(z, _same), self.z[0]))
            add = lambda total, node: (jax.tree.map(jnp.add, total, at(*node)), None)
            sums, size = [jax.lax.scan(add, nothing, (self.z, self.weights))[0]], count
        else:
            weights = [None] * count if self.weights is None else list(self.weights)
            parts = [None if j == count // 2 else at(self.z[j], weights[j]) for j in range(count)]
            sums, size = [_added(parts[k :: self.stride]) for k in range(self.stride)], count // self.stride
        return sums if self.weights is not None else [_scaled(1 / size, total) for total in sums]


def _same(tree: Any) -> Any:
    return tree


def _added(trees: list[Any]) -> Any:
    some = [tree for tree in trees if tree is not None]
    return jax.tree.map(lambda *leaves: functools.reduce(jnp.add, leaves), *some)


def _mean(trees: list[Any]) -> Any:
    return trees[0] if len(trees) == 1 else _scaled(1 / len(trees), _added(trees))


def _scaled(factor: float, tree: Any) -> Any:
    return jax.tree.map(lambda v: factor * v, tree)


def mean_move(rows_at: Callable[[Array], list[Rows]], nodes: Nodes) -> list[Rows]:
    """The means of the rows of each leaf over the nodes."""
    centre = rows_at(nodes.centre)
    moved = nodes._replace(stride=1).means(lambda z, weighed: weighed(jax.tree.map(jnp.subtract, rows_at(z), centre)))
    return jax.tree.map(jnp.add, centre, moved[0])


def moments(rows_at: Callable[[Array], list[Rows]], nodes: Nodes, pivots: Pivots, aligned: bool) -> list[Block]:
    """Mean and root of the covariance of the rows of each leaf over the nodes.

    With `aligned`, the first increment is the gradient's noise itself: its factor is the part of the rows that is linear in it.
    """
    centre = rows_at(nodes.centre)

    def powers(z: Array, weighed: Callable[[Any], Any]) -> Any:
        moved = jax.tree.map(jnp.subtract, rows_at(z), centre)
        mean = weighed(moved)
        linear = jax.tree.map(lambda v: z * v, mean) if aligned else None
        products = [[[v * u for u in us[: a + 1]] for a, v in enumerate(vs)] for vs, us in zip(mean, moved, strict=True)]
        return mean, linear, products

    samples = nodes.means(powers)
    mean, linear, second = _mean(samples)
    blocks = []
    for p, places in enumerate(pivots):
        covariance = [[c - mean[p][a] * mean[p][b] for b, c in enumerate(row)] for a, row in enumerate(second[p])]
        if len(samples) > 1:
            covariance = jax.tree.map(jnp.add, covariance, _missing([sample[0][p] for sample in samples], mean[p]))
        total = [c + m for c, m in zip(centre[p], mean[p], strict=True)]
        blocks.append(Block(total, _root(covariance, places, linear[p] if aligned else None)))
    return blocks


def _missing(samples: list[Rows], mean: Rows) -> Blocks:
    """What the covariance over shifted nodes lacks on average: the covariance of their mean from shift to shift.

    It falls with the square of the number of nodes, for jumps as for slopes. So each of the n samples, with n times fewer
    nodes, has n^2 times as much; and this is what they differ by, and what their mean has itself.
    """
    apart = [[s - m for s, m in zip(sample, mean, strict=True)] for sample in samples]
    n = len(samples)
    products = [[[v * u for u in rows[: a + 1]] for a, v in enumerate(rows)] for rows in apart]
    return _scaled(1 / (n * (n * n - 1)), _added(products))


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
        inverse = jnp.where(some, 1 / jnp.sqrt(jnp.where(some, left, 1)), 0)
        column = [row[pivot] * inverse if a >= pivot else jnp.zeros_like(left) for a, row in enumerate(rest)]
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
