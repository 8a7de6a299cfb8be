"""Real mini-batches: a loss that is a mean over data, and the noise of drawing from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks
from .._tree import flat
from . import _normal_signs
from ._noise import AbstractNoise

# How many examples' gradients are held at a time.
_CHUNK = 256


class MeanLoss(eqx.Module):
    """The mean of a loss over data, $f(x) = \\frac1N \\sum_i \\ell(x, d_i)$.

    **Arguments:**

    - `example_loss`: $\\ell$, `(params, example) -> scalar`.
    - `data`: a pytree of arrays with a leading axis of the same length N; an example is a pytree of their rows.

    **Raises:** `ValueError` where the lengths differ or there are no data.

    >>> MeanLoss(lambda w, example: (w - example) ** 2, jnp.array([1.0, 3.0]))(jnp.array(2.0)).item()
    1.0
    """

    example_loss: Callable[[PyTree, PyTree], Float[Array, ""]]
    data: PyTree[Array]

    def __init__(self, example_loss: Callable[[PyTree, PyTree], Float[Array, ""]], data: PyTree):
        if not callable(example_loss):
            raise TypeError(f"example_loss must be callable, (params, example) -> scalar, got {example_loss!r}")
        self.example_loss = example_loss
        self.data = jax.tree.map(jnp.asarray, data)
        shapes = [leaf.shape for leaf in jax.tree.leaves(self.data)]
        if not shapes or () in shapes or len({shape[0] for shape in shapes}) != 1 or shapes[0][0] == 0:
            raise ValueError(f"data must be arrays with a leading axis of examples, as many in all of them, got {shapes}")

    @property
    def count(self) -> int:
        """N, the number of examples."""
        return jax.tree.leaves(self.data)[0].shape[0]

    def __call__(self, params: PyTree) -> Float[Array, ""]:
        return jnp.mean(self.each(params, self.data))

    def each(self, params: PyTree, examples: PyTree) -> Float[Array, " n"]:
        """The loss of each of some examples."""
        return jax.vmap(self.example_loss, (None, 0))(params, examples)


class MiniBatch(AbstractNoise):
    """The noise of a gradient over examples that are drawn, with replacement, from all of the data.

    Its covariance is $\\Sigma(x) = \\frac1B \\cdot \\frac1N \\sum_i (g_i - \\bar g)(g_i - \\bar g)^\\top$ with the examples'
    gradients $g_i$, at the current point. An SDE takes increments of it without a matrix: $\\frac{1}{\\sqrt{N B}} \\sum_i
    (z_i - \\bar z)\\,g_i$ with independent $z_i$ of variance 1, one for each example, has exactly this covariance and costs
    one gradient of a re-weighted loss.

    **Arguments:**

    - `loss`: the [`MeanLoss`][].
    - `batch_size`: B.

    For SignSGD the signs' means are those of normal noise with the variance of each coordinate, and the signs are taken
    for independent of each other: approximations, unlike the rest. On linear regression with correlated features they put
    second moments of the stationary law off by some 10 %.

    >>> loss = MeanLoss(lambda w, example: w @ example, jnp.array([[1.0], [3.0]]))
    >>> MiniBatch(loss, 4).variance(jnp.zeros(1)).tolist()
    [0.25]
    """

    loss: MeanLoss
    batch_size: int = eqx.field(static=True)

    def __init__(self, loss: MeanLoss, batch_size: int):
        self.loss = loss
        self.batch_size = _checks.count("batch_size", batch_size)

    @property
    def independent(self) -> bool:
        return False

    @property
    def independent_signs(self) -> bool:
        return True

    @property
    def has_variance(self) -> bool:
        return True

    def validate(self, params: PyTree) -> None:
        """The loss over the data has been evaluated at the parameters already."""

    def increments_like(self, params: PyTree) -> PyTree:
        return jnp.zeros(self.loss.count, jnp.result_type(*jax.tree.leaves(params)))

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: PRNGKeyArray) -> PyTree:
        drawn = jax.random.randint(key, (self.batch_size,), 0, self.loss.count)
        batch = jax.tree.map(lambda leaf: leaf[drawn], self.loss.data)
        return jax.grad(lambda p: jnp.mean(self.loss.each(p, batch)))(params)

    def variance(self, params: PyTree) -> PyTree:
        deviations = _over_examples(self.loss, params).deviations
        return jax.tree.map(lambda d: d / (self.loss.count * self.batch_size), deviations)

    def root(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        return eqx.Partial(_reweighted, self.loss, self.batch_size, params)

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        gradients = jax.vmap(lambda example: flat(jax.grad(self.loss.example_loss)(params, example)))(self.loss.data)
        centred = gradients - jnp.mean(gradients, axis=0)
        return centred.T @ centred / (self.loss.count * self.batch_size)

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return _normal_signs.mean_sign(gradient, self._std(params))

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        return _normal_signs.prob_negative(gradient, self._std(params))

    def _std(self, params: PyTree) -> PyTree:
        return jax.tree.map(jnp.sqrt, self.variance(params))

    @property
    def slope(self) -> Float[Array, ""]:
        return jnp.asarray(_normal_signs.SLOPE)

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        return jnp.diag(1 - flat(self.mean_sign(gradient, params)) ** 2)


class _Spread(NamedTuple):
    """Of some examples' gradients: their mean, and the sum of squared deviations from it."""

    mean: PyTree
    deviations: PyTree


