"""Random words and normal numbers as a pure function of a key and integer counters, cheap enough to vanish in a step.

The generator is Threefry2x32-20 (salmon2011), JAX's own by default: a bijection of 64-bit counters under a 64-bit key, made
of additions, rotations and exclusive ors, which every processor has. Each draw is one expression of its counter, which a
compiler fuses into the step that uses it; `jax.random` would first derive a key per step.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from ._special import polynomial

_ROUNDS = 20
_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = np.uint32(0x1BD11BDA)

# Changes to the key, that keep our words apart from those that `jax.random` draws under it, and sorts of ours apart.
_TAGS, _TAG_OF_PARTS = (np.uint32(0x6A787364), np.uint32(0x736A7864)), np.uint32(0x70617274)

Pair = tuple[Array, Array]


def key_words(key: PRNGKeyArray) -> UInt32[Array, "2"]:
    """The 64 bits of a JAX key; drawn from it, where it has more."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(key)
        return data if data.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)
    return key


def part_key(key: UInt32[Array, "2"], number: Int[Array, ""]) -> UInt32[Array, "2"]:
    """The key of part `number` of a sequence that is too long for one counter: that of the first part is the key itself."""

    def another() -> Array:
        counter = jnp.zeros((), jnp.uint32), number.astype(jnp.uint32)
        return jnp.stack(hashed((key[0] ^ _TAG_OF_PARTS, key[1]), counter))

    return jax.lax.cond(number == 0, lambda: key, another)


