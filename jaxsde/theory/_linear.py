"""Linear stochastic differential equations: mean and covariance in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks

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
        return self._at(z0, t / 2.0**doublings, doublings)

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
        covariance = decay @ adjoint[:n, n:]
        affine = _exp(t * jnp.block([[-self.matrix, column], [jnp.zeros((1, n + 1), column.dtype)]]))
        shift = affine[:n, n]

        def double(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            decay, shift, covariance = carry
            return decay @ decay, shift + decay @ shift, covariance + decay @ covariance @ decay.T

        decay, shift, covariance = jax.lax.fori_loop(0, doublings, double, (decay, shift, covariance))
        return decay @ z0 + shift, (covariance + covariance.T) / 2


def _exp(matrix: Array) -> Array:
    """The exponential of a matrix whose diagonal blocks have norms of at most 1, by its Taylor series."""
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    power = identity
    for k in range(_TAYLOR_ORDER, 0, -1):
        power = identity + matrix @ power / k
    return power
