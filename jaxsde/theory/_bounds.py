"""Bounds of the expected loss along the way."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._linalg import matmul
from .._typing import ArrayLike
from ..optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ..problems import Gaussian, Problem
from ._phases import phase_2_constants
from ._recursions import check_rate
from ._setting import Setting, as_start, as_times, setting


class LossBound(NamedTuple):
    """An upper bound of the expected loss above its minimum, $S_0 e^{-rt} + f (1 - e^{-rt})$."""

    loss: Float[Array, " n"]
    rate: Float[Array, ""]
    """$r$, per unit of time."""
    floor: Float[Array, ""]
    """$f$, the bound of the asymptotic loss."""


def loss_bound(
    opt: AbstractOptimizer,
    problem: Problem,
    x0: ArrayLike,
    ts: ArrayLike,
    *,
    phase: int | None = None,
    published: bool = False,
) -> LossBound:
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

    Within one of SignSGD's phases there are sharper ones (Lemmas 3.4 and 3.5), with $Y$ as in [`phase`][]; those of Phases
    1 and 2 are for Gaussian noise:

    - Phase 1: $S_t \\le (\\sqrt{S_0} - \\sqrt{\\mu/2}\\,t)_+^2$, which reaches 0 at [`phase_1_time`][]. As published it is
      $\\frac14 (\\sqrt\\mu\\,t - 2\\sqrt{S_0})^2$ up to its zero: valid, but weaker by $\\sqrt2$ in time.
    - Phase 2: $r = 2\\mu\\Delta$, $\\Delta = \\frac{m}{\\sqrt2 \\sigma} + \\frac{\\eta\\mu m^2}{4\\sigma^2}$,
      $T = \\mathcal L_\\tau - \\mu d q_1^2$, constants from [`phase_2_constants`][]. As published with
      $\\hat q = \\max(q_1, q_2)$ in place of $q_1$, which the argument does not support.
    - Phase 3: as above with $\\kappa = s(\\sqrt2) / \\sqrt2$, for Gaussian noise $\\mathrm{erf}(1) / \\sqrt2$. As published
      with $\\kappa = s'(0)$, for Gaussian noise $\\sqrt{2/\\pi}$, which is no lower bound within the phase.

    **Arguments:** as those of `moments`;

    - `phase`: SignSGD: 1, 2 or 3 for the bound of that phase, valid as long as all coordinates stay in it.
    - `published`: SignSGD: whether to take the published constants; without a phase, those of Phase 3.

    **Returns:** a `LossBound`: `.loss` `(n,)`, `.rate` and `.floor`. In Phase 1 the loss falls faster than exponentially:
    `.rate` is $2\\sqrt{\\mu / (2 S_0)}$, that of its start, and `.floor` is 0.

    **Raises:** `ValueError` that names the assumption which fails.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))
    >>> round(float(loss_bound(js.SGD(0.1), problem, jnp.ones(2), jnp.zeros(1)).floor), 4)
    0.075
    """
    s = setting(opt, problem)
    x0, ts = as_start(x0, s), as_times(ts, s)
    if phase not in (None, 1, 2, 3):
        raise ValueError(f"phase must be 1, 2, 3 or None, got {phase!r}")
    if (phase is not None or published) and not isinstance(opt, SignSGD):
        raise ValueError(f"phase and published are for SignSGD's bounds, got {type(opt).__name__}")
    if phase in (1, 2) and type(problem.noise) is not Gaussian:
        raise ValueError(f"the bounds of Phases 1 and 2 are for Gaussian noise, got {type(problem.noise).__name__}")
    if not isinstance(opt, SignSGD):  # whose bounds hold at any rate
        check_rate(opt, s, problem.noise.independent)
    elif phase != 1:
        check_noise(s)
    spectrum = jnp.linalg.eigvalsh(s.dense_hessian)
    mu, smoothness, trace = spectrum[0], spectrum[-1], jnp.sum(spectrum)
    if _checks.is_concrete(mu) and float(mu) <= 0:
        raise ValueError(f"the bounds assume a strongly convex loss, but the Hessian has the eigenvalue {mu:.4g}")
    sigma = jnp.max(s.scale)
    if isinstance(opt, SGD):
        variance = jnp.max(jnp.linalg.eigvalsh(s.noise)) if s.noise.ndim == 2 else jnp.max(s.noise)
        rate, source = 2 * mu, trace * variance
    elif isinstance(opt, SignSGD) and phase == 1:
        return _phase_1(s.loss(x0, jnp.zeros_like(s.dense_hessian)), mu, ts, published)
    elif isinstance(opt, SignSGD) and phase == 2:
        c = phase_2_constants()
        q = max(c.secant_intercept, c.tangent_intercept) if published else c.secant_intercept
        rate = 2 * mu * (c.slope / (np.sqrt(2) * sigma) + s.rate * mu * c.slope**2 / (4 * sigma**2))
        source = trace - mu * spectrum.shape[0] * q**2
    elif isinstance(opt, SignSGD):
        start = x0 if phase is None else s.minimum
        kappa = s.slope if published else chord(s, start)
        rate, source = 2 * mu * (kappa / sigma + 0.5 * s.rate * mu * (kappa / sigma) ** 2), trace
    elif isinstance(opt, (RMSprop, RMSpropW, Adam, AdamW)):
        if s.noise.ndim == 2 and not s.law.independent:
            raise ValueError("the bounds for adaptive methods assume noise with independent coordinates")
        theta = opt.weight_decay if isinstance(opt, (RMSpropW, AdamW)) else jnp.zeros(())
        if _checks.is_concrete(theta, s.minimum) and float(theta) > 0 and bool(np.any(np.asarray(s.minimum) != 0)):
            raise ValueError("the bound with weight decay assumes the minimum at 0, to which the decay pulls")
        deviation = jnp.max(jnp.sqrt(s.law.variance(s.minimum)))
        rate, source = 2 * mu / deviation + theta * (smoothness + mu) / smoothness, trace
    else:
        raise ValueError(f"there is no bound for {type(opt).__name__}")
    floor = 0.5 * s.rate * source / rate
    start = s.loss(x0, jnp.zeros_like(s.dense_hessian))
    left = jnp.exp(-rate * ts)
    return LossBound(start * left + floor * (1 - left), rate, floor)


