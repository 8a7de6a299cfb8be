"""Groups of an optimizer's steps. An int32 may not count all steps of a solver, but it counts those of a group."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

_LARGEST = np.iinfo(np.int32).max


def group_size(substeps: int) -> int:
    """How many steps of an optimizer a group has, where a solver makes `substeps` for each. Raises `ValueError` where a single
    one is too many."""
    if substeps > _LARGEST:
        raise ValueError(f"substeps must be below 2**31, got {substeps}")
    return _LARGEST // substeps


def over_groups(
    size: Int[Array, ""],
    move: Callable[[Any, Int[Array, ""], Int[Array, ""], Int[Array, ""]], Any],
    state: Any,
    start: Int[Array, ""],
    stop: Int[Array, ""],
) -> Any:
    """Moves `state` from optimizer step `start` to `stop` by `move(state, number, begin, end)` for each group on the way.

    Group `number` has the optimizer steps `number` `size` to (`number` + 1) `size` - 1; `begin` and `end`, the bounds of the
    steps to be made, are counted from its first.
    """

    def one_group(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        k, state = carry
        number = k // size
        begin = k - number * size
        length = jnp.minimum(stop - k, size - begin)
        return k + length, move(state, number, begin, begin + length)

    return jax.lax.while_loop(lambda carry: carry[0] < stop, one_group, (start, state))[1]
