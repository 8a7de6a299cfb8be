"""A multi-layer perceptron."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _checks
from ._layers import LINEAR, RELU, Linear


class MLP(eqx.Module):
    """A multi-layer perceptron with ReLU units: one example's features, of any shape, to logits.

    **Arguments:**

    - `in_size`: how many features an example has.
    - `classes`: how many logits.
    - `width`: of the hidden layers.
    - `layers`: how many linear layers, the last included.
    - `key`: draws the weights, N(0, 2 / fan-in), of the last layer N(0, 1 / fan-in); biases are 0.

    >>> MLP(30, 2, key=jax.random.key(0))(jnp.ones(30)).shape
    (2,)
    """

    layers: tuple[Linear, ...]

    def __init__(self, in_size: int, classes: int, *, width: int = 20, layers: int = 10, key: PRNGKeyArray):
        inner = [_checks.count("width", width)] * (_checks.count("layers", layers) - 1)
        sizes = [_checks.count("in_size", in_size), *inner, _checks.count("classes", classes)]
        gains = [RELU] * (layers - 1) + [LINEAR]
        keys = jax.random.split(key, layers)
        self.layers = tuple(
            Linear(*size, gain, key=k) for size, gain, k in zip(zip(sizes, sizes[1:], strict=False), gains, keys, strict=True)
        )

    def __call__(self, features: Float[Array, "..."]) -> Float[Array, " classes"]:
        x = jnp.ravel(features)
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)
