"""Where seeds run: each device of a mesh has chunks of its own, and nothing passes between devices while they step."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from . import _together

_AXIS = "devices"


def all_devices() -> Mesh | None:
    """A mesh of all devices of all processes; None for a single one, where nothing needs to be split."""
    devices = jax.devices()
    return None if len(devices) == 1 else Mesh(np.asarray(devices), (_AXIS,))


def count(mesh: Mesh | None) -> int:
    """How many devices there are."""
    return 1 if mesh is None else mesh.devices.size


def on_each(
    mesh: Mesh | None, program: Callable[[Any, Any], Any], shared: PyTree, divided: PyTree, layout: Callable[[Any, Any], Any]
) -> Any:
    """`program(shared, divided)` on each device, which has its own part of the arrays of `divided`.

    `layout(split, whole)` is the layout of `divided` and of the result: which arrays are split along their first axis.
    Sums over devices would depend on how many there are: there is no communication in the program.
    """
    if mesh is None:
        return program(shared, divided)
    arrays, rest = eqx.partition(shared, eqx.is_array)
    local = lambda arrays, divided: program(eqx.combine(arrays, rest), divided)
    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    takes, gives = layout(split, whole)
    return jax.shard_map(local, mesh=mesh, in_specs=(whole, takes), out_specs=gives, check_vma=False)(arrays, divided)


def placed(mesh: Mesh | None, tree: PyTree, split: bool = False) -> PyTree:
    """`tree` with its arrays on all devices of the mesh: whole on each, or split along the first axis where they have one.

    Every process has the same arrays at hand, and puts its own devices' parts in place.
    """
    if mesh is None:
        return tree
    parts, whole = (NamedSharding(mesh, PartitionSpec(axes)) for axes in (mesh.axis_names, None))

    def place(leaf: Any) -> Any:
        is_data = isinstance(leaf, (jax.Array, np.ndarray)) and not isinstance(leaf, Tracer)
        if not is_data:  # within a program that is being traced, JAX puts things in place
            return leaf
        if is_key(leaf):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        sharding = parts if split and np.ndim(leaf) else whole
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, tree)


def on_host(tree: PyTree) -> PyTree:
    """`tree` with its arrays as NumPy's, whole, wherever their parts lie; of keys their data."""
    tree = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)
    apart = lambda leaf: isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    gather = lambda leaf: multihost_utils.process_allgather(leaf, tiled=True) if apart(leaf) else leaf
    with _together.watched():
        return jax.tree.map(lambda leaf: np.asarray(gather(leaf)), tree)


def is_key(leaf: Any) -> bool:
    """Whether `leaf` is an array of typed keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
