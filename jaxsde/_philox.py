"""A generator for `jax.random` whose draws are the same in every program: vmapped or sharded, on every version of JAX.

Philox4x32-10 (salmon2011) is the cheapest generator whose draws depend on the key alone. JAX's own, `philox4x32`, cannot be
compiled within a program that is split over devices by hand, and JAX 0.8 lacks it. This one gives the same bits.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array, UInt32

_ROUNDS = 10
_MULTIPLIERS = np.uint32(0xD2511F53), np.uint32(0xCD9E8D57)
_WEYL = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_ZERO = np.uint32(0)
_WORD = 32

Words = tuple[Array, Array, Array, Array]


@functools.partial(jax.jit, inline=True)  # outside of a program it would be some two hundred calls
def hashed(key: tuple[Array, Array], counter: tuple[Array | np.uint32, ...]) -> Words:
    """Philox4x32-10 of arrays of counters of four words."""
    a, b, c, d = jnp.broadcast_arrays(*counter)
    first, second = key
    for turn in range(_ROUNDS):
        if turn:
            first, second = first + _WEYL[0], second + _WEYL[1]
        (low_a, high_a), (low_c, high_c) = _product(_MULTIPLIERS[0], a), _product(_MULTIPLIERS[1], c)
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
    return a, b, c, d


def _product(a: np.uint32, b: Array) -> tuple[Array, Array]:
    """The lower and the upper word of a product."""
    with jax.enable_x64(True):
        wide = lax.convert_element_type(b, np.uint64)
        product = lax.mul(wide, lax.full_like(wide, int(a)))
        upper = lax.shift_right_logical(product, lax.full_like(wide, _WORD))
        return a * b, lax.convert_element_type(upper, np.uint32)


def _counters(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The numbers 0, 1, ... of an array's elements, as upper and lower words."""
    if math.prod(shape) >= 2**_WORD:
        raise ValueError(f"an array of random numbers must have fewer than 2**32 elements, got shape {shape}")
    return jnp.zeros(shape, jnp.uint32), lax.iota(np.uint32, math.prod(shape)).reshape(shape)


def _seed(seed: Array) -> UInt32[Array, "2"]:
    low = jnp.asarray(seed).astype(jnp.uint32)
    high = (seed >> _WORD).astype(jnp.uint32) if seed.dtype.itemsize > 4 else jnp.zeros_like(low)
    return jnp.stack(hashed((jnp.zeros_like(low), jnp.zeros_like(low)), (high, low, _ZERO, _ZERO))[:2])


def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "... 2"]:
    return jnp.stack(hashed((key[0], key[1]), (_ZERO, _ZERO, *_counters(shape)))[:2], axis=-1)


def _fold_in(key: UInt32[Array, "2"], data: Any) -> UInt32[Array, "2"]:
    return jnp.stack(hashed((key[0], key[1]), (_ZERO, _ZERO, _ZERO, jnp.asarray(data).astype(jnp.uint32)))[:2])


def _random_bits(key: UInt32[Array, "2"], width: int, shape: tuple[int, ...]) -> Array:
    a, b, c, d = hashed((key[0], key[1]), (*_counters(shape), _ZERO, _ZERO))
    if width == 64:
        return (a.astype(jnp.uint64) << np.uint64(_WORD)) | b.astype(jnp.uint64)
    return (a ^ b ^ c ^ d).astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width])


PHILOX = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name="jaxsde_philox4x32", tag="jsp"
)
