"""Random streams keyed by integers: what seed i gets at step k depends on the user's key, i and k alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ._philox import PHILOX

# The independent streams of a simulation.
_START, _GRADIENT, _BROWNIAN, _TRANSFORM = 0, 1, 2, 3

_STREAM = jax.eval_shape(lambda: jax.random.key(0, impl=PHILOX)).dtype

# The implementations that have raw keys of these shapes.
_RAW: dict[tuple[int, ...], str] = {(2,): "threefry2x32", (4,): "rbg"}


def stream_key(key: Any) -> PRNGKeyArray:
    """A key for simulations, from a user's key of whatever kind."""
    key = typed_key(key)
    if key.dtype == _STREAM:
        return key
    is_philox = str(jax.random.key_impl(key)) == "philox4x32"  # JAX's own, which has the same bits
    words = jax.random.key_data(key) if is_philox else jax.random.bits(key, (2,), jnp.uint32)
    return jax.random.wrap_key_data(words, impl=PHILOX)


def typed_key(key: Any) -> PRNGKeyArray:
    """A user's key; a raw one, made by `jax.random.PRNGKey`, with its implementation, which is the default one if that has
    keys of its shape."""
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise TypeError(f"key must be a JAX key such as jax.random.key(0), got {key!r}")
    if isinstance(key, np.ndarray) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        default = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
        if key.dtype != np.uint32 or key.shape not in {default, *_RAW}:
            raise TypeError(
                "key must be a JAX key such as jax.random.key(0), or one that jax.random.PRNGKey(0) makes, uint32 of shape "
                f"(2,) or (4,); got shape {key.shape}, {key.dtype}"
            )
        return jax.random.wrap_key_data(jnp.asarray(key), impl=None if key.shape == default else _RAW[key.shape])
    if key.shape != ():
        raise ValueError(f"key must be a single key, got shape {key.shape}")
    return key


def seed_key(key: PRNGKeyArray, seed: Array) -> PRNGKeyArray:
    """The key of one seed."""
    return jax.random.fold_in(key, seed)


def start_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """For drawing a seed's starting point."""
    return jax.random.fold_in(key, _START)


def gradient_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """For a seed's stochastic gradients; to be folded with the step."""
    return jax.random.fold_in(key, _GRADIENT)


def brownian_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """For a seed's Brownian increments; to be folded with the step."""
    return jax.random.fold_in(key, _BROWNIAN)


def transform_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key of the noise that a transform draws by itself, from a seed's key."""
    return jax.random.fold_in(key, _TRANSFORM)
