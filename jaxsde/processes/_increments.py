"""Brownian increments of unit variance, keyed by an integer step index: no floating-point time decides a draw."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from .. import _checks, _threefry
from ._blocks import resume_blocks

_BITS, _SIDES, _DIGITS = 32, 6, 4

# So few coordinates have the normal numbers of so many steps drawn at a time.
_FEW, _ROWS = 15, 16

# A word below the one has 0 for its first digit in base 6, a word from the other on has 5.
_FIRST_SIXTH, _LAST_SIXTH = np.uint32(-(-(2**32) // _SIDES)), np.uint32(-(-(_SIDES - 1) * 2**32 // _SIDES))


class AbstractIncrements(eqx.Module):
    """A law of independent increments with mean 0 and variance 1.

    Random words are drawn for a block of `period` steps at a time: block b serves the steps
    b `period`, ..., (b + 1) `period` - 1, whichever of them are made.
    """

    period: eqx.AbstractClassVar[int]

    @abc.abstractmethod
    def draw_block(self, key: UInt32[Array, "2"], number: Int[Array, ""] | int, like: PyTree) -> PyTree:
        """What the increments of block `number` are cut from, as a pytree with the structure and the shapes of `like`."""

    @abc.abstractmethod
    def read_step(self, block: PyTree, place: Int[Array, ""] | int, scale: Float[Array, ""], like: PyTree) -> PyTree:
        """`scale` times the increment, shaped like `like`, of the block's step number `place`, from 0 to `period` - 1."""

    def for_shape(self, like: PyTree) -> "AbstractIncrements":
        """The same increments, number by number, in blocks that suit this shape."""
        del like
        return self


class GaussianIncrements(AbstractIncrements):
    """Standard normal increments.

    >>> GaussianIncrements().draw_block(jnp.zeros(2, jnp.uint32), 0, jnp.zeros(3)).shape
    (3,)
    """

    period: ClassVar[int] = 1

    def draw_block(self, key: UInt32[Array, "2"], number: Int[Array, ""] | int, like: PyTree) -> PyTree:
        return _threefry.normals(key, number, like)

    def read_step(self, block: PyTree, place: Int[Array, ""] | int, scale: Float[Array, ""], like: PyTree) -> PyTree:
        return jax.tree.map(lambda z: scale.astype(z.dtype) * z, block)

    def for_shape(self, like: PyTree) -> AbstractIncrements:
        largest = max((leaf.size for leaf in jax.tree.leaves(like)), default=0)
        return GaussiansInRows() if 1 < largest <= _FEW else self


class GaussiansInRows(AbstractIncrements):
    """The numbers of [`GaussianIncrements`][], of several steps at a time.

    For two coordinates or a few: compilers make vectors of an array's last axis, which would be no longer than that.

    >>> GaussiansInRows().draw_block(jnp.zeros(2, jnp.uint32), 0, jnp.zeros(3)).shape
    (48,)
    """

    period: ClassVar[int] = _ROWS

    def draw_block(self, key: UInt32[Array, "2"], number: Int[Array, ""] | int, like: PyTree) -> PyTree:
        return _threefry.normals(key, jnp.asarray(number) * _ROWS, like, count=_ROWS)

    def read_step(self, block: PyTree, place: Int[Array, ""] | int, scale: Float[Array, ""], like: PyTree) -> PyTree:
        def pick(row: Array, leaf: Array) -> Array:
            z = jax.lax.dynamic_slice(row, (jnp.asarray(place) * leaf.size,), (leaf.size,)).reshape(leaf.shape)
            return scale.astype(z.dtype) * z

        return jax.tree.map(pick, block, like)


class TwoPointIncrements(AbstractIncrements):
    """Increments that are 1 or -1 with equal probability, a random bit each.

    They have the moments that a scheme of weak order 1 needs (kloeden1992, chapter 14), at a fraction of
    the price of normal ones: a word of 32 bits per coordinate serves 32 steps, one bit a step.

    >>> TwoPointIncrements().read_step(jnp.full(3, 5, jnp.uint32), 1, jnp.ones(()), jnp.zeros(3)).tolist()
    [-1.0, -1.0, -1.0]
    """

    period: ClassVar[int] = _BITS

    def draw_block(self, key: UInt32[Array, "2"], number: Int[Array, ""] | int, like: PyTree) -> PyTree:
        return _words(key, number, like)

    def read_step(self, block: PyTree, place: Int[Array, ""] | int, scale: Float[Array, ""], like: PyTree) -> PyTree:
        bit = np.uint32(1) << jnp.asarray(place, jnp.uint32)

        def pick(word: Array, leaf: Array) -> Array:
            size = scale.astype(leaf.dtype)
            return jnp.where((word & bit) != 0, size, -size)

        return jax.tree.map(pick, block, like)


