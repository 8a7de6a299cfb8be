"""Small networks as losses."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .. import _checks
from ._losses import Classification


def mlp(
    features: ArrayLike, labels: ArrayLike, *, widths: Sequence[int] = (16,), classes: int | None = None
) -> tuple[Classification, Callable[[PRNGKeyArray], Any]]:
    """A multi-layer perceptron with ReLU units as a classification loss on a data set.

    **Arguments:**

    - `features`: shape `(N, d)`; `labels`: integers of shape `(N,)`.
    - `widths`: the sizes of the hidden layers.
    - `classes`: the number of classes; by default the largest label plus one.

    **Returns:** the loss, and a function `key -> params` that draws its parameters (a list with a dictionary of
    `"weight"` and `"bias"` per layer; weights N(0, 2 / fan-in)).

    >>> loss, init = mlp(jnp.ones((4, 3)), jnp.array([0, 1, 0, 1]), widths=(5,))
    >>> loss(init(jax.random.key(0))).shape
    ()
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if features.ndim != 2:
        raise ValueError(f"features must have shape (N, d), got {features.shape}")
    last = int(labels.max()) + 1 if classes is None else _checks.count("classes", classes, least=2)
    sizes = (features.shape[1], *(_checks.count("widths", width) for width in widths), last)

    def init(key: PRNGKeyArray) -> list[dict[str, Array]]:
        keys = jax.random.split(key, len(sizes) - 1)
        return [
            {
                "weight": math.sqrt(2 / fan_in) * jax.random.normal(k, (fan_out, fan_in), features.dtype),
                "bias": jnp.zeros(fan_out, features.dtype),
            }
            for k, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]

    return Classification(_apply_mlp, features, labels), init


def _apply_mlp(params: list[dict[str, Array]], example: Float[Array, " d"]) -> Float[Array, " classes"]:
    activation = example
    for layer in params[:-1]:
        activation = jax.nn.relu(layer["weight"] @ activation + layer["bias"])
    return params[-1]["weight"] @ activation + params[-1]["bias"]
