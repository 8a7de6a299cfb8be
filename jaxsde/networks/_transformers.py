"""Transformers: of images, and of text character by character."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _checks
from ._convolutional import checked_shape
from ._layers import LINEAR, Block, Linear, normal

# The standard deviation of embeddings. The layers normalise, so that it sets how fast these change, not how large they act.
_EMBEDDING_STD = 0.1


class _Trunk(eqx.Module):
    """Blocks between an embedding and the last layer."""

    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    last: Linear

    def __init__(self, width: int, depth: int, heads: int, feed_forward: int, causal: bool, classes: int, *, key: PRNGKeyArray):
        if _checks.count("width", width) % _checks.count("heads", heads):
            raise ValueError(f"heads must divide width, got heads={heads} and width={width}")
        *keys, last = jax.random.split(key, _checks.count("depth", depth) + 1)
        _checks.count("feed_forward", feed_forward)
        self.blocks = tuple(Block(width, heads, feed_forward, causal, key=k) for k in keys)
        self.norm = eqx.nn.LayerNorm(width)
        self.last = Linear(width, classes, LINEAR, key=last)

    def __call__(self, x: Float[Array, "n width"]) -> Float[Array, "n width"]:
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.norm)(x)


class VisionTransformer(eqx.Module):
    """A Transformer of the patches of an image; its logits are a linear map of the mean over patches.

    **Arguments:**

    - `shape`: of an image: channels, height, width.
    - `classes`: how many logits.
    - `patch`: the side of a patch; by default a quarter of the height.
    - `width`, `depth`, `heads`, `feed_forward`: the size of an embedded patch, how many blocks, how many heads share the
      width, the width inside the feed-forward layers.
    - `key`: draws weights N(0, 1 / fan-in), N(0, 2 / fan-in) before the non-linearities; biases are 0.

    **Raises:** `ValueError` for a patch that doesn't divide height and width, or heads that don't divide the width.

    >>> VisionTransformer((1, 8, 8), 10, key=jax.random.key(0))(jnp.ones((1, 8, 8))).shape
    (10,)
    """

    embed: Linear
    positions: Float[Array, "n width"]
    trunk: _Trunk
    patch: int = eqx.field(static=True)

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        patch: int | None = None,
        width: int = 48,
        depth: int = 3,
        heads: int = 6,
        feed_forward: int = 192,
        key: PRNGKeyArray,
    ):
        channels, height, breadth = checked_shape(shape)
        self.patch = max(1, height // 4) if patch is None else _checks.count("patch", patch)
        if height % self.patch or breadth % self.patch:
            raise ValueError(f"patch must divide height and width, got patch={self.patch} for images of {height} x {breadth}")
        keys = jax.random.split(key, 3)
        self.embed = Linear(channels * self.patch**2, _checks.count("width", width), LINEAR, key=keys[0])
        patches = (height // self.patch) * (breadth // self.patch)
        self.positions = _EMBEDDING_STD * normal(keys[1], (patches, width))
        self.trunk = _Trunk(width, depth, heads, feed_forward, False, _checks.count("classes", classes), key=keys[2])

    def __call__(self, image: Float[Array, "c h w"]) -> Float[Array, " classes"]:
        channels, height, breadth = image.shape
        p = self.patch
        squares = image.reshape(channels, height // p, p, breadth // p, p).transpose(1, 3, 0, 2, 4)
        x = self.embed(squares.reshape(-1, channels * p * p)) + self.positions
        return self.trunk.last(jnp.mean(self.trunk(x), axis=0))


class CharTransformer(eqx.Module):
    """A causal Transformer that predicts, at each position of a text, the next character.

    **Arguments:**

    - `vocabulary`: how many characters there are.
    - `length`: how many positions at most.
    - `width`, `depth`, `heads`, `feed_forward`, `key`: as in [`VisionTransformer`][].

    A call takes characters as integers, shape `(n,)`, and returns logits, shape `(n, vocabulary)`; those at a position
    depend on the characters up to it.

    **Raises:** `ValueError` for heads that don't divide the width.

    >>> CharTransformer(50, length=16, key=jax.random.key(0))(jnp.arange(16)).shape
    (16, 50)
    """

    characters: Float[Array, "vocabulary width"]
    positions: Float[Array, "length width"]
    trunk: _Trunk

    def __init__(
        self,
        vocabulary: int,
        *,
        length: int = 64,
        width: int = 48,
        depth: int = 2,
        heads: int = 4,
        feed_forward: int = 192,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 3)
        self.trunk = _Trunk(width, depth, heads, feed_forward, True, _checks.count("vocabulary", vocabulary), key=keys[2])
        self.characters = _EMBEDDING_STD * normal(keys[0], (vocabulary, width))
        self.positions = _EMBEDDING_STD * normal(keys[1], (_checks.count("length", length), width))

    def __call__(self, text: Int[Array, " n"]) -> Float[Array, "n vocabulary"]:
        if len(text) > len(self.positions):
            raise ValueError(f"a text of {len(text)} characters is longer than the network's length, {len(self.positions)}")
        return self.trunk.last(self.trunk(self.characters[text] + self.positions[: len(text)]))