def _over_examples(loss: MeanLoss, params: PyTree) -> _Spread:
    """Of all examples' gradients, of which only a chunk is held at a time."""

    def spread(examples: PyTree) -> _Spread:
        gradients = jax.vmap(jax.grad(loss.example_loss), (None, 0))(params, examples)
        mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
        return _Spread(mean, jax.tree.map(lambda g, m: jnp.sum((g - m) ** 2, axis=0), gradients, mean))

    chunks, left = divmod(loss.count, _CHUNK)
    if chunks == 0:
        return spread(loss.data)
    whole = jax.tree.map(lambda leaf: leaf[: chunks * _CHUNK].reshape(chunks, _CHUNK, *leaf.shape[1:]), loss.data)

    def add(total: _Spread, chunk: tuple[Array, PyTree]) -> tuple[_Spread, None]:
        done, examples = chunk
        return _merged(total, done * _CHUNK, spread(examples), _CHUNK), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    total = jax.lax.scan(add, _Spread(zeros, zeros), (jnp.arange(chunks), whole))[0]
    if left == 0:
        return total
    rest = spread(jax.tree.map(lambda leaf: leaf[chunks * _CHUNK :], loss.data))
    return _merged(total, jnp.asarray(chunks * _CHUNK), rest, left)


def _merged(a: _Spread, a_count: Array, b: _Spread, b_count: int) -> _Spread:
    """Of both sets of examples (Chan, Golub and LeVeque, 1983)."""

    def merge(mean: Array, deviations: Array, its_mean: Array, its_deviations: Array) -> tuple[Array, Array]:
        share = (b_count / (a_count + b_count)).astype(mean.dtype)
        gap = its_mean - mean
        return mean + share * gap, deviations + its_deviations + gap**2 * share * a_count.astype(mean.dtype)

    leaves = [jax.tree.leaves(tree) for tree in (*a, *b)]
    means, deviations = zip(*(merge(*four) for four in zip(*leaves, strict=True)), strict=True)
    structure = jax.tree.structure(a.mean)
    return _Spread(jax.tree.unflatten(structure, means), jax.tree.unflatten(structure, deviations))


def _reweighted(loss: MeanLoss, batch_size: int, params: PyTree, increment: Any) -> PyTree:
    """The examples' gradients, each times its centred increment, over the root of N B."""
    losses, pull_back = jax.vjp(lambda p: loss.each(p, loss.data), params)
    weights = (increment - jnp.mean(increment)) / np.sqrt(loss.count * batch_size)
    return pull_back(weights.astype(losses.dtype))[0]
