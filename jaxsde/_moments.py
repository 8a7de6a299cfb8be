"""Moments of several sets together."""

import jax.numpy as jnp
from jaxtyping import Array


def merge_moments(
    a_count: Array | int, a_mean: Array, a_deviations: Array, b_count: Array | int, b_mean: Array, b_deviations: Array
) -> tuple[Array, Array]:
    """Merges the moments of two sets (chan1983); loses no digits to large means.

    **Arguments:** of each set how many members it has, their mean, and the sum of their squared deviations from it, or of
    the outer products of these, which have an axis more.

    **Returns:** the mean and the sum of both sets together.

    >>> [a.item() for a in merge_moments(2, jnp.array(1.0), jnp.array(2.0), 2, jnp.array(3.0), jnp.array(2.0))]
    [2.0, 8.0]
    """
    dtype = a_mean.dtype
    share = jnp.asarray(b_count / jnp.maximum(a_count + b_count, 1)).astype(dtype)
    shift = b_mean - a_mean
    product = jnp.outer(shift, shift) if a_deviations.ndim > a_mean.ndim else shift * shift
    # Squares and differences of large numbers may be infinite, and nothing times that is no number.
    weight = jnp.asarray(a_count).astype(dtype) * share
    between = jnp.where(weight > 0, weight * product, 0)
    mean = jnp.where(jnp.isfinite(shift), a_mean + share * shift, (1 - share) * a_mean + share * b_mean)
    return mean, a_deviations + b_deviations + between
