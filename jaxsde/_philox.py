"""Random words and normal numbers as a pure function of a key and integer counters, cheap enough to vanish in a step.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011):
a bijection of 128-bit counters under a 64-bit key. Each draw is one expression of its counter, which a compiler fuses
into the step that uses it; `jax.random` would first derive a key per step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

_ROUNDS = 10
_MULTIPLIERS = np.uint32(0xD2511F53), np.uint32(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85

# The last word of our counters, which keeps them apart from those that `jax.random` uses under the same key.
_TAG = np.uint32(0x6A787364)

Counter = tuple[Array, Array, Array, Array]


def key_words(key: PRNGKeyArray) -> UInt32[Array, "2"]:
    """The 64 bits of a JAX key; drawn from it, where it has more."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(key)
        return data if data.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)
    return key


def hashed(key: UInt32[Array, "2"], counter: Counter) -> Counter:
    """Philox4x32-10 of arrays of counters."""
    a, b, c, d = counter
    for r in range(_ROUNDS):
        first, second = (k + np.uint32(r * w & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True))
        (high_a, low_a), (high_c, low_c) = _product(_MULTIPLIERS[0], a), _product(_MULTIPLIERS[1], c)
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
    return a, b, c, d


def words(key: UInt32[Array, "2"], n: Int[Array, ""] | int, part: int, shape: tuple[int, ...]) -> Counter:
    """Four independent arrays of uniform random words: number `n` of the sequence of such draws for `part`."""
    place = jax.lax.iota(np.uint32, int(np.prod(shape))).reshape(shape)
    number = jnp.full(shape, jnp.asarray(n).astype(jnp.uint32))
    return hashed(key, (place, number, jnp.full(shape, part, jnp.uint32), jnp.full(shape, _TAG)))


def normal(
    key: UInt32[Array, "2"], n: Int[Array, ""] | int, part: int, shape: tuple[int, ...], dtype: jax.typing.DTypeLike
) -> Float[Array, "..."]:
    """Standard normal numbers: number `n` of the sequence of such draws for `part`.

    By the method of Box and Muller (1958), $\\sqrt{-2 \\log u}\\,\\cos 2 \\pi v$. In float32 and below u is at
    least $2^{-32}$, so that no number exceeds 6.7; in float64 it is at least $2^{-53}$, and none exceeds 8.6.
    """
    drawn = words(key, n, part, shape)
    if jnp.dtype(dtype) == np.float64:
        u, v, series = _fraction(*drawn[:2]), _fraction(*drawn[2:]), _COSINE_64
    else:
        u, v, series = _half_open(drawn[0]), _half_open(drawn[1]), _COSINE_32
    numerator, denominator = _cosine(v, series)
    # The quotient comes last: XLA repeats the work behind a product in each of its users, and none behind a quotient.
    return (jnp.sqrt(np.asarray(-2, u.dtype) * jnp.log(u)) * numerator / denominator).astype(dtype)


def normals(key: UInt32[Array, "2"], n: Int[Array, ""] | int, like: PyTree) -> PyTree:
    """Standard normal numbers shaped like `like`, a part for each leaf."""
    return by_leaf(lambda part, leaf: normal(key, n, part, leaf.shape, leaf.dtype), like)


def by_leaf(draw: Callable[[int, Array], Array], like: PyTree) -> PyTree:
    """`draw(part, leaf)` for each leaf of `like`, numbered as parts."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [draw(part, leaf) for part, leaf in enumerate(leaves)])


def _product(multiplier: np.uint32, x: Array) -> tuple[Array, Array]:
    return jax.lax.mulhi(jnp.full_like(x, multiplier), x), multiplier * x


def _half_open(word: Array) -> Array:
    """A number in (0, 1] from the leading bits of a word. Signed integers convert to floats faster."""
    return ((word >> 1).astype(jnp.int32).astype(jnp.float32) + np.float32(0.5)) * np.float32(2**-31)


def _fraction(high: Array, low: Array) -> Array:
    """A float64 in (0, 1) from 52 bits."""
    whole = (high >> 6).astype(jnp.float64) * 2.0**26 + (low >> 6).astype(jnp.float64)
    return (whole + 0.5) * 2.0**-52


def _cosine(v: Array, series: tuple[np.ndarray, np.ndarray]) -> tuple[Array, Array]:
    """$\\cos 2 \\pi v$ for v in [0, 1], as $\\sin 2 \\pi x$ with x = |v - 1/2| - 1/4, a numerator and a denominator.

    Several times faster than `jnp.cos`, which has to reduce arguments of any size.
    """
    x = jnp.abs(v - np.asarray(0.5, v.dtype)) - np.asarray(0.25, v.dtype)
    above, below = (_polynomial(c, x * x) for c in series)
    return x * above, below


def _polynomial(coefficients: np.ndarray, x: Array) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c.astype(x.dtype)
    return value


def _rational_sine(terms: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of P and Q, `terms` each, Q(0) = 1, with $\\sin 2 \\pi x \\approx x P(x^2) / Q(x^2)$ on [-1/4, 1/4].

    Interpolated at Chebyshev nodes in 4 x.
    """
    nodes = np.cos((2 * np.arange(2 * terms - 1) + 1) * np.pi / (8 * terms - 4))
    powers = nodes[:, None] ** (2 * np.arange(terms))
    sine = np.sin(np.pi / 2 * nodes)
    solved = np.linalg.solve(np.hstack([nodes[:, None] * powers, -sine[:, None] * powers[:, 1:]]), sine)
    scale = 4.0 ** (2 * np.arange(terms))
    return (4 * solved[:terms] * scale).astype(dtype), (np.concatenate([[1.0], solved[terms:]]) * scale).astype(dtype)


_COSINE_32, _COSINE_64 = _rational_sine(3, np.float32), _rational_sine(5, np.float64)
