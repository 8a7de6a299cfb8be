"""How much memory the seeds of a chunk take: which arrays of a program grow with their number, and how far."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array

# A prime number of seeds, so large that what seeds share is hardly a multiple of it by accident.
_SEEDS = 8191


def largest_array(program: Callable[..., Any], *arguments: Any) -> int:
    """How many numbers the largest array has that a program computes."""
    return max(_sizes(jax.make_jaxpr(program)(*arguments).jaxpr), default=0)


def largest_array_per_seed(program: Callable[[Array], Any], key: Array) -> int:
    """By how many numbers the array of a program grows that grows most with every seed; at least 1.

    **Arguments:** `program`: takes an array of keys, one for each seed; `key`: like one of these.
    """
    traced = jax.make_jaxpr(program)(jnp.broadcast_to(key, (_SEEDS, *key.shape)))
    return max([1, *(size // _SEEDS for size in _sizes(traced.jaxpr) if size % _SEEDS == 0)])


def _sizes(jaxpr: Jaxpr) -> Iterator[int]:
    """How many numbers each result of an equation has, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield from (getattr(variable.aval, "size", 0) for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from _sizes(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def _is_program(value: Any) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))
