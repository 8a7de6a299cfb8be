"""Convolutional networks."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _checks
from ._layers import LINEAR, Conv, Linear, max_pool


class _Head(eqx.Module):
    """What both networks end on: max-pooling, a dense layer with ReLU, logits."""

    dense: Linear
    last: Linear

    def __init__(self, shape: Sequence[int], channels: int, dense: int, classes: int, *, key: PRNGKeyArray):
        pooled = channels * (shape[1] // 2) * (shape[2] // 2)
        first, second = jax.random.split(key)
        self.dense = Linear(pooled, _checks.count("dense", dense), key=first)
        self.last = Linear(dense, _checks.count("classes", classes), LINEAR, key=second)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " classes"]:
        return self.last(jax.nn.relu(self.dense(max_pool(x).ravel())))


class CNN(eqx.Module):
    """A convolutional network: 3 x 3 convolution, ReLU, max-pooling, dense layer, ReLU, logits.

    **Arguments:**

    - `shape`: of an image: channels, height, width.
    - `classes`: how many logits.
    - `channels`: of the convolution.
    - `dense`: the width of the dense layer.
    - `key`: draws the weights, N(0, 2 / fan-in), of the last layer N(0, 1 / fan-in); biases are 0.

    **Raises:** `ValueError` for a shape that is not that of an image of at least 2 x 2.

    >>> CNN((1, 8, 8), 10, key=jax.random.key(0))(jnp.ones((1, 8, 8))).shape
    (10,)
    """

    conv: Conv
    head: _Head

    def __init__(self, shape: Sequence[int], classes: int, *, channels: int = 32, dense: int = 128, key: PRNGKeyArray):
        first, second = jax.random.split(key)
        self.conv = Conv(checked_shape(shape)[0], _checks.count("channels", channels), key=first)
        self.head = _Head(shape, channels, dense, classes, key=second)

    def __call__(self, image: Float[Array, "c h w"]) -> Float[Array, " classes"]:
        return self.head(jax.nn.relu(self.conv(_channels_last(image))))


class _Residual(eqx.Module):
    """A convolution whose output, normalised or not, is added to its input, then ReLU."""

    conv: Conv
    norm: eqx.nn.GroupNorm | None

    def __init__(self, channels: int, groups: int | None, *, key: PRNGKeyArray):
        self.conv = Conv(channels, channels, key=key)
        self.norm = None if groups is None else eqx.nn.GroupNorm(groups, channels)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        step = self.conv(x)
        if self.norm is not None:
            step = _channels_last(self.norm(jnp.moveaxis(step, -1, 0)))
        return jax.nn.relu(x + step)


class ResNet(eqx.Module):
    """A residual network: 3 x 3 convolution, ReLU, residual blocks of one convolution, max-pooling, dense layer, logits.

    **Arguments:**

    - `shape`: of an image: channels, height, width.
    - `classes`: how many logits.
    - `channels`: of all convolutions.
    - `dense`: the width of the dense layer.
    - `blocks`: how many residual blocks.
    - `groups`: how many groups of channels the blocks normalise over (GroupNorm, which has no state); by default none.
    - `key`: draws the weights, N(0, 2 / fan-in), of the last layer N(0, 1 / fan-in); biases are 0.

    **Raises:** `ValueError` for a shape that is not that of an image of at least 2 x 2, or groups that don't divide the
    channels.

    >>> ResNet((1, 8, 8), 10, blocks=3, groups=4, key=jax.random.key(0))(jnp.ones((1, 8, 8))).shape
    (10,)
    """

    conv: Conv
    blocks: tuple[_Residual, ...]
    head: _Head

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        channels: int = 32,
        dense: int = 128,
        blocks: int = 1,
        groups: int | None = None,
        key: PRNGKeyArray,
    ):
        first, middle, last = jax.random.split(key, 3)
        if groups is not None and _checks.count("channels", channels) % _checks.count("groups", groups):
            raise ValueError(f"groups must divide channels, got groups={groups} and channels={channels}")
        self.conv = Conv(checked_shape(shape)[0], _checks.count("channels", channels), key=first)
        keys = jax.random.split(middle, _checks.count("blocks", blocks))
        self.blocks = tuple(_Residual(channels, groups, key=k) for k in keys)
        self.head = _Head(shape, channels, dense, classes, key=last)

    def __call__(self, image: Float[Array, "c h w"]) -> Float[Array, " classes"]:
        x = jax.nn.relu(self.conv(_channels_last(image)))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _channels_last(image: Float[Array, "c h w"]) -> Float[Array, "h w c"]:
    return jnp.moveaxis(image, 0, -1)


def checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width; raises where that is not what they are."""
    if len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < 2:
        raise ValueError(f"shape must be an image's (channels, height, width), of at least 2 x 2, got {tuple(shape)}")
    return shape[0], shape[1], shape[2]
