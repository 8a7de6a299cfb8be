"""Small helpers for parameter pytrees."""

import functools
import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from . import _checks
from ._start import AbstractStart
from ._traced import is_traced


def as_params(x0: Any) -> Any:
    """`x0` with every leaf a strongly typed floating-point array of one precision, as loop states must be, and finite."""
    if not jax.tree.leaves(x0):
        raise ValueError(f"x0 must be a pytree with at least one array of parameters, got {x0!r}")
    arrays = jax.tree_util.tree_map_with_path(_as_array, x0)
    if not size(arrays):
        raise ValueError(f"x0 must have at least one parameter, got arrays of size 0: {x0!r}")
    # Python's numbers take the precision of the arrays beside them.
    names = {_name(path): leaf.dtype.name for path, leaf in jax.tree.leaves_with_path(arrays) if not leaf.weak_type}
    if len(set(names.values())) > 1:
        listed = ", ".join(f"{name} is {dtype}" for name, dtype in names.items())
        raise TypeError(f"all leaves of x0 must have the same dtype, but {listed}: convert them, with astype, to one of these")
    dtype = jnp.result_type(*jax.tree.leaves(arrays))
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, dtype), arrays)


def _as_array(path: Any, leaf: Any) -> jax.Array:
    try:
        array = jnp.asarray(leaf)
    except (TypeError, ValueError, OverflowError):
        hint = "; jaxsde.networks.functional takes such leaves of a module aside" if callable(leaf) else ""
        raise TypeError(f"every leaf of x0 must be an array of floats, got {leaf!r} at {_name(path)}{hint}") from None
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"every leaf of x0 must hold floating-point numbers, got dtype {array.dtype} at {_name(path)}: {leaf!r}"
        )
    _checks.precision(_name(path), array.dtype)
    if _checks.is_concrete(leaf):  # by NumPy, as inside jit JAX would trace it
        if wrong := array.size - np.count_nonzero(np.isfinite(np.asarray(leaf))):
            raise ValueError(
                f"every leaf of x0 must hold finite numbers, but {wrong} of {array.size} are nan or infinite at {_name(path)}. "
                "All of x0 is moved by the optimizer: a mask of infinities belongs in the loss"
            )
    return array


def _name(path: Any) -> str:
    return f"x0{jax.tree_util.keystr(path)}"


def is_sampler(x0: Any) -> bool:
    """Whether `x0` is a function that draws parameters. A module, though it can be called, is parameters itself."""
    if isinstance(x0, AbstractStart):
        return True
    module = isinstance(x0, eqx.Module) and not isinstance(x0, eqx.Partial) and not hasattr(x0, "__self__")
    return callable(x0) and (not module or is_traced(x0))


def drawn(x0: Any, key: Any) -> Any:
    """`x0`, or what it draws with `key`; raises `ValueError` where it cannot."""
    if not is_sampler(x0):
        return x0
    try:
        return x0(key)
    except Exception as error:  # whatever goes wrong in a user's function
        raise ValueError(
            f"x0, a function of a key, raised {type(error).__name__}: {str(error).rstrip('.')}{_model_hint(x0)}"
        ) from error


def _model_hint(x0: Any) -> str:
    """What to pass in place of an object that seems to be a model of another library."""
    if inspect.isroutine(x0) or isinstance(x0, (functools.partial, eqx.Module, AbstractStart)):
        return ""
    return (
        f". If this {type(x0).__name__} is a model, pass its parameters as a pytree, and call it in the loss: with Flax NNX "
        "`structure, x0 = nnx.split(model, nnx.Param)` and `nnx.merge(structure, x0)`"
    )


def cast(tree: Any, dtype: Any) -> Any:
    """`tree` with its floating-point arrays converted to `dtype`; everything else, what users' functions close over among it,
    as it is."""

    def convert(leaf: Any) -> Any:
        floating = isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.lax.convert_element_type(leaf, dtype) if floating else leaf

    return jax.tree.map(convert, tree, is_leaf=is_traced)


def size(tree: Any) -> int:
    """The number of coordinates of `tree`."""
    return sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(tree))


def flat(tree: Any) -> jax.Array:
    """All coordinates of `tree` as one vector."""
    return ravel_pytree(tree)[0]


def is_finite(tree: Any) -> jax.Array:
    """Whether every number of `tree` is finite, as a boolean scalar."""
    # A sum of zeros, or not a number: one pass, without an array of truth values between.
    return jnp.all(jnp.stack([jnp.sum(0 * leaf) == 0 for leaf in jax.tree.leaves(tree)]))
