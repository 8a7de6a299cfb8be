"""The scales of a law, coordinate by coordinate."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._typing import ArrayLike
from ._numbers import check_keys, real


def as_scale(scale: PyTree[ArrayLike], name: str) -> PyTree[Array]:
    """Converts a scale to a pytree of arrays."""
    check_keys(name, scale)
    if not jax.tree.leaves(scale):
        raise ValueError(f"{name} must be a number or a pytree of arrays, got {scale!r}")
    return jax.tree.map(lambda leaf: real(name, leaf), scale)


def broadcast_scale(scale: PyTree[Array], params: PyTree, name: str) -> PyTree[Array]:
    """Broadcasts `scale` to the structure, shapes and dtypes of `params`."""
    if jax.tree_util.all_leaves([scale]) and scale.ndim == 0:
        return jax.tree.map(lambda p: jnp.broadcast_to(scale.astype(p.dtype), p.shape), params)
    if jax.tree.structure(scale) != jax.tree.structure(params):
        raise ValueError(
            f"{name} must be a number or a pytree like the parameters: "
            f"got {jax.tree.structure(scale)} for parameters {jax.tree.structure(params)}"
        )

    def check(s: Array, p: Array) -> Array:
        if s.shape not in ((), p.shape):
            raise ValueError(f"a leaf of {name} has shape {s.shape}, the parameters' leaf has {p.shape}")
        return jnp.broadcast_to(s.astype(p.dtype), p.shape)

    return jax.tree.map(check, scale, params)


def multiply(scale: PyTree, increment: PyTree) -> PyTree:
    """Multiplies an increment by a scale, coordinate by coordinate."""
    return jax.tree.map(jnp.multiply, scale, increment)


@jax.custom_jvp
def safe_divide(gradient: Array, scale: Array) -> Array:
    """Divides a gradient by a scale with the limits that a scale of zero has: infinite, and 0 where both are 0."""
    return gradient / jnp.maximum(scale, jnp.finfo(gradient.dtype).tiny)


@safe_divide.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Without noise the sign is certain: its derivative is 0.
    (_, scale), (dg, ds), ratio = primals, tangents, safe_divide(*primals)
    some = scale >= jnp.finfo(ratio.dtype).tiny
    divisor = jnp.where(some, scale, 1)
    by_scale = ratio / divisor
    return ratio, jnp.where(some, dg / divisor - jnp.where(jnp.isfinite(by_scale), by_scale, 0) * ds, 0)
