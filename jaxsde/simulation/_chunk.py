"""How many seeds run at a time."""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ..processes import AbstractProcess
from . import _run
from ._footprint import largest_array, largest_array_per_seed
from ._reducers import ByObservable

# The states of a chunk's seeds have so many floating-point numbers, but a chunk has at most so many seeds, and at least 16.
# Measured on a processor: with fewer, starting the kernels of a step weighs more than what larger arrays lose to the caches.
# On an accelerator a step takes some 20 microseconds to start, whatever its size, and there is memory for more.
_LIMITS, _LIMITS_OF_ACCELERATORS = {"cpu": (2**20, 2**14)}, (2**24, 2**20)
_LEAST_CHUNK = 16

# How many numbers any array of a chunk's program may have. A network's gradient holds a few such arrays at a time.
_CHUNK_ARRAY = 2**25

_REMEMBERED = 256


def chunk_size(process: AbstractProcess, recorder: _run.Recorder, x0: Any, key: PRNGKeyArray, seeds: int) -> int:
    """How many seeds to run at a time: as many as suit the caches and fit in memory."""
    shapes, rest = eqx.partition((process, recorder, x0, key), eqx.is_array)
    avals = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(shapes))
    leaves, structure = jax.tree.flatten(rest)
    return _remembered((structure, tuple(leaves), avals, seeds), lambda: _chunk_size(process, recorder, x0, key, seeds))


def whole(reducers: ByObservable, seeds: int) -> int:
    """So many seeds, filled up to a number that all the reducers take."""
    return math.ceil(seeds / reducers.seed_multiple) * reducers.seed_multiple


_SIZES: OrderedDict[Hashable, int] = OrderedDict()


def _remembered(place: Hashable, find: Callable[[], int]) -> int:
    """The size for a program that was met before, or else found now. Programs are traced to find it, which takes a while."""
    try:
        known = _SIZES.pop(place, None)
    except TypeError:  # a part of a user's process cannot be hashed
        return find()
    _SIZES[place] = size = find() if known is None else known
    if len(_SIZES) > _REMEMBERED:
        _SIZES.popitem(last=False)
    return size


def _chunk_size(process: AbstractProcess, recorder: _run.Recorder, x0: Any, key: PRNGKeyArray, seeds: int) -> int:
    state = jax.eval_shape(lambda k: process.init(_run.start(x0, k), k), key)
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating))
    wanted, most = _LIMITS.get(jax.default_backend(), _LIMITS_OF_ACCELERATORS)
    quick = _even(seeds, min(max(wanted // numbers, _LEAST_CHUNK), most))
    # The program is traced here, as a run would, which then need not: most fit.
    ids = jnp.arange(whole(recorder.reducers, quick), dtype=jnp.int32)
    if quick > 1 and largest_array(functools.partial(_short_run, process, recorder, x0, key), ids) > _CHUNK_ARRAY:
        per_seed = largest_array_per_seed(jax.vmap(functools.partial(_one_step, process, recorder, x0)), key)
        quick = _even(seeds, min(quick, _CHUNK_ARRAY // per_seed))
    return quick


def _even(seeds: int, most: int) -> int:
    """The size of chunks of about the same size, of `most` seeds at most but of one at least."""
    return math.ceil(seeds / math.ceil(seeds / max(1, most)))


def _short_run(process: AbstractProcess, recorder: _run.Recorder, x0: Any, key: PRNGKeyArray, seeds: jax.Array) -> Any:
    one = jnp.ones((), jnp.int32)
    return _run.advance(process, recorder, _run.begin(process, recorder, x0, key, seeds), one, one)


def _one_step(process: AbstractProcess, recorder: _run.Recorder, x0: Any, key: PRNGKeyArray) -> Any:
    """The observables of one seed after a step."""
    first = jnp.zeros((), jnp.int32)
    state = process.run(process.init(_run.start(x0, key), key), first, first + 1, process.noise_key(key))
    return recorder.values(process.position(state))
