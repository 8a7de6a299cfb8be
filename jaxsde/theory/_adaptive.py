"""What theory knows of RMSprop(W) and Adam(W), where noise dominates the gradient and V has settled at its variance."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import _checks
from .._linalg import matmul
from ..optimizers import Adam, AdamW, RMSprop, RMSpropW
from ._linear import LinearRecursion, LinearSystem
from ._linear_theory import AbstractLinearTheory
from ._setting import Setting
from ._theory import convex_spectrum, register


class AbstractAdaptiveTheory(AbstractLinearTheory):
    """What the adaptive methods share: their bound. $P = (\\mathrm{diag}\\,\\Sigma)^{1/2} + \\epsilon$ divides the gradient,
    and $\\theta$ is the weight decay, if there is one."""

    def bound(self, opt: Any, s: Setting, x0: Array) -> tuple[Array, Array]:
        """Lemma 3.13, for a batch size of 1."""
        mu, smoothness, trace = convex_spectrum(s)
        if s.noise.ndim == 2 and not s.law.independent:
            raise ValueError("the bounds for adaptive methods assume noise with independent coordinates")
        theta = getattr(opt, "weight_decay", jnp.zeros(()))
        if _checks.is_concrete(theta, s.minimum) and float(theta) > 0 and bool(np.any(np.asarray(s.minimum) != 0)):
            raise ValueError("the bound with weight decay assumes the minimum at 0, to which the decay pulls")
        deviation = jnp.max(jnp.sqrt(s.law.variance(s.minimum)))
        return 2 * mu / deviation + theta * (smoothness + mu) / smoothness, trace


def _inverse_and_decay(opt: Any, hessian: Array, noise: Array) -> tuple[Array, Array]:
    """$P^{-1}$ and $\\theta I$."""
    inverse = jnp.diag(1 / (jnp.sqrt(jnp.diagonal(noise)) + opt.eps))
    return inverse, jnp.eye(hessian.shape[0], dtype=hessian.dtype) * getattr(opt, "weight_decay", 0.0)


def _gain_and_kept(opt: Any, s: Setting) -> tuple[np.ndarray, np.ndarray]:
    """What one step takes from the mean gradient, $\\eta P^{-1}$, and what it keeps of the parameters, $1 - \\eta\\theta$."""
    noise, eta = s.systems[1], float(s.rate)
    identity = np.broadcast_to(np.eye(noise.shape[-1]), noise.shape)
    deviation = np.sqrt(np.diagonal(noise, axis1=-2, axis2=-1))
    decay = float(getattr(opt, "weight_decay", 0.0))
    return eta / (deviation + float(opt.eps))[..., None] * identity, (1 - eta * decay) * identity


@register(RMSprop, RMSpropW)
class RMSpropTheory(AbstractAdaptiveTheory):
    """Linear with the drift $-(P^{-1} H (X - x_*) + \\theta X)$ and the noise $\\eta P^{-1} \\Sigma P^{-1}$."""

    def system(self, opt: Any, eta: Array, hessian: Array, noise: Array, minimum: Array) -> LinearSystem:
        pull = matmul(hessian, minimum)
        inverse, decay = _inverse_and_decay(opt, hessian, noise)
        kick = matmul(matmul(eta * inverse, noise), inverse)
        return LinearSystem(matmul(inverse, hessian) + decay, matmul(inverse, pull), kick)

    def recursion(self, opt: Any, s: Setting) -> LinearRecursion:
        hessian, noise, minimum = s.systems
        pull = np.einsum("...ij,...j->...i", hessian, minimum)
        gain, kept = _gain_and_kept(opt, s)
        return LinearRecursion(kept - gain @ hessian, np.einsum("...ij,...j->...i", gain, pull), gain @ noise @ gain)


@register(Adam, AdamW)
class AdamTheory(AbstractAdaptiveTheory):
    """Linear in the parameters and the mean gradient after them, which starts at $\\nabla f(x_0)$, the expected value of the
    bias-corrected mean."""

    def system(self, opt: Any, eta: Array, hessian: Array, noise: Array, minimum: Array) -> LinearSystem:
        pull = matmul(hessian, minimum)
        inverse, decay = _inverse_and_decay(opt, hessian, noise)
        rho = (1 - opt.b1) / eta
        nothing = jnp.zeros_like(hessian)
        return LinearSystem(
            jnp.block([[decay, inverse], [-rho * hessian, rho * jnp.eye(minimum.shape[0], dtype=hessian.dtype)]]),
            jnp.concatenate([nothing[0], -rho * pull]),
            jnp.block([[nothing, nothing], [nothing, eta * rho**2 * noise]]),
        )

    def start(self, s: Setting, x0: Array) -> tuple[Array, ...]:
        return x0, matmul(s.dense_hessian, x0 - s.minimum)

    def recursion(self, opt: Any, s: Setting) -> LinearRecursion:
        return _averaging(opt, s).then(_moving(opt, s, 1.0))

    def power(self, opt: Any, s: Setting, steps: np.ndarray) -> LinearRecursion:
        """One by one as long as the bias correction changes."""
        b1 = float(opt.b1)
        settled = int(np.ceil(np.log(np.finfo(float).eps) / np.log(b1))) if b1 > 0 else 0
        early = np.minimum(steps, settled)
        entering, later = _averaging(opt, s), self.recursion(opt, s)
        whole = LinearRecursion(*(part[0] for part in later.power(np.zeros(1, int))))
        stages = {0: whole}
        for k in range(1, early.max(initial=0) + 1):
            whole = whole.then(entering).then(_moving(opt, s, 1 / (1 - b1**k)))
            if k in early:
                stages[k] = whole
        begun = LinearRecursion(*(np.stack(parts) for parts in zip(*(stages[k] for k in early.tolist()), strict=True)))
        return begun.then(later.power(steps - early))


def _averaging(opt: Any, s: Setting) -> LinearRecursion:
    """The first half of Adam's step: a new stochastic gradient enters the mean."""
    hessian, noise, minimum = s.systems
    b1, nothing = float(opt.b1), np.zeros_like(hessian)
    identity = nothing + np.eye(minimum.shape[-1])
    pull = np.einsum("...ij,...j->...i", hessian, minimum)
    return LinearRecursion(
        np.block([[identity, nothing], [(1 - b1) * hessian, b1 * identity]]),
        np.concatenate([np.zeros_like(pull), -(1 - b1) * pull], axis=-1),
        np.block([[nothing, nothing], [nothing, (1 - b1) ** 2 * noise]]),
    )


def _moving(opt: Any, s: Setting, correction: float) -> LinearRecursion:
    """The second half of Adam's step: the mean gradient, multiplied by the bias `correction`, moves the parameters."""
    gain, kept = _gain_and_kept(opt, s)
    nothing = np.zeros_like(gain)
    matrix = np.block([[kept, -correction * gain], [nothing, nothing + np.eye(gain.shape[-1])]])
    return LinearRecursion(matrix, np.zeros(matrix.shape[:-1]), np.zeros_like(matrix))
