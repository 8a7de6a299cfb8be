"""Products of arrays in full precision, on every device.

By default JAX multiplies float32 matrices in a shorter format on accelerators: in TF32 on GPUs, which leaves relative errors of
5e-4, and in bfloat16 on TPUs. The package's own formulas ask for all digits; the gradients of these products do as well.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

_EXACT = jax.lax.Precision.HIGHEST


def matmul(a: Array, b: Array) -> Array:
    """The matrix product `a @ b`."""
    return jnp.matmul(a, b, precision=_EXACT)


def congruence(matrix: Float[Array, "n d"], covariance: Float[Array, "d d"]) -> Float[Array, "n n"]:
    """The covariance $A C A^\\top$ of $A z$, where $z$ has the covariance $C$."""
    return matmul(matmul(matrix, covariance), matrix.T)


def vdot(a: Array, b: Array) -> Float[Array, ""]:
    """The scalar product of two arrays, raveled."""
    return jnp.vdot(a, b, precision=_EXACT)


def combine(weights: Float[Array, " n"], rows: Float[Array, "n *d"]) -> Float[Array, "*d"]:
    """The sum of the rows, each times its weight."""
    return jnp.tensordot(weights, rows, axes=1, precision=_EXACT)


def einsum(subscripts: str, *operands: Any) -> Array:
    """Einstein's sum."""
    return jnp.einsum(subscripts, *operands, precision=_EXACT)


def matvec(matrix: Float[Array, "d d"], tree: PyTree) -> PyTree:
    """A matrix times a pytree, raveled and shaped back."""
    vector, unravel = ravel_pytree(tree)
    return unravel(matmul(matrix.astype(vector.dtype), vector))