def hashed(key: Pair, counter: Pair) -> Pair:
    """Threefry2x32-20 of arrays of counters."""
    schedule = (*key, key[0] ^ key[1] ^ _PARITY)
    a, b = counter[0] + key[0], counter[1] + key[1]
    for turn in range(_ROUNDS // 4):
        for r in _ROTATIONS[turn % 2]:
            a = a + b
            b = ((b << np.uint32(r)) | (b >> np.uint32(32 - r))) ^ a
        a, b = a + schedule[(turn + 1) % 3], b + (schedule[(turn + 2) % 3] + np.uint32(turn + 1))
    return a, b


def words(
    key: UInt32[Array, "2"],
    n: Int[Array, ""] | int,
    offset: int,
    shape: tuple[int, ...],
    *,
    count: int | None = None,
    sort: int = 0,
) -> Pair:
    """Two independent arrays of uniform random words: number `n` of the sequence of such draws, or the `count` of them from
    number `n` on, raveled and in a row.

    Coordinates are counted from `offset`: an array and the one that follows it in a pytree have words of their own.
    """
    if count is not None:
        draws, places = np.divmod(np.arange(count * math.prod(shape), dtype=np.uint32), np.uint32(math.prod(shape)))
        numbers = jnp.asarray(n).astype(jnp.uint32) + draws
        return hashed((key[0] ^ _TAGS[sort], key[1]), (jnp.asarray(places + np.uint32(offset)), numbers))
    place = (jax.lax.iota(np.uint32, int(np.prod(shape))) + np.uint32(offset)).reshape(shape)
    return hashed((key[0] ^ _TAGS[sort], key[1]), (place, jnp.full(shape, jnp.asarray(n).astype(jnp.uint32))))


def normal(
    key: UInt32[Array, "2"],
    n: Int[Array, ""] | int,
    offset: int,
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike,
    count: int | None = None,
) -> Float[Array, "..."]:
    """Standard normal numbers: number `n` of the sequence of such draws; `offset` and `count` as in `words`.

    By the method of Box and Muller (box1958), $\\sqrt{-2 \\log u}\\,\\cos 2 \\pi v$. In float32 and below u is at
    least $2^{-32}$, so that no number exceeds 6.7; in float64 it is at least $2^{-53}$, and none exceeds 8.6.
    """
    one, other = words(key, n, offset, shape, count=count)
    if jnp.dtype(dtype) == np.float64:
        more = words(key, n, offset, shape, count=count, sort=1)
        squared, turn, series = -2.0 * jnp.log(_fraction(one, other)), _fraction(*more) - 0.5, _SINE_64
    else:
        squared, turn, series = _minus_twice_log(one), other.astype(jnp.int32).astype(jnp.float32) * 2.0**-32, _SINE_32
    numerator, denominator = _cosine(turn, series)
    # The quotient comes last: XLA repeats the work behind a product in each of its users, and none behind a quotient.
    return (jnp.sqrt(squared) * numerator / denominator).astype(dtype)


def normals(key: UInt32[Array, "2"], n: Int[Array, ""] | int, like: PyTree, count: int | None = None) -> PyTree:
    """Standard normal numbers shaped like `like`; or those of `count` draws from number `n` on, raveled and in a row."""
    return by_leaf(lambda offset, leaf: normal(key, n, offset, leaf.shape, leaf.dtype, count), like)


def by_leaf(draw: Callable[[int, Array], Array], like: PyTree) -> PyTree:
    """`draw(offset, leaf)` for each leaf of `like`, with the number of coordinates before it."""
    leaves, structure = jax.tree.flatten(like)
    offsets = np.cumsum([0, *(leaf.size for leaf in leaves)])
    return jax.tree.unflatten(structure, [draw(int(o), leaf) for o, leaf in zip(offsets[:-1], leaves, strict=True)])


def _fraction(high: Array, low: Array) -> Array:
    """A float64 in (0, 1) from 52 bits."""
    whole = (high >> 6).astype(jnp.float64) * 2.0**26 + (low >> 6).astype(jnp.float64)
    return (whole + 0.5) * 2.0**-52


def _minus_twice_log(word: Array) -> Array:
    """$-2 \\log u$ in float32, with u = (k + 1/2) / 2^31 and k the 31 leading bits of a word.

    u is $2^e (1 + m)$ with $1 + m$ from $\\sqrt{1/2}$ to $\\sqrt 2$, so that the error is small next to the result.
    Several times faster than `jnp.log`, which has to serve all arguments.
    """
    # Signed integers convert to floats faster.
    bits = jax.lax.bitcast_convert_type((word >> 1).astype(jnp.int32).astype(jnp.float32) + np.float32(0.5), jnp.int32)
    above = bits - _ROOT_HALF
    exponent = (above >> 23).astype(jnp.float32) - np.float32(31)
    m = jax.lax.bitcast_convert_type((above & np.int32(0x7FFFFF)) + _ROOT_HALF, jnp.float32) - np.float32(1)
    return exponent * np.float32(-2 * np.log(2)) + (m * m * polynomial(_LOGARITHM, m) - 2 * m)


def _cosine(turn: Array, series: tuple[tuple[float, ...], tuple[float, ...]]) -> Pair:
    """$\\cos 2 \\pi (v - 1/2)$ up to its sign, as $\\sin 2 \\pi x$ with x = |v - 1/2| - 1/4: numerator and denominator.

    `turn` is v - 1/2, in [-1/2, 1/2]. Several times faster than `jnp.cos`, which has to reduce arguments of any size.
    """
    x = jnp.abs(turn) - np.asarray(0.25, turn.dtype)
    above, below = (polynomial(c, x * x) for c in series)
    return x * above, below


_ROOT_HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1/2) in float32

# -2 log(1 + m) = m^2 q(m) - 2 m for 1 + m from sqrt(1/2) to sqrt 2: least squares at 200 Chebyshev nodes of the error
# relative to the logarithm.
_LOGARITHM = (1.0, -0.66667944, 0.5000206, -0.39921322, 0.33173662, -0.29898658, 0.2840755, -0.17037082)

# sin 2 pi x = x P(x^2) / Q(x^2) for |x| at most 1/4: equality at the Chebyshev nodes.
_SINE_32 = (6.2831855, -33.030643, 31.685629), (1.0, 1.3227425, 0.758811)
_SINE_64 = (
    (6.283185307179587, -36.840700478558446, 53.51385026731137, -27.98901818317741, 5.043885446542084),
    (1.0, 0.7163566792624236, 0.24255301230064064, 0.04550727104796192, 0.0034527787270901148),
)
