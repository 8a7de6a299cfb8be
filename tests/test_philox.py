"""The generator of our keys against published values and against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsde import _philox, _random

# Published with the generator (salmon2011, the library Random123, kat_vectors): key, counter, result.
PUBLISHED = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 2, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("key", "counter", "result"), PUBLISHED)
def test_published_values(key, counter, result):
    words = lambda numbers: tuple(jnp.asarray(n, jnp.uint32) for n in numbers)
    assert tuple(int(word) for word in _philox.hashed(words(key), words(counter))) == result


def _theirs(seed):
    try:
        return jax.random.key(seed, impl="philox4x32")
    except ValueError:
        pytest.skip("this version of JAX has no Philox")


@pytest.mark.parametrize("seed", [0, 5, 2**31 - 1, -1])
def test_draws_are_those_of_jax(seed):
    theirs = _theirs(seed)
    ours = jax.random.key(seed, impl=_philox.PHILOX)
    same = lambda a, b: np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
    same(ours, theirs)
    same(jax.random.fold_in(ours, 7), jax.random.fold_in(theirs, 7))
    same(jax.random.split(ours, (2, 3)), jax.random.split(theirs, (2, 3)))
    for width in (jnp.uint8, jnp.uint16, jnp.uint32):
        np.testing.assert_array_equal(jax.random.bits(ours, (3, 5), width), jax.random.bits(theirs, (3, 5), width))
    np.testing.assert_array_equal(jax.random.normal(ours, (7,)), jax.random.normal(theirs, (7,)))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.random.normal(ours, (7,)), jax.random.normal(theirs, (7,)))


def test_a_key_of_jaxs_philox_is_the_same_key():
    theirs = _theirs(3)
    ours = _random.stream_key(theirs)
    assert ours.dtype == _random.stream_key(ours).dtype
    np.testing.assert_array_equal(jax.random.normal(ours, (4,)), jax.random.normal(theirs, (4,)))


def test_draws_are_the_same_where_a_program_is_split_by_hand():
    key = _random.stream_key(jax.random.key(0))
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("device",))
    draw = lambda seeds: jax.vmap(lambda seed: jax.random.normal(jax.random.fold_in(key, seed), (3,)))(seeds)
    axis = jax.sharding.PartitionSpec("device")
    divided = jax.jit(jax.shard_map(draw, mesh=mesh, in_specs=axis, out_specs=axis, check_vma=False))
    seeds = jnp.arange(4 * len(jax.devices()))
    np.testing.assert_array_equal(divided(seeds), draw(seeds))


def test_an_array_that_its_counters_cannot_number_is_refused():
    with pytest.raises(ValueError, match="fewer than 2..32 elements"):
        _philox._counters((2**16, 2**16))
