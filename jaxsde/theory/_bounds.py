"""Bounds of the expected loss along the way."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .. import _checks
from ..optimizers import SGD, AbstractOptimizer, AdamW, RMSpropW, SignSGD
from ..problems import Problem
from ._setting import Setting, as_start, as_times, setting


class LossBound(NamedTuple):
    """An upper bound of the expected loss above its minimum, $S_0 e^{-rt} + f (1 - e^{-rt})$."""

    loss: Float[Array, " n"]
    rate: Float[Array, ""]
    """$r$, per unit of time."""
    floor: Float[Array, ""]
    """$f$, the bound of the asymptotic loss."""


def loss_bound(opt: AbstractOptimizer, problem: Problem, x0: ArrayLike, ts: ArrayLike) -> LossBound:
    """An upper bound of the expected loss of an optimizer's SDE on a strongly convex quadratic.

    All are of the form $E S_t \\le S_0 e^{-rt} + \\frac{\\eta T}{2r} (1 - e^{-rt})$, with $\\mu$ and $L$ the extreme
    eigenvalues of the Hessian, $\\mathcal L_\\tau$ its trace, $\\sigma$ the largest noise scale:

    - SGD (Lemma 3.6): $r = 2\\mu$, $T = \\mathcal L_\\tau \\sigma^2$.
    - SignSGD (Lemma 3.5): $r = 2\\mu(\\kappa / \\sigma + \\frac{\\eta\\mu}{2} \\kappa^2 / \\sigma^2)$,
      $T = \\mathcal L_\\tau$. Here $\\kappa = s(u) / u$ with $s$ the mean sign and $u$ the largest
      $|\\partial_i f| / \\sigma_i$ at the start, or $\\sqrt 2$ where that is larger: $s$ is concave, so its chord is below
      it for all smaller gradients. From $u = \\sqrt 2$ (Phase 3) on, $\\kappa = \\mathrm{erf}(1) / \\sqrt 2 = 0.596$ for
      Gaussian noise. The published constant there is the slope at 0, $\\sqrt{2/\\pi} = 0.798$, which $s(u)/u$ only tends to.
    - RMSprop(W), Adam(W) (Lemma 3.13, batch size 1): $r = 2\\mu/\\sigma + \\theta (L + \\mu)/L$, $T = \\mathcal L_\\tau$;
      for noise that dominates the gradient, and for $\\theta > 0$ a minimum at 0.

    **Arguments:** as those of `moments`.

    **Returns:** a `LossBound`: `.loss` `(n,)`, `.rate` and `.floor`.

    **Raises:** `ValueError` that names the assumption which fails.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))
    >>> round(float(loss_bound(js.SGD(0.1), problem, jnp.ones(2), jnp.zeros(1)).floor), 4)
    0.075
    """
    s = setting(opt, problem)
    x0, ts = as_start(x0, s), as_times(ts, s)
    spectrum = jnp.linalg.eigvalsh(s.dense_hessian)
    mu, smoothness, trace = spectrum[0], spectrum[-1], jnp.sum(spectrum)
    if _checks.is_concrete(mu) and float(mu) <= 0:
        raise ValueError(f"the bounds assume a strongly convex loss, but the Hessian has the eigenvalue {mu:.4g}")
    sigma = jnp.max(s.scale)
    if isinstance(opt, SGD):
        variance = jnp.max(jnp.linalg.eigvalsh(s.noise)) if s.noise.ndim == 2 else jnp.max(s.noise)
        rate, source = 2 * mu, trace * variance
    elif isinstance(opt, SignSGD):
        kappa = _chord(problem, s, x0)
        rate, source = 2 * mu * (kappa / sigma + 0.5 * s.rate * mu * (kappa / sigma) ** 2), trace
    else:
        if s.noise.ndim == 2 and not problem.noise.independent:
            raise ValueError("the bounds for adaptive methods assume noise with independent coordinates")
        theta = opt.weight_decay if isinstance(opt, (RMSpropW, AdamW)) else jnp.zeros(())
        if _checks.is_concrete(theta, s.minimum) and float(theta) > 0 and bool(np.any(np.asarray(s.minimum) != 0)):
            raise ValueError("the bound with weight decay assumes the minimum at 0, to which the decay pulls")
        deviation = jnp.max(jnp.sqrt(problem.noise.variance(s.minimum)))
        rate, source = 2 * mu / deviation + theta * (smoothness + mu) / smoothness, trace
    floor = 0.5 * s.rate * source / rate
    start = s.loss(x0, jnp.zeros_like(s.dense_hessian))
    left = jnp.exp(-rate * ts)
    return LossBound(start * left + floor * (1 - left), rate, floor)


def _chord(problem: Problem, s: Setting, x0: Array) -> Array:
    """The slope of the chord of the mean sign, from 0 to the largest normalised gradient at the start."""
    gradient = s.dense_hessian @ (x0 - s.minimum)
    largest = jnp.maximum(jnp.max(jnp.abs(gradient) / s.scale), np.sqrt(2.0))
    return jnp.max(problem.noise.mean_sign(largest * s.scale, x0)) / largest
