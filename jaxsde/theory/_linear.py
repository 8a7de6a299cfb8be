"""Linear stochastic differential equations and recursions: mean and covariance in closed form."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .. import _checks
from .._linalg import congruence, matmul

_DOUBLINGS = 64
_TAYLOR_ORDER = 14  # of exp at norm 1: a remainder below 1e-12


class LinearSystem(NamedTuple):
    """$dZ = -(A Z - c)\\,dt + Q^{1/2} dW$."""

    matrix: Float[Array, "n n"]
    constant: Float[Array, " n"]
    noise: Float[Array, "n n"]

    def transient(self, z0: Float[Array, " n"], t: Float[Array, ""]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
        """Mean and covariance at time `t` from the point `z0`."""
        scaled = jnp.maximum(jnp.linalg.norm(self.matrix, 1) * t, 1e-30)
        doublings = jnp.clip(jnp.ceil(jnp.log2(scaled)), 0, _DOUBLINGS).astype(jnp.int32)
        return self._at(z0, t / 2.0 ** doublings.astype(t.dtype), doublings)

    def stationary(self) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
        """Mean and covariance of the stationary law, which exists where `check_stable` passes."""
        start = jnp.zeros_like(self.constant)
        return self._at(start, 1 / jnp.linalg.norm(self.matrix, 1), jnp.asarray(_DOUBLINGS))

    def check_stable(self) -> None:
        """Raises `ValueError` where there is no stationary law; also for a batch of systems."""
        if not _checks.is_concrete(self.matrix):
            return
        slowest = np.linalg.eigvals(np.asarray(self.matrix, dtype=float)).real.min()
        if slowest <= 0:
            raise ValueError(
                f"there is no stationary law: a direction of the linear SDE contracts at the rate {slowest:.4g}, "
                "which is not positive (a flat or negative curvature without enough weight decay)"
            )

    def _at(self, z0: Array, t: Array, doublings: Array) -> tuple[Array, Array]:
        """Mean and covariance at `t` times two to the `doublings`, by Van Loan's exponential over `t`, then doubling.

        One exponential over a long time would hold the growing modes of the adjoint and overflow; over a short one the
        blocks stay near the identity, and C(2t) = C(t) + E C(t) E' with E = exp(-A t) only ever adds.
        """
        n = self.matrix.shape[0]
        zero, column = jnp.zeros_like(self.matrix), self.constant[:, None]
        adjoint = _exp(t * jnp.block([[self.matrix, self.noise], [zero, -self.matrix.T]]))
        decay = adjoint[n:, n:].T
        covariance = matmul(decay, adjoint[:n, n:])
        affine = _exp(t * jnp.block([[-self.matrix, column], [jnp.zeros((1, n + 1), column.dtype)]]))
        shift = affine[:n, n]

        def double(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            decay, shift, covariance = carry
            return matmul(decay, decay), shift + matmul(decay, shift), covariance + congruence(decay, covariance)

        decay, shift, covariance = jax.lax.fori_loop(0, doublings, double, (decay, shift, covariance))
        return matmul(decay, z0) + shift, (covariance + covariance.T) / 2


class LinearRecursion(NamedTuple):
    """$z_{k+1} = A z_k + c + $ noise of covariance $Q$, in NumPy's float64; leading axes are independent recursions.

    Host arithmetic in double precision, because $A = 1 - O(\\eta)$: single precision would round the contraction away.
    """

    matrix: Float[np.ndarray, "*s n n"]
    constant: Float[np.ndarray, "*s n"]
    noise: Float[np.ndarray, "*s n n"]

    def then(self, later: "LinearRecursion") -> "LinearRecursion":
        """One step of this recursion and then one of `later`, as a single step."""
        return LinearRecursion(
            later.matrix @ self.matrix,
            _apply(later.matrix, self.constant) + later.constant,
            _congruent(later.matrix, self.noise) + later.noise,
        )

    def power(self, k: Int[np.ndarray, " m"]) -> "LinearRecursion":
        """`k` steps as one, for each of several `k`, along a new first axis; by squaring."""
        k = np.asarray(k)
        shape = k.shape + (1,) * (self.matrix.ndim - 2)
        identity = np.broadcast_to(np.eye(self.matrix.shape[-1]), k.shape + self.matrix.shape)
        whole = LinearRecursion(identity, np.zeros(k.shape + self.constant.shape), np.zeros_like(identity))
        square = self
        while np.any(k):
            odd, longer = (k & 1).reshape(shape) == 1, whole.then(square)
            whole = LinearRecursion(
                np.where(odd[..., None, None], longer.matrix, whole.matrix),
                np.where(odd[..., None], longer.constant, whole.constant),
                np.where(odd[..., None, None], longer.noise, whole.noise),
            )
            k = k >> 1
            square = square.then(square) if np.any(k) else square
        return whole

    def transient(self, z0: Float[np.ndarray, "*s n"], k: Int[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance after `k` steps from the point `z0`, with the axis of `k` first."""
        whole = self.power(k)
        return _apply(whole.matrix, z0) + whole.constant, whole.noise

    def stationary(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance $C = A C A^\\top + Q$ of the stationary law, which exists where `check_stable` passes."""
        whole = self
        for _ in range(_DOUBLINGS):
            whole = whole.then(whole)
            if not whole.matrix.any():
                break
        return whole.constant, whole.noise

    def check_stable(self) -> None:
        """Raises `ValueError` where there is no stationary law."""
        radius = np.abs(np.linalg.eigvals(self.matrix)).max()
        if not radius < 1:
            raise ValueError(
                f"there is no stationary law: one step of the linear recursion multiplies a direction by {radius:.4g} in "
                "size, which is not below 1 (a flat or negative curvature, or too large a learning rate)"
            )


def exponential(field: Callable[[PyTree], PyTree], y0: PyTree, t: Float[Array, ""], norm: Float[Array, ""]) -> PyTree:
    """$e^{tL} y_0$ for a linear operator $L$ that is given as a function, `field`, of norm at most `norm`.

    By Taylor series over steps of norm 1: only products, for operators whose matrix would be too large.
    """
    steps = jnp.maximum(jnp.ceil(norm * t), 1)

    def step(_: Array, y: PyTree) -> PyTree:
        def horner(i: Array, power: PyTree) -> PyTree:
            share = t / (steps * (_TAYLOR_ORDER - i))
            return jax.tree.map(lambda a, b: a + share * b, y, field(power))

        return jax.lax.fori_loop(0, _TAYLOR_ORDER, horner, y)

    return jax.lax.fori_loop(0, steps.astype(jnp.int32), step, y0)


def _apply(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (matrix @ vector[..., None])[..., 0]


def _congruent(matrix: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return matrix @ covariance @ np.swapaxes(matrix, -1, -2)


def _exp(matrix: Array) -> Array:
    """The exponential of a matrix whose diagonal blocks have norms of at most 1, by its Taylor series."""
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    horner = lambda i, power: identity + matmul(matrix, power) / (_TAYLOR_ORDER - i)
    return jax.lax.fori_loop(0, _TAYLOR_ORDER, horner, identity)
