"""Double precision on the host, whatever the precision and the device of a run."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._traced import is_traced


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Within it JAX has float64 and works on a processor, where there is one: accelerators are slow at it or lack it."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to use an accelerator alone
        host = None
    with jax.enable_x64(True), jax.default_device(host):
        yield


def in_double(function: Callable[..., Any], *trees: Any) -> Callable[..., Any]:
    """`function(*trees, *arguments)` in float64, as a function of NumPy `arguments` that returns NumPy arrays.

    The floating-point arrays of `trees` are converted, exactly; so are those of the arguments.
    """
    with double_precision():
        trees = converted(trees)

    def evaluate(*arguments: Any) -> Any:
        with double_precision():
            return jax.tree.map(np.asarray, _called(function, trees, converted(arguments)))

    return evaluate


@eqx.filter_jit
def _called(function: Callable[..., Any], trees: Any, arguments: Any) -> Any:
    return function(*trees, *arguments)


def converted(tree: Any) -> Any:
    """`tree` with its floating-point arrays in float64, on the host; for use within `double_precision`. What traced functions
    close over stays as it is."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, (jax.Array, np.ndarray)) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(np.asarray(leaf, np.float64 if floating else leaf.dtype))

    return jax.tree.map(convert, tree, is_leaf=is_traced)