class ThreePointIncrements(AbstractIncrements):
    """Increments that are $\\sqrt 3$, 0 or $-\\sqrt 3$ with probabilities 1/6, 2/3 and 1/6.

    They have the moments up to the fifth of normal ones, as a scheme of weak order 2 needs (kloeden1992, chapter 14). A word
    is read as a fraction in base 6, of which four digits serve four steps: the probabilities are exact to
    $6^4 / 2^{32} = 3 \\cdot 10^{-7}$.

    >>> round(ThreePointIncrements().read_step(jnp.uint32(0), 0, jnp.ones(()), jnp.zeros(())).item(), 3)
    1.732
    """

    period: ClassVar[int] = _DIGITS

    def draw_block(self, key: UInt32[Array, "2"], number: Int[Array, ""] | int, like: PyTree) -> PyTree:
        return _words(key, number, like)

    def read_step(self, block: PyTree, place: Int[Array, ""] | int, scale: Float[Array, ""], like: PyTree) -> PyTree:
        shift = jnp.asarray(_SIDES ** np.arange(_DIGITS), jnp.uint32)[place]

        def pick(word: Array, leaf: Array) -> Array:
            rest = word * shift  # modulo one, as a fraction of 2^32: the digits before the point overflow
            size = (scale * np.sqrt(3)).astype(leaf.dtype)
            return jnp.where(rest < _FIRST_SIXTH, size, jnp.where(rest >= _LAST_SIXTH, -size, np.zeros((), leaf.dtype)))

        return jax.tree.map(pick, block, like)


_LAWS = {"two-point": TwoPointIncrements, "three-point": ThreePointIncrements, "gaussian": GaussianIncrements}


def as_increments(increments: str | AbstractIncrements) -> AbstractIncrements:
    """The law of increments, or that of this name. Raises `ValueError` for an unknown name."""
    if isinstance(increments, AbstractIncrements):
        return increments
    return _LAWS[_checks.choice("increments", increments, tuple(_LAWS))]()


def drive(
    increments: AbstractIncrements,
    step: Callable[[Any, Int[Array, ""], tuple[PyTree, ...]], Any],
    state: Any,
    block: PyTree,
    key: UInt32[Array, "2"],
    start: Int[Array, ""],
    stop: Int[Array, ""],
    first: Int[Array, ""],
    scale: Float[Array, ""],
    like: PyTree,
    together: int = 1,
) -> tuple[Any, PyTree]:
    """Moves `state` by `step(state, n, increments)` from `start` to `stop`, and returns the last block with it.

    The increments are those of the steps n, n + 1, ..., `together` of them, times `scale`; so many steps divide the period,
    the start and the stop.
    """

    def renew(m: Array, block: PyTree) -> PyTree:
        return renewed(increments, block, key, together * m, first, like)

    def taken(state: Any, m: Array, block: PyTree, place: Array) -> Any:
        places = (together * place + i for i in range(together))
        return step(state, together * m, tuple(increments.read_step(block, at, scale, like) for at in places))

    return resume_blocks(increments.period // together, renew, taken, state, block, start // together, stop // together)


def renewed(
    increments: AbstractIncrements,
    block: PyTree,
    key: UInt32[Array, "2"],
    n: Int[Array, ""],
    first: Int[Array, ""],
    like: PyTree,
) -> PyTree:
    """The block for step `n`: the one at hand, unless a block or, at step `first`, the run begins there."""
    period = increments.period
    if period == 1:
        return increments.draw_block(key, n, like)
    begins = (n % period == 0) | (n == first)
    return jax.lax.cond(begins, lambda: increments.draw_block(key, n // period, like), lambda: block)


def empty_block(increments: AbstractIncrements, like: PyTree) -> PyTree:
    """A block of zeros, to begin with."""
    key, number = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((), jnp.int32)
    shapes = jax.eval_shape(increments.draw_block, key, number, like)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _words(key: UInt32[Array, "2"], block: Int[Array, ""] | int, like: PyTree) -> PyTree:
    return _threefry.by_leaf(lambda offset, leaf: _threefry.words(key, block, offset, leaf.shape)[0], like)
