"""One update of an Optax transform, as the move of the state that an SDE has."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from .._promotion import usual_promotion
from ..processes import call_update

MakeTransform = Callable[[], optax.GradientTransformation]

# What a leaf of a transform's state is. Of these an SDE's state holds all but the first three.
COUNTER = "counter"
"""A whole number that grows by one at each step."""
SETTLED = "settled"
"""A whole number, or a flag, that changes at the first step and then no more."""
FIXED = "fixed"
"""What never changes and is the same for any parameters, such as a hyperparameter."""
KEPT = "kept"
"""What never changes, but depends on the starting parameters, such as a copy of these."""
CLOCK = "clock"
"""What changes by itself, whatever the gradients are."""
SIGNED = "signed"
"""A buffer with an entry for each coordinate."""
POSITIVE = "positive"
"""A buffer whose entries are never negative. An SDE's state holds its logarithm."""

_HELD = (KEPT, CLOCK, SIGNED, POSITIVE)

# Added to a positive buffer before its logarithm is taken, which of zero is infinite.
_TINY = 1e-30

# The share of its value that a positive buffer keeps at least in one update, so that the logarithm stays finite.
_LEAST_SHARE = 1e-6


class DerivedState(NamedTuple):
    """State of a derived SDE: the parameters, and what the transform's state holds beside constants and counters."""

    x: PyTree
    buffers: tuple[Array, ...]
    """In the order of the leaves of the transform's state; of positive buffers the logarithm."""


class Move(NamedTuple):
    """What one update adds to a [`DerivedState`][], as lists of leaves."""

    x: list[Array]
    buffers: list[Array]


def held(kinds: tuple[str, ...]) -> list[int]:
    """The leaves of a transform's state that an SDE's state holds."""
    return [q for q, kind in enumerate(kinds) if kind in _HELD]


def into_chart(kind: str, value: Array) -> Array:
    """A leaf of the transform's state as the SDE's state holds it."""
    return jnp.log(value + jnp.asarray(_TINY, value.dtype)) if kind == POSITIVE else value


def from_chart(kind: str, held: Array) -> Array:
    """The inverse of `into_chart`."""
    return jnp.exp(held) if kind == POSITIVE else held


def moved_in_chart(kind: str, old: Any, new: Any, numpy: Any = jnp) -> Any:
    """`into_chart(new)` minus `into_chart(old)`, by JAX, or by NumPy itself."""
    if kind != POSITIVE:
        return new - old
    tiny, least = numpy.asarray(_TINY, old.dtype), numpy.asarray(_LEAST_SHARE, old.dtype)
    # The new value is as much rounded as the quotient. The inverse is the same for all new values, and so computed once.
    return numpy.log(numpy.maximum((new + tiny) * (1 / (old + tiny)), least))


def state_of(kinds: tuple[str, ...], x: PyTree, transform_state: Any) -> DerivedState:
    """The SDE's state that goes with a chain's."""
    leaves, dtype = jax.tree.leaves(transform_state), jnp.result_type(*jax.tree.leaves(x))
    # Buffers of lower precision than the parameters' would swallow the small moves of substeps.
    return DerivedState(x, tuple(into_chart(kinds[q], jnp.asarray(leaves[q], dtype)) for q in held(kinds)))


def one_move(
    make: MakeTransform,
    kinds: tuple[str, ...],
    settled: tuple[Any, ...],
    step: Int[Array, ""],
    y: DerivedState,
    gradient: PyTree,
) -> Move:
    """What the optimizer's update number `step`, with this stochastic gradient, adds to `y`."""
    transform = make()
    with usual_promotion():
        leaves, structure = jax.tree.flatten(transform.init(y.x))
    places = held(kinds)
    for q, kind in enumerate(kinds):
        if kind == COUNTER:
            leaves[q] = leaves[q] + step.astype(leaves[q].dtype)
        elif kind == SETTLED:
            leaves[q] = jnp.full(leaves[q].shape, settled[q], leaves[q].dtype)
    values = [from_chart(kinds[q], b) for q, b in zip(places, y.buffers, strict=True)]
    for q, value in zip(places, values, strict=True):
        leaves[q] = value.astype(leaves[q].dtype)
    updates, state = call_update(transform, gradient, jax.tree.unflatten(structure, leaves), y.x)
    new = jax.tree.leaves(state)
    buffers = [moved_in_chart(kinds[q], v, new[q].astype(v.dtype)) for q, v in zip(places, values, strict=True)]
    x = [u.astype(leaf.dtype) for u, leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(y.x), strict=True)]
    return Move(x, buffers)
