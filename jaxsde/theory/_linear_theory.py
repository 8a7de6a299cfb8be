"""The theory of optimizers whose SDE and whose steps are linear on a quadratic: all moments from these two."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import _checks
from ._linear import LinearRecursion, LinearSystem
from ._setting import Setting
from ._theory import AbstractTheory, Moments, check_lengths


class AbstractLinearTheory(AbstractTheory):
    """The formulas of an optimizer whose parameters, with averages after them where it has any, follow a linear SDE and a
    linear recursion: those two make all moments.

    Where the Hessian and the noise are diagonal, the formulas are applied coordinate by coordinate.
    """

    @abc.abstractmethod
    def system(self, opt: Any, eta: Array, hessian: Array, noise: Array, minimum: Array) -> LinearSystem:
        """The linear SDE, for matrices `hessian` and `noise` (the covariance)."""

    @abc.abstractmethod
    def recursion(self, opt: Any, s: Setting) -> LinearRecursion:
        """One step of the optimizer, for the `systems` of the setting."""

    def start(self, s: Setting, x0: Array) -> tuple[Array, ...]:
        """Where the SDE starts from the point `x0`: the parameters, and what comes after them."""
        return (x0,)

    def power(self, opt: Any, s: Setting, steps: np.ndarray) -> LinearRecursion:
        """`steps` steps of the optimizer as one, from its start."""
        return self.recursion(opt, s).power(steps)

    def check_rate(self, opt: Any, s: Setting) -> None:
        if not _checks.is_concrete(opt, s):
            return
        reason = "one step multiplies a direction by {size} in size: the optimizer diverges while its SDE does not"
        check_lengths(opt, s, self.recursion(opt, s).matrix, reason)

    def transient(self, opt: Any, s: Setting, x0: Array, ts: Array) -> Moments:
        rows = jnp.stack(self.start(s, x0))
        by_system = rows.T if s.diagonal else rows.reshape(1, -1)
        return joined(transients(self._stacked(opt, s), by_system, ts), _width(s))

    def stationary(self, opt: Any, s: Setting) -> Moments:
        stacked = self._stacked(opt, s)
        stacked.check_stable()
        return joined(limits(stacked), _width(s))

    def discrete_transient(self, opt: Any, s: Setting, x0: np.ndarray, steps: np.ndarray) -> Moments:
        by_system = x0[:, None] if s.diagonal else x0[None]
        whole = self.power(opt, s, steps)
        from_start = whole.matrix[..., : by_system.shape[1]]  # averages start at 0
        return whole.constant + np.einsum("...ij,...j->...i", from_start, by_system), whole.noise

    def discrete_stationary(self, opt: Any, s: Setting) -> Moments:
        step = self.recursion(opt, s)
        step.check_stable()
        return step.stationary()

    def _stacked(self, opt: Any, s: Setting) -> LinearSystem:
        """The linear SDE as independent systems, stacked: one per coordinate where coordinates decouple, else one in all."""
        if s.diagonal:
            parts = s.hessian[:, None, None], s.noise[:, None, None], s.minimum[:, None]
        else:
            parts = s.hessian[None], s.noise[None], s.minimum[None]
        return _stack(type(self), opt, s.rate, *parts)


@eqx.filter_jit
def _stack(
    theory: type[AbstractLinearTheory], opt: Any, eta: Array, hessian: Array, noise: Array, minimum: Array
) -> LinearSystem:
    return jax.vmap(lambda h, q, m: theory().system(opt, eta, h, q, m))(hessian, noise, minimum)


def _width(s: Setting) -> int:
    """The number of parameters in each of the systems."""
    return 1 if s.diagonal else s.minimum.shape[0]


@jax.jit
def transients(systems: LinearSystem, start: Array, ts: Array) -> tuple[Array, Array]:
    """Mean and covariance of each system at each time, from the rows of `start`."""
    return jax.vmap(lambda t: jax.vmap(lambda system, z0: system.transient(z0, t))(systems, start))(ts)


@jax.jit
def limits(systems: LinearSystem) -> tuple[Array, Array]:
    """Mean and covariance of each system's stationary law."""
    return jax.vmap(lambda system: system.stationary())(systems)


def joined(moments: tuple[Array, Array], d: int) -> tuple[Array, Array]:
    """Mean and covariance of all parameters from those of the systems of `d` parameters each, shapes `(..., systems, n)` and
    `(..., n, n)`."""
    mean, covariance = moments[0][..., :d], moments[1][..., :d, :d]
    if mean.shape[-2] == 1:
        return mean[..., 0, :], covariance[..., 0, :, :]
    variance = covariance[..., 0, 0]
    count = variance.shape[-1]
    return mean[..., 0], variance[..., :, None] * jnp.broadcast_to(
        jnp.eye(count, dtype=variance.dtype), (*variance.shape, count)
    )
