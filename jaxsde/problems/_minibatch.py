"""The noise of a gradient over a mini-batch of real data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _checks
from .._linalg import combine, einsum, matmul
from .._moments import merge_moments
from .._tree import flat, size
from . import _normal_signs
from ._mean_loss import CHUNK, MeanLoss, chunks
from ._noise import AbstractNoise
from ._sign_law import AbstractSignLaw, Signs, prob_nonzero
from ._source import AbstractBatches, AbstractSource, Batch, Epochs, WithReplacement

# The examples' gradients that are held at a time have at most this many numbers, but are at least this many gradients.
_GRADIENT_NUMBERS, _LEAST_GRADIENTS = 2**22, 8

# Examples and batches are counted by an int32.
_MOST = 2**31 - 1


class MiniBatch(AbstractNoise, AbstractSignLaw):
    """The noise of a gradient over examples that are drawn from all of the data.

    Drawn with replacement, its covariance is $\\Sigma(x) = \\frac1B \\cdot \\frac1N \\sum_i (g_i - \\bar g)(g_i - \\bar
    g)^\\top$ with the examples' gradients $g_i$, at the current point. An SDE takes increments of it without a matrix:
    $\\frac{1}{\\sqrt{N B}} \\sum_i (z_i - \\bar z)\\,g_i$ with independent $z_i$ of variance 1, one for each example, has
    exactly this covariance and costs one gradient of a re-weighted loss.

    **Arguments:**

    - `loss`: the [`MeanLoss`][].
    - `batch_size`: B.
    - `shuffle`: whether an optimizer's chain goes through the data epoch by epoch, in an order drawn anew for each,
      instead of drawing with replacement; where B does not divide N, an epoch ends before the batch that would be too
      small. The covariance is that of one such batch, $\\frac{N - B}{N - 1}$ times the one above. Within an epoch these
      batches are not independent, as the SDEs take them to be: their noise adds up to almost nothing.
    - `covariance_examples`: over how many of the examples, a fixed subset evenly spaced in the data, the SDEs' covariance
      is computed; by default all. It bounds the covariance's cost; the gradient remains that of all the data.
    - `sign_batches`: for SignSGD's SDE. By default the signs are taken for independent of each other, and each for 0 with
      the probability that a batch has none of the examples whose gradient is not 0 in its coordinate (pixels that are
      mostly blank, words), else for that of normal noise with the moments that a batch's gradient then has:
      approximations, unlike the rest. On linear regression with correlated features they put second moments of the
      stationary law off by some 10 %. Of features active in 2 % of the examples, in batches of 8, the variances come out
      right to 4 %, while the means are off by more than half of their size: such a batch mostly has one active
      example. With a number M, mean and covariance of the signs are those of M batches, the same at every step and for
      every seed: free of both approximations, off by chance of the order $1/\\sqrt M$. A step then takes the gradients of
      M batches, or those of all examples where these are fewer, and holds M signs of every coordinate.

    **Raises:** `ValueError` for numbers that are too small, or larger than N; `TypeError` for numbers that are not whole, a
    `shuffle` that is not a boolean, or another loss.

    >>> loss = MeanLoss(lambda w, example: w @ example, jnp.array([[1.0], [3.0]]))
    >>> MiniBatch(loss, 4).variance(jnp.zeros(1)).tolist()
    [0.25]
    """

    loss: MeanLoss
    covariance_loss: MeanLoss
    """The mean over the examples that the covariance is taken over."""
    batches: AbstractBatches
    sign_batches: int | None = eqx.field(static=True)

    def __init__(
        self,
        loss: MeanLoss,
        batch_size: int,
        *,
        shuffle: bool = False,
        covariance_examples: int | None = None,
        sign_batches: int | None = None,
    ):
        if not isinstance(loss, MeanLoss):
            raise TypeError(f"loss must be a jaxsde.MeanLoss, whose examples make up the batches, got {loss!r}")
        if not isinstance(shuffle, (bool, np.bool_)):
            raise TypeError(f"shuffle must be True or False, got {shuffle!r}")
        self.loss = loss
        batch_size = _checks.count("batch_size", batch_size, most=_MOST)
        if shuffle and batch_size > loss.count:
            raise ValueError(f"with shuffle, batch_size must be at most the number of examples, {loss.count}, got {batch_size}")
        self.batches = (Epochs if shuffle else WithReplacement)(loss.count, batch_size)
        self.covariance_loss = loss
        if covariance_examples is not None:
            if _checks.count("covariance_examples", covariance_examples, least=2) > loss.count:
                raise ValueError(f"covariance_examples must be at most {loss.count}, got {covariance_examples}")
            self.covariance_loss = loss.subset(covariance_examples)
        self.sign_batches = None if sign_batches is None else _checks.count("sign_batches", sign_batches, least=2, most=_MOST)

    @property
    def source(self) -> AbstractSource:
        return self.batches

    @property
    def independent_signs(self) -> bool:
        return self.sign_batches is None

    @property
    def has_exact_moments(self) -> bool:
        return self.covariance_loss.count == self.loss.count

    def validate(self, params: PyTree) -> None:
        """Checks nothing: the loss over the data has been evaluated at the parameters already."""

    def increments_like(self, params: PyTree) -> PyTree:
        return jnp.zeros(self.covariance_loss.count, jnp.result_type(*jax.tree.leaves(params)))

    def draw(self, key: PRNGKeyArray) -> Int[Array, " B"]:
        """Draws the numbers of the examples that make up the batch of a key."""
        return self.batches.draw(key)

    def sample(self, params: PyTree, key: Any) -> PyTree:
        gradient = self.stochastic_gradient(self.loss, params, key)
        return jax.tree.map(jnp.subtract, gradient, jax.grad(self.loss)(params))

    def stochastic_gradient(self, loss: Callable[[PyTree], Array], params: PyTree, key: Any) -> PyTree:
        return self._batch_gradient(params, key.examples if isinstance(key, Batch) else self.draw(key))

    def variance(self, params: PyTree) -> PyTree:
        return self._batch_variance(_over_examples(self.covariance_loss, params).deviations)

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        return eqx.Partial(_reweighted, self.covariance_loss, self.batches.share, params)

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        loss = self.covariance_loss
        gradients = jax.vmap(lambda example: flat(jax.grad(loss.example_loss)(params, example)))(loss.data)
        centred = gradients - jnp.mean(gradients, axis=0, keepdims=True)
        return matmul(centred.T, centred) * (self.batches.share / loss.count)

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return self.sign_moments(gradient, params)[0]

    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        return self.sign_moments(gradient, params)[1]

    def sign_moments(self, gradient: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        if self.sign_batches is None:
            some, *normal = self._rarely_zero(gradient, params)
            mean = jax.tree.map(jnp.multiply, some, _normal_signs.mean_sign(*normal))
            return mean, jax.tree.map(lambda q, g, s: q * prob_nonzero(g, s), some, *normal)
        signs = self._signs(self.sign_batches, params)
        return _mean(signs), _mean(jax.tree.map(jnp.abs, signs))

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        if self.sign_batches is None:
            some, *normal = self._rarely_zero(gradient, params)
            return jax.tree.map(jnp.multiply, some, _normal_signs.prob_negative(*normal))
        below = lambda signs: jnp.mean(signs < 0, axis=0, dtype=signs.dtype)
        return jax.tree.map(below, self._signs(self.sign_batches, params))

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        if self.sign_batches is None:
            return super().sign_covariance(gradient, params)
        signs = jax.vmap(flat)(self._signs(self.sign_batches, params))
        centred = signs - jnp.mean(signs, axis=0, keepdims=True)
        return matmul(centred.T, centred) / self.sign_batches

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        batches = self.sign_batches
        if batches is None:
            return super().signs(gradient, params)
        # With an increment for each batch, the root of the covariance takes no matrix.
        signs = self._signs(batches, params)
        mean = _mean(signs)
        rows = jax.tree.map(lambda s, m: (s - m[None]) / np.sqrt(batches).astype(m.dtype), signs, mean)
        return Signs(mean, eqx.Partial(_weighted_rows, rows))

    def sign_increments_like(self, params: PyTree) -> PyTree:
        if self.sign_batches is None:
            return super().sign_increments_like(params)
        return jnp.zeros(self.sign_batches, jnp.result_type(*jax.tree.leaves(params)))

    def _batch_variance(self, deviations: PyTree) -> PyTree:
        """Computes the variance of a batch's gradient from the sum of the examples' squared deviations."""
        return jax.tree.map(lambda d: d * (self.batches.share / self.covariance_loss.count), deviations)

    def _rarely_zero(self, gradient: PyTree, params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """Computes, for each coordinate of a batch's gradient, the probability q that the batch has an example whose gradient
        is not 0 there, and the batch gradient's mean and standard deviation given that it has one."""
        spread = _over_examples(self.covariance_loss, params)
        sampled = self.covariance_loss.count
        # The probability where i/2 of the examples in the covariance have such a gradient, i = 0, ..., 2 `sampled`.
        table = self.batches.prob_some(np.arange(2 * sampled + 1) / (2 * sampled))

        def given(g: Array, variance: Array, count: Array) -> tuple[Array, Array, Array]:
            # Where no example of the subset has a gradient but the data have, half an example is taken to have one.
            place = jnp.where((count == 0) & (g != 0), 1, 2 * count)
            q = jnp.asarray(table, g.dtype)[place]
            some = jnp.where(q > 0, q, 1)
            # The second moment is that of all batches over q. By Cauchy and Schwarz the variance is not negative, but for
            # rounding, and subsets; roots have no derivative at 0.
            squared = (variance - g * g * (1 - some) / some) / some
            std = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
            return q, g / some, std

        leaves = [jax.tree.leaves(tree) for tree in (gradient, self._batch_variance(spread.deviations), spread.nonzero)]
        laws = zip(*(given(*three) for three in zip(*leaves, strict=True)), strict=True)
        q, mean, std = (jax.tree.unflatten(jax.tree.structure(gradient), law) for law in laws)
        return q, mean, std

    def _batch_gradient(self, params: PyTree, drawn: Int[Array, " B"]) -> PyTree:
        batch = jax.tree.map(lambda leaf: leaf[drawn], self.loss.data)
        return jax.grad(lambda p: jnp.mean(self.loss.each(p, batch)))(params)

    def _signs(self, batches: int, params: PyTree) -> PyTree:
        """Computes the signs of the gradients of that many batches, drawn with a key that is always the same."""
        drawn = jax.vmap(self.draw)(jax.random.split(jax.random.key(0), batches))
        if batches * self.batches.batch_size <= self.loss.count:
            signs = lambda indices: jax.tree.map(jnp.sign, self._batch_gradient(params, indices))
            return jax.lax.map(signs, drawn, batch_size=max(1, CHUNK // self.batches.batch_size))
        # The batches share examples: every example's gradient once.
        times = jax.vmap(lambda indices: jnp.bincount(indices, length=self.loss.count))(drawn)
        return jax.tree.map(jnp.sign, _sums(self.loss, params, times))


class _Spread(NamedTuple):
    """The mean of some examples' gradients, the sum of squared deviations from it, and how many are not 0."""

    mean: PyTree
    deviations: PyTree
    nonzero: PyTree


def _over_examples(loss: MeanLoss, params: PyTree) -> _Spread:
    """Computes the spread of all examples' gradients, of which only a chunk is held at a time."""

    def spread(examples: PyTree) -> _Spread:
        gradients = _each_gradient(loss, params, examples)
        mean = _mean(gradients)
        deviations = jax.tree.map(lambda g, m: jnp.sum((g - m[None]) ** 2, axis=0), gradients, mean)
        return _Spread(mean, deviations, jax.tree.map(lambda g: jnp.sum(g != 0, axis=0, dtype=jnp.int32), gradients))

    at_once = _examples_at_once(params)
    first, others = chunks(loss.data, at_once)
    if others is None:
        return spread(first)
    before = loss.count - jax.tree.leaves(others)[0].shape[0] * at_once

    def add(carry: tuple[Array, _Spread], examples: PyTree) -> tuple[tuple[Array, _Spread], None]:
        done, total = carry
        return (done + at_once, _merged(total, done, spread(examples), at_once)), None

    return jax.lax.scan(add, (jnp.asarray(before), spread(first)), others)[0][1]


def _merged(a: _Spread, a_count: Array, b: _Spread, b_count: int) -> _Spread:
    """Merges the spreads of two sets of examples."""
    merge = lambda m, s, n, t: merge_moments(a_count, m, s, b_count, n, t)
    merged = jax.tree.map(merge, a.mean, a.deviations, b.mean, b.deviations)
    mean, deviations = jax.tree.transpose(jax.tree.structure(a.mean), None, merged)
    return _Spread(mean, deviations, jax.tree.map(jnp.add, a.nonzero, b.nonzero))


def _sums(loss: MeanLoss, params: PyTree, times: Int[Array, "M N"]) -> PyTree:
    """Computes M sums of the examples' gradients, each taken a number of times."""

    def part(examples: PyTree, times: Array) -> PyTree:
        sums = lambda g: einsum("nm,n...->m...", times.astype(g.dtype), g)
        return jax.tree.map(sums, _each_gradient(loss, params, examples))

    first, others = chunks((loss.data, times.T), _examples_at_once(params))
    total = part(*first)
    if others is None:
        return total
    return jax.lax.scan(lambda total, chunk: (jax.tree.map(jnp.add, total, part(*chunk)), None), total, others)[0]


def _each_gradient(loss: MeanLoss, params: PyTree, examples: PyTree) -> PyTree:
    return jax.vmap(jax.grad(loss.example_loss), (None, 0))(params, examples)


def _examples_at_once(params: PyTree) -> int:
    """The number of examples whose gradients are held at a time."""
    return min(CHUNK, max(_LEAST_GRADIENTS, _GRADIENT_NUMBERS // size(params)))


def _mean(rows: PyTree) -> PyTree:
    return jax.tree.map(lambda r: jnp.mean(r, axis=0), rows)


def _weighted_rows(rows: PyTree, increment: Float[Array, " M"]) -> PyTree:
    """Sums the rows, each times its increment."""
    return jax.tree.map(lambda r: combine(increment.astype(r.dtype), r), rows)


def _reweighted(loss: MeanLoss, share: float, params: PyTree, increment: Any) -> PyTree:
    """Sums the examples' gradients, each times its centred increment and the root of share / N."""
    weights = (increment - jnp.mean(increment)) * np.sqrt(share / loss.count)
    return jax.grad(loss.weighted)(params, weights)
