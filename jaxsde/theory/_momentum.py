"""What theory knows of SGD with momentum."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._linalg import matmul
from ..optimizers import Momentum
from ._linear import LinearRecursion, LinearSystem
from ._linear_theory import AbstractLinearTheory
from ._setting import Setting
from ._theory import register


@register(Momentum)
class MomentumTheory(AbstractLinearTheory):
    """Exact: the underdamped SDE is linear in the parameters and the decaying sum of gradients after them, and so are the
    optimizer's steps, for noise of any law."""

    def system(self, opt: Momentum, eta: Array, hessian: Array, noise: Array, minimum: Array) -> LinearSystem:
        nothing, identity = jnp.zeros_like(hessian), jnp.eye(minimum.shape[0], dtype=hessian.dtype)
        return LinearSystem(
            jnp.block([[nothing, identity], [-hessian / eta, (1 - opt.momentum) / eta * identity]]),
            jnp.concatenate([nothing[0], -matmul(hessian, minimum) / eta]),
            jnp.block([[nothing, nothing], [nothing, noise / eta]]),
        )

    def start(self, s: Setting, x0: Array) -> tuple[Array, ...]:
        return x0, jnp.zeros_like(x0)

    def recursion(self, opt: Momentum, s: Setting) -> LinearRecursion:
        hessian, noise, minimum = s.systems
        eta, beta = float(s.rate), float(opt.momentum)
        identity = np.zeros_like(hessian) + np.eye(minimum.shape[-1])
        pull = np.einsum("...ij,...j->...i", hessian, minimum)
        return LinearRecursion(
            np.block([[identity - eta * hessian, -eta * beta * identity], [hessian, beta * identity]]),
            np.concatenate([eta * pull, -pull], axis=-1),
            np.block([[eta**2 * noise, -eta * noise], [-eta * noise, noise]]),
        )
