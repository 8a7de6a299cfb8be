"""Whole numbers of steps from quotients of rounded times."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# A time is taken for the multiple of the learning rate that it misses by so many roundings: the product k eta has two, the
# times of a solver that divides an interval evenly have four.
_ROUNDINGS = 4


def step_of(quotient: Float[Array, "..."], precision: float) -> Int[Array, "..."]:
    """The step that a time over the learning rate falls in, where both are rounded to a relative `precision`.

    A quotient that is a whole number but for rounding is that number: floating-point division may fall short of it.
    """
    nearest = jnp.round(quotient)
    near = jnp.abs(quotient - nearest) <= _ROUNDINGS * precision * jnp.maximum(jnp.abs(quotient), 1)
    return jnp.where(near, nearest, jnp.floor(quotient)).astype(jnp.int32)
