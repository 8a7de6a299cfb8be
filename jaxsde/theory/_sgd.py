"""What theory knows of SGD."""

import numpy as np
from jaxtyping import Array

from .._linalg import matmul
from ..optimizers import SGD
from ._linear import LinearRecursion, LinearSystem
from ._linear_theory import AbstractLinearTheory
from ._setting import Setting
from ._theory import AbstractScheduledTheory, Relaxation, convex_spectrum, largest_variance, register


@register(SGD)
class SGDTheory(AbstractLinearTheory, AbstractScheduledTheory):
    """Exact: $dX = -H (X - x_*)\\,dt + \\sqrt\\eta\\,\\Sigma^{1/2} dW$, and a recursion for noise of any law."""

    def system(self, opt: SGD, eta: Array, hessian: Array, noise: Array, minimum: Array) -> LinearSystem:
        return LinearSystem(hessian, matmul(hessian, minimum), eta * noise)

    def recursion(self, opt: SGD, s: Setting) -> LinearRecursion:
        hessian, noise, minimum = s.systems
        eta, identity = float(s.rate), np.eye(minimum.shape[-1])
        pull = np.einsum("...ij,...j->...i", hessian, minimum)
        return LinearRecursion(identity - eta * hessian, eta * pull, eta**2 * noise)

    def bound(self, opt: SGD, s: Setting, x0: Array) -> tuple[Array, Array]:
        """Lemma 3.6."""
        spectrum = convex_spectrum(s)
        return 2 * spectrum.mu, spectrum.trace * largest_variance(s)

    def scheduled_moments(self, opt: SGD, s: Setting) -> Relaxation:
        hessian = np.asarray(s.hessian, float)
        return Relaxation(hessian, np.zeros_like(hessian), np.asarray(s.noise, float))

    def scheduled_bound(self, opt: SGD, s: Setting, x0: Array, published: bool) -> Relaxation:
        spectrum = convex_spectrum(s)
        return Relaxation(float(spectrum.mu), 0.0, float(spectrum.trace) * float(largest_variance(s)))

    def power_rate(self, opt: SGD, s: Setting) -> float:
        return 2 * float(convex_spectrum(s).mu)
