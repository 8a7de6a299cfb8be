"""The largest curvature of a loss, preconditioned as optimizers precondition it, and the loss that noise sustains."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._special import SIGN_SLOPE
from .._tree import flat

# The largest number of coordinates for which the Hessian is formed. Beyond it, the largest eigenvalue is found by Lanczos's
# iteration, to this relative accuracy and with a basis of this size at least.
_DENSE, _ACCURACY, LEAST_PRODUCTS = 64, 0.01, 12

# A vector that is so short next to the eigenvalue is rounding: there are no more directions.
_NOTHING = 1e-5


def _unscaled(variance: Array, square: Array) -> Array:
    del variance
    return jnp.ones_like(square)


def _sign_scale(variance: Array, square: Array) -> Array:
    return float(1 / SIGN_SLOPE) * jnp.sqrt(variance) + _floor(square)


def _adaptive_scale(variance: Array, square: Array) -> Array:
    del variance
    return jnp.sqrt(square) + _floor(square)


def _floor(square: Array) -> Array:
    # Coordinates without noise and gradient don't move; a floor keeps them from counting as infinitely steep.
    return 1e-6 * jnp.sqrt(jnp.mean(square)) + float(jnp.finfo(jnp.float32).tiny)


def _of_gradients(size: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return variance / size**2


def _of_signs(size: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return (variance > 0).astype(float)


class Preconditioner(NamedTuple):
    """What an optimizer divides the gradient by, and the noise of its steps."""

    scale: Callable[[Array, Array], Array]
    """The diagonal of P, from the variance of a stochastic gradient and its mean square."""
    noise: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """The variance of a step of length 1, from P and the variance of a stochastic gradient."""


PRECONDITIONERS = {
    "SGD": Preconditioner(_unscaled, _of_gradients),
    "SignSGD": Preconditioner(_sign_scale, _of_signs),
    "RMSprop, Adam": Preconditioner(_adaptive_scale, _of_gradients),
}


def sustained_loss(preconditioner: Preconditioner, root: Array, variance: np.ndarray) -> float:
    """How far noise keeps the loss of a quadratic above its minimum, over the learning rate: a quarter of the sum of P times
    the variance of a step, from the diagonal of P^{-1/2}."""
    size = np.asarray(root, float) ** -2
    return 0.25 * float(np.sum(size * preconditioner.noise(size, variance)))


@eqx.filter_jit
def inverse_root(scale: Callable[[Array, Array], Array], gradient: PyTree, variance: Array) -> Array:
    """Computes the diagonal of P^{-1/2}."""
    mean = flat(gradient)
    variance = variance.astype(mean.dtype)
    return 1 / jnp.sqrt(scale(variance, variance + mean**2))


def largest_curvature(
    loss: Callable[[PyTree], Array], params: PyTree, root: Array, products: int, bar: Any
) -> tuple[float, float]:
    """Computes the largest absolute eigenvalue of R H R with the Hessian H and a diagonal R, and its relative error."""
    size = root.size
    if size <= _DENSE:
        matrix = jax.vmap(lambda v: _product(loss, params, root, v))(jnp.eye(size, dtype=root.dtype))
        bar.update(products)
        return float(np.max(np.abs(np.linalg.eigvalsh(np.asarray(matrix, float))))), 0.0
    start = np.random.default_rng(0).standard_normal(size).astype(root.dtype)
    return _lanczos(lambda v: np.asarray(_product(loss, params, root, jnp.asarray(v))), start, products, bar)


def _lanczos(times: Callable[[np.ndarray], np.ndarray], v: np.ndarray, most: int, bar: Any) -> tuple[float, float]:
    """Computes the largest absolute eigenvalue of a symmetric matrix by Lanczos's iteration from `v`, with `most`
    products at most, and a bound on the relative distance of some eigenvalue from it."""
    basis, matrix = np.empty((most, v.size), v.dtype), np.zeros((most, most))
    largest, error, length = math.nan, math.nan, float(np.linalg.norm(v))
    for n in range(most):
        basis[n] = v / length
        v = times(basis[n])
        bar.update(1)
        # Twice is enough for a basis that is orthogonal to rounding.
        for _ in range(2):
            share = basis[: n + 1] @ v
            v = v - share @ basis[: n + 1]
            matrix[n, n] += float(share[n])
        length = float(np.linalg.norm(v))
        if not math.isfinite(length):
            return math.nan, math.nan
        values, vectors = np.linalg.eigh(matrix[: n + 1, : n + 1])
        top = int(np.argmax(np.abs(values)))
        largest, rest = float(abs(values[top])), length * float(abs(vectors[-1, top]))
        error = rest / largest if largest else (math.inf if rest else 0.0)
        exhausted = length <= _NOTHING * largest
        if exhausted or (n + 1 >= LEAST_PRODUCTS and error <= _ACCURACY):
            bar.update(most - n - 1)
            break
        if n + 1 < most:
            matrix[n, n + 1] = matrix[n + 1, n] = length
    return largest, error


@eqx.filter_jit
def _product(loss: Callable[[PyTree], Array], params: PyTree, root: Array, v: Array) -> Array:
    _, unravel = ravel_pytree(params)
    along = unravel((root * v).astype(root.dtype))
    return root * flat(jax.jvp(jax.grad(loss), (params,), (along,))[1])
