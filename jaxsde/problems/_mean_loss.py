"""A loss that is a mean over data."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._linalg import vdot
from .._traced import AbstractFunctionHolder, traced
from ._numbers import check_keys

# The number of examples worked on at a time; the memory that differentiating takes grows with it.
CHUNK = 256

# So many shapes are shown in a message at most.
_SHOWN = 8


class MeanLoss(AbstractFunctionHolder):
    """The mean of a loss over data, $f(x) = \\frac1N \\sum_i \\ell(x, d_i)$.

    **Arguments:**

    - `example_loss`: $\\ell$, `(params, example) -> scalar`.
    - `data`: a pytree of arrays with a leading axis of the same length N; an example is a pytree of their rows.

    **Raises:** `ValueError` where the lengths differ or there are no data; `TypeError` for data that are not arrays of
    numbers. When called, `ValueError` or `TypeError` where `example_loss` does not return one floating-point number.

    >>> MeanLoss(lambda w, example: (w - example) ** 2, jnp.array([1.0, 3.0]))(jnp.array(2.0)).item()
    1.0
    """

    example_loss: Callable[[PyTree, PyTree], Float[Array, ""]]
    data: PyTree[Array]

    def __init__(self, example_loss: Callable[[PyTree, PyTree], Float[Array, ""]], data: PyTree):
        if not callable(example_loss):
            raise TypeError(f"example_loss must be callable, (params, example) -> scalar, got {example_loss!r}")
        self.example_loss = example_loss
        check_keys("data", data)
        try:
            self.data = jax.tree.map(jnp.asarray, data)
        except (TypeError, ValueError, OverflowError) as error:
            hint = ": of a data set of jaxsde.data, pass its .train" if hasattr(data, "train") else ""
            raise TypeError(f"data must be arrays of numbers with a leading axis of examples{hint} ({error})") from None
        shapes = [leaf.shape for leaf in jax.tree.leaves(self.data)]
        if not shapes or () in shapes or len({shape[0] for shape in shapes}) != 1 or shapes[0][0] == 0:
            got, hint = str(shapes), ""
            if isinstance(data, list | tuple) and len(shapes) > _SHOWN:
                hint = "; stack a list of examples to one array of each part, as in (inputs, labels)"
            if len(shapes) > _SHOWN:
                got = f"{len(shapes)} arrays of the shapes {', '.join(map(str, shapes[:_SHOWN]))}, ..."
            raise ValueError(f"data must be arrays with a leading axis of examples, as many in all of them, got {got}{hint}")

    def traced(self, params: PyTree) -> "MeanLoss":
        """The loss with a user's loss of an example traced."""
        example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.data)
        return eqx.tree_at(lambda s: s.example_loss, self, traced(self.example_loss, params, example))

    @property
    def count(self) -> int:
        """N, the number of examples."""
        return jax.tree.leaves(self.data)[0].shape[0]

    def __call__(self, params: PyTree) -> Float[Array, ""]:
        if self.count <= CHUNK:
            return jnp.mean(self.each(params, self.data))
        return self.weighted(params, jnp.ones(self.count)) / self.count

    def each(self, params: PyTree, examples: PyTree) -> Float[Array, " n"]:
        """Computes the loss of each of some examples."""
        losses = jax.vmap(self.example_loss, (None, 0))(params, examples)
        shape = getattr(losses, "shape", None)
        if shape is None or len(shape) != 1:
            raise ValueError(f"example_loss must return a scalar, got {losses if shape is None else f'shape {shape[1:]}'}")
        if not jnp.issubdtype(losses.dtype, jnp.floating):
            raise TypeError(f"example_loss must return a floating-point number, got dtype {losses.dtype}: it has no gradient")
        return losses

    def weighted(self, params: PyTree, weights: Float[Array, " N"]) -> Float[Array, ""]:
        """Sums the losses of all examples, each times its weight."""

        # Differentiating evaluates each chunk again, so that the intermediate results of all chunks need not be kept.
        @jax.checkpoint
        def part(params: PyTree, examples: PyTree, weights: Array) -> Array:
            losses = self.each(params, examples)
            return vdot(weights.astype(losses.dtype), losses)

        first, others = chunks((self.data, weights))
        total = part(params, *first)
        if others is None:
            return total
        return jax.lax.scan(lambda total, chunk: (total + part(params, *chunk), None), total, others)[0]

    def subset(self, count: int) -> "MeanLoss":
        """Takes the mean over that many of the examples, evenly spaced in the data."""
        chosen = np.linspace(0, self.count - 1, count).round().astype(int)
        return MeanLoss(self.example_loss, jax.tree.map(lambda leaf: leaf[chosen], self.data))


def chunks(data: PyTree[Array], size: int = CHUNK) -> tuple[PyTree[Array], PyTree[Array] | None]:
    """Cuts arrays along their leading axis: into a first chunk of at most `size`, and the others, all of that size, stacked;
    None where there are no others."""
    count = jax.tree.leaves(data)[0].shape[0]
    others = (count - 1) // size
    before = count - others * size
    first = jax.tree.map(lambda leaf: leaf[:before], data)
    if others == 0:
        return first, None
    return first, jax.tree.map(lambda leaf: leaf[before:].reshape(others, size, *leaf.shape[1:]), data)
