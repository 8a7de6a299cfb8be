"""A transform with random parameters and gradients, to see what its updates do."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._promotion import usual_promotion
from ..processes import call_update
from ._update import MakeTransform

MOST_IN_TURN = 25
"""So many rows and fewer are compared bit by bit."""
_AT_ONCE = 2048
"""Numbers of rows are rounded up to this one or that, so that a transform is compiled three times and no more."""


class Probe:
    """A transform with random parameters and gradients, as flat vectors of NumPy."""

    def __init__(self, make: MakeTransform, like: PyTree, original: MakeTransform, full: PyTree):
        self.make, self.rng = make, np.random.default_rng(0)
        self.leaves, self.structure = jax.tree.flatten(like)
        self.sizes = [int(np.prod(leaf.shape)) for leaf in self.leaves]
        self.count = sum(self.sizes)
        self.leaf_of = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self.place_of = np.concatenate([np.arange(n) for n in self.sizes])
        with usual_promotion():
            self.shapes = jax.tree.leaves(jax.eval_shape(lambda p: original().init(p), full))
        self.full = [jnp.shape(leaf) for leaf in jax.tree.leaves(full)]

    def params(self, vectors: np.ndarray) -> PyTree:
        """Vectors of all coordinates as pytrees with the same leading axes."""
        parts = np.split(vectors, np.cumsum(self.sizes)[:-1], axis=-1)
        shaped = [v.reshape((*v.shape[:-1], *a.shape)).astype(a.dtype) for v, a in zip(parts, self.leaves, strict=True)]
        return jax.tree.unflatten(self.structure, shaped)

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=(*shape, self.count))

    def init(self, x: np.ndarray) -> Any:
        return _on_host(_initial(self.make, self.params(x)))

    def step(self, state: Any, x: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, Any]:
        """One update for each of the rows of `x` and `gradient`, with a state for each: the moves of x, and the new states."""
        count = len(x)
        least = 1 if count == 1 else MOST_IN_TURN if count <= MOST_IN_TURN else _AT_ONCE
        filled = lambda a: np.concatenate([a, np.repeat(a[-1:], -count % least, axis=0)])
        gradients, xs = self.params(filled(gradient)), self.params(filled(x))
        update, new = _on_host(_updated(self.make, gradients, jax.tree.map(filled, state), xs))
        flat = [u[:count].reshape(count, -1) for u in jax.tree.leaves(update)]
        return np.concatenate(flat, axis=1).astype(float), jax.tree.map(lambda a: a[:count], new)


def _on_host(tree: PyTree) -> PyTree:
    """The same arrays as NumPy's, which are cut and joined without a program for each shape."""
    return jax.tree.map(np.asarray, jax.device_get(tree))


@eqx.filter_jit
def _initial(make: MakeTransform, x: PyTree) -> Any:
    with usual_promotion():
        return make().init(x)


@eqx.filter_jit
def _updated(make: MakeTransform, gradient: PyTree, state: Any, x: PyTree) -> tuple[PyTree, Any]:
    update = functools.partial(call_update, make())
    if len(jax.tree.leaves(x)[0]) > MOST_IN_TURN:
        return jax.vmap(update)(gradient, state, x)
    # One after another: in a batch, places in a vector register decide how a number is rounded, and rows would differ by that.
    return jax.lax.map(lambda row: update(*row), (gradient, state, x))


def repeated(state: Any, times: int) -> Any:
    """A state for each of so many rows."""
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (times, *np.shape(leaf))), state)


def rows_of(state: Any) -> list[np.ndarray]:
    """The leaves of a batch of states, each as a matrix."""
    return [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(state)]
