"""What losses and noise laws are made of: arrays of real numbers, and pytrees of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _checks


def real(name: str, value: Any, *, finite: bool = True) -> Array:
    """`value` as an array of floating-point numbers; raises unless it holds real and, as far as known, finite ones."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a number or an array of numbers, got {value!r}") from None
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):  # a key
        raise TypeError(f"{name} must be a number or an array of numbers, got {value!r}")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}: {value!r}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        # Whole numbers become floats; `+ 0.0` keeps Python numbers weakly typed.
        array = array + 0.0 if array.weak_type else array.astype(float)
    if finite and _checks.is_concrete(array) and not np.all(np.isfinite(np.asarray(array))):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return array


def check_keys(name: str, tree: PyTree) -> None:
    """Raises where JAX cannot sort the keys of a dict in `tree`."""
    try:
        jax.tree.structure(tree)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the keys of every dict in {name} must be comparable with each other, all of them strings for example, "
            f"got {tree!r} ({error})"
        ) from None
