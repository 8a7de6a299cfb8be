"""Bounds of the expected loss along the way."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._typing import ArrayLike
from ..optimizers import AbstractOptimizer, SignSGD
from ..problems import Problem
from ._setting import as_start, as_times, setting
from ._theory import LossBound, convex_spectrum, exponential_bound, theory_of


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
    theory = theory_of(opt)
    s = setting(opt, problem, needs_variance=theory.needs_variance)
    x0, ts = as_start(x0, s), as_times(ts, s)
    if phase not in (None, 1, 2, 3):
        raise ValueError(f"phase must be 1, 2, 3 or None, got {phase!r}")
    if phase is not None or published:
        return theory.phase_bound(opt, s, x0, ts, phase, published)
    if not theory.bounds_hold_at_any_rate:
        theory.check_rate(opt, s)
    return exponential_bound(s, x0, ts, *theory.bound(opt, s, x0))


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
    s = setting(SignSGD(1.0), problem, needs_variance=False)
    start = s.loss(as_start(x0, s), jnp.zeros_like(s.dense_hessian))
    return (2.0 if published else np.sqrt(2.0)) * jnp.sqrt(start / convex_spectrum(s).mu)


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
    s = setting(opt, problem, needs_variance=theory_of(opt).needs_variance)
    return loss_bound(opt, problem, s.minimum, jnp.zeros(1), published=published).floor