def phase_1_time(problem: Problem, x0: ArrayLike, *, published: bool = False) -> Float[Array, ""]:
    """When SignSGD's loss, followed without noise, has reached its minimum at the latest: $t_* = \\sqrt{2 S_0 / \\mu}$.

    From $\\dot S = -\\|\\nabla f\\|_1 \\le -\\sqrt{2\\mu S}$ (Lemma 3.5, Phase 1). As published it is $2\\sqrt{S_0 /
    \\mu}$, later by the factor $\\sqrt2$.

    **Arguments:** `problem` with a strongly convex `Quadratic` loss; `x0`, shape `(d,)`; `published`: whether to take the
    published value.

    **Returns:** a time, in the clock $t = k \\eta$.

    **Raises:** `ValueError` that names the assumption which fails.

    >>> import jaxsde as js
    >>> round(float(phase_1_time(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1)), jnp.array([2.0]))), 4)
    2.0
    """
    s = setting(SignSGD(1.0), problem)
    start = s.loss(as_start(x0, s), jnp.zeros_like(s.dense_hessian))
    mu = jnp.linalg.eigvalsh(s.dense_hessian)[0]
    if _checks.is_concrete(mu) and float(mu) <= 0:
        raise ValueError(f"the bounds assume a strongly convex loss, but the Hessian has the eigenvalue {mu:.4g}")
    return (2.0 if published else np.sqrt(2.0)) * jnp.sqrt(start / mu)


def asymptotic_loss(opt: AbstractOptimizer, problem: Problem, *, published: bool = False) -> Float[Array, ""]:
    """The bound of the asymptotic expected loss on a strongly convex quadratic, the floor of [`loss_bound`][].

    SignSGD: $\\frac{\\eta \\mathcal L_\\tau}{4\\mu\\Delta}$, linear in $\\sigma$; SGD: $\\frac{\\eta \\mathcal L_\\tau
    \\sigma^2}{4\\mu}$; RMSprop(W), Adam(W) as in Lemma 3.13, bounded in $\\sigma$ with weight decay. SignSGD's is the
    smaller of the first two, to leading order and with the published constant, iff $\\sigma > \\sqrt{\\pi/2}$.

    **Arguments:** `opt`, `problem`; `published`: SignSGD: whether to take the published constants.

    **Raises:** as [`loss_bound`][].

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(2.0))
    >>> [round(float(asymptotic_loss(opt, problem)), 4) for opt in (js.SGD(0.1), js.AdamW(0.1, weight_decay=0.5))]
    [0.1, 0.025]
    """
    s = setting(opt, problem)
    return loss_bound(opt, problem, s.minimum, jnp.zeros(1), published=published).floor


def _phase_1(start: Array, mu: Array, ts: Array, published: bool) -> LossBound:
    speed = 0.5 * jnp.sqrt(mu) if published else jnp.sqrt(mu / 2)
    loss = jnp.maximum(jnp.sqrt(start) - speed * ts, 0) ** 2
    return LossBound(loss, 2 * speed / jnp.sqrt(start), jnp.zeros_like(start))


def check_noise(s: Setting) -> None:
    """Raises unless there is noise in every coordinate, without which the mean sign has no chord."""
    if _checks.is_concrete(s.scale) and not np.all(np.asarray(s.scale) > 0):
        raise ValueError(f"SignSGD's bounds divide by the noise's scale and need noise in every coordinate, got {s.scale}")


def chord(s: Setting, x0: Array) -> Array:
    """The slope of the chord of the mean sign, from 0 to the largest normalised gradient at the start."""
    gradient = matmul(s.dense_hessian, x0 - s.minimum)
    largest = jnp.maximum(jnp.max(jnp.abs(gradient) / s.scale), np.sqrt(2.0))
    return jnp.max(s.law.mean_sign(largest * s.scale, x0)) / largest
