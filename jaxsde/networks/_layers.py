"""Layers, for one example each; under `vmap` over examples and seeds they come out as large matrix products."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

# The variance of weights times their fan-in: keeps the size of activations through ReLU (he2015), or without it.
RELU, LINEAR = 2.0, 1.0


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers of the default dtype, the same ones in every dtype."""
    return jax.random.normal(key, shape, jnp.float32).astype(float)


def _shifted(x: Float[Array, "*n out"], bias: Float[Array, " out"]) -> Float[Array, "*n out"]:
    return x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


class Linear(eqx.Module):
    """An affine map of the last axis; weights N(0, gain / fan-in), biases 0."""

    weight: Float[Array, "out in_"]
    bias: Float[Array, " out"]

    def __init__(self, in_size: int, out_size: int, gain: float = RELU, *, key: PRNGKeyArray):
        self.weight = math.sqrt(gain / in_size) * normal(key, (out_size, in_size))
        self.bias = jnp.zeros(out_size)

    def __call__(self, x: Float[Array, "*n in_"]) -> Float[Array, "*n out"]:
        return _shifted(x @ self.weight.T, self.bias)


class Conv(eqx.Module):
    """A 3 x 3 convolution that keeps height and width; weights N(0, 2 / fan-in), biases 0.

    A matrix product over patches: convolutions whose filters differ from seed to seed are many times slower, as the
    compiler has to make grouped ones of them. Channels come last, so that the patches are the product's rows as they stand.
    """

    weight: Float[Array, "out in_ 9"]
    bias: Float[Array, " out"]

    def __init__(self, in_channels: int, out_channels: int, *, key: PRNGKeyArray):
        self.weight = math.sqrt(RELU / (9 * in_channels)) * normal(key, (out_channels, in_channels, 9))
        self.bias = jnp.zeros(out_channels)

    def __call__(self, x: Float[Array, "h w in_"]) -> Float[Array, "h w out"]:
        height, width = x.shape[:2]
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        patches = jnp.concatenate([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)
        return _shifted(patches @ self.weight.transpose(2, 1, 0).reshape(patches.shape[-1], -1), self.bias)


def max_pool(x: Float[Array, "h w c"]) -> Float[Array, "h_half w_half c"]:
    """The largest of each 2 x 2 square; an odd last row or column is left out."""
    height, width, channels = x.shape
    even = x[: height // 2 * 2, : width // 2 * 2]
    return even.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))


class Attention(eqx.Module):
    """Multi-head self-attention, of each position on all or on those up to itself."""

    inputs: Linear
    output: Linear
    heads: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(self, width: int, heads: int, causal: bool, *, key: PRNGKeyArray):
        first, second = jax.random.split(key)
        self.inputs = Linear(width, 3 * width, LINEAR, key=first)
        self.output = Linear(width, width, LINEAR, key=second)
        self.heads = heads
        self.causal = causal

    def __call__(self, x: Float[Array, "n width"]) -> Float[Array, "n width"]:
        length, width = x.shape
        parts = self.inputs(x).reshape(length, 3, self.heads, width // self.heads)
        query, key, value = parts[:, 0], parts[:, 1], parts[:, 2]
        scores = jnp.einsum("qhd,khd->hqk", query, key) / math.sqrt(width // self.heads)
        if self.causal:
            scores = jnp.where(jnp.tril(jnp.ones((length, length), bool))[None], scores, -jnp.inf)
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), value)
        return self.output(mixed.reshape(length, width))


class Block(eqx.Module):
    """A block of a Transformer: attention and a feed-forward network, normalised before, added to what came in."""

    attention_norm: eqx.nn.LayerNorm
    attention: Attention
    feed_forward_norm: eqx.nn.LayerNorm
    expand: Linear
    contract: Linear

    def __init__(self, width: int, heads: int, feed_forward: int, causal: bool, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.attention_norm = eqx.nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal, key=keys[0])
        self.feed_forward_norm = eqx.nn.LayerNorm(width)
        self.expand = Linear(width, feed_forward, key=keys[1])
        self.contract = Linear(feed_forward, width, LINEAR, key=keys[2])

    def __call__(self, x: Float[Array, "n width"]) -> Float[Array, "n width"]:
        x = x + self.attention(jax.vmap(self.attention_norm)(x))
        return x + self.contract(jax.nn.gelu(self.expand(jax.vmap(self.feed_forward_norm)(x))))
