"""Moments on quadratics: along the way and in the stationary law."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._typing import ArrayLike
from ..optimizers import AbstractOptimizer
from ..problems import Problem
from ._setting import Setting, as_start, as_times, setting
from ._theory import theory_of


class Law(NamedTuple):
    """Moments of the parameters, with a leading axis of times where there are several."""

    mean: Float[Array, "*n d"]
    covariance: Float[Array, "*n d d"]
    loss: Float[Array, "*n"]
    """The expected loss above its minimum."""


def moments(opt: AbstractOptimizer, problem: Problem, x0: ArrayLike, ts: ArrayLike) -> Law:
    """Mean, covariance and expected loss of an optimizer's SDE at times `ts`, on a quadratic $f$ from the point `x0`.

    With $H$ the Hessian, $\\Sigma$ the noise covariance, $x_*$ the minimum and $\\eta$ the learning rate:

    - SGD: $E X_t - x_* = e^{-Ht}(x_0 - x_*)$, Cov $= \\int_0^t e^{-Hs} \\eta \\Sigma e^{-Hs} ds$. Exact.
    - SignSGD: in Phase 3, $|\\nabla f| \\ll \\sigma$, where the mean sign is linear: $E X_t - x_* = e^{-At}(x_0 - x_*)$ with
      $A = \\ell D^{-1} H$, $D$ the diagonal of the noise's scales, $\\ell = \\sqrt{2/\\pi}$ for Gaussian noise, and the slope
      of the centred t-CDF, doubled, for Student-t. For independent noise the second moment $N$ about $x_*$ obeys
      $\\dot N = -AN - NA^\\top + \\eta(I - \\mathrm{diag}(A N A^\\top))$. With a diagonal Hessian that is Lemma 3.7: per
      coordinate, with $a = \\ell \\lambda / \\sigma$ and $b = \\frac\\eta2 a^2$, it relaxes at the rate $2(a + b)$ to
      $\\eta / (2(a + b))$. For correlated Gaussian noise the covariance of the signs is the one at $x_*$,
      $\\frac2\\pi \\arcsin$ of the correlations, without the last term, which is of relative order $\\eta$.
    - RMSprop(W): noise dominates and V has settled, $P = (\\mathrm{diag}\\,\\Sigma)^{1/2} + \\epsilon$: linear with the
      drift $-(P^{-1} H (X - x_*) + \\theta X)$ and the noise $\\eta P^{-1} \\Sigma P^{-1}$.
    - Adam(W): the same assumptions, for the linear SDE of $(X, M)$ from $M_0 = \\nabla f(x_0)$, the expected value of
      the bias-corrected mean.

    **Arguments:** `opt`; `problem` with a `Quadratic` (or `LinearRegression`) loss; `x0`, shape `(d,)`; `ts`, shape
    `(n,)`, in units of the SDE's clock $t = k \\eta$.

    **Returns:** a `Law`: `.mean` `(n, d)`, `.covariance` `(n, d, d)`, `.loss` `(n,)`.

    **Raises:** `ValueError` that names the assumption which fails, and where the learning rate is past the optimizer's own
    stability limit.

    >>> import jaxsde as js
    >>> law = moments(js.SGD(0.1), js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), jnp.ones(1), jnp.array([0.0, 9.0]))
    >>> round(float(law.covariance[-1, 0, 0]), 4)
    0.05
    """
    theory = theory_of(opt)
    s = setting(opt, problem, needs_variance=theory.needs_variance)
    x0, ts = as_start(x0, s), as_times(ts, s)
    theory.check_rate(opt, s)
    return _law(s, *theory.transient(opt, s, x0, ts))


def stationary(opt: AbstractOptimizer, problem: Problem) -> Law:
    """Mean, covariance and expected loss of the stationary law of an optimizer's SDE on a quadratic $f$.

    The limit of [`moments`][] as $t \\to \\infty$. With everything diagonal and $x_* = 0$, per coordinate:

    - SGD: $\\frac\\eta2 \\sigma^2 / \\lambda$.
    - SignSGD (Lemma 3.7): $\\eta / (2 (a + b))$, near $\\frac\\eta2 \\sqrt{\\pi/2}\\,\\sigma / \\lambda$ for Gaussian noise.
    - RMSpropW: $\\frac\\eta2 (\\lambda / \\sigma + \\theta)^{-1}$.
    - AdamW: the same times $\\rho_1 / (\\rho_1 + \\theta)$, $\\rho_1 = (1 - \\beta_1) / \\eta$. Lemma C.57 states it without
      this factor, which is right for $\\rho_1 \\gg \\theta$ only.
    - RMSprop, Adam (Lemma C.52): the same with $\\theta = 0$.

    **Arguments:** `opt`; `problem` with a `Quadratic` (or `LinearRegression`) loss.

    **Returns:** a `Law`: `.mean` `(d,)`, `.covariance` `(d, d)`, `.loss` `()`.

    **Raises:** `ValueError` that names the assumption which fails, or where there is no stationary law: of the SDE, or of
    the optimizer, whose learning rate may be past its own stability limit.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> opt = js.AdamW(5e-3, b1=0.99, b2=0.999, weight_decay=0.5)
    >>> round(float(stationary(opt, problem).covariance[0, 0]), 6)
    0.001333
    """
    theory = theory_of(opt)
    s = setting(opt, problem, needs_variance=theory.needs_variance)
    theory.check_rate(opt, s)
    return _law(s, *theory.stationary(opt, s))


def discrete_moments(opt: AbstractOptimizer, problem: Problem, x0: ArrayLike, steps: ArrayLike) -> Law:
    """Mean, covariance and expected loss of an optimizer itself after `steps` steps on a quadratic $f$ from the point `x0`.

    What [`moments`][] is to the SDE, this is to the chain, for any Hessian $H$ and noise covariance $\\Sigma$:

    - SGD: $x' - x_* = (I - \\eta H)(x - x_*) - \\eta Z$. Exact, for noise of any law.
    - RMSprop(W): exact for $V$ held at $\\mathrm{diag}\\,\\Sigma$, $P = (\\mathrm{diag}\\,\\Sigma)^{1/2} + \\epsilon$:
      $x' = x - \\eta (P^{-1} g + \\theta x)$.
    - Adam(W): the same, for $m_{k+1} = \\beta_1 m_k + (1 - \\beta_1) g_k$ from $m_0 = 0$ with its bias correction,
      $x_{k+1} = x_k - \\eta (P^{-1} m_{k+1} / (1 - \\beta_1^{k+1}) + \\theta x_k)$.
    - SignSGD: exact for the mean sign linearised, $E\\,\\mathrm{sign}(g) = A (x - x_*)$, $A = \\ell D^{-1} H$ as in `moments`
      (Phase 3). For independent noise $N' = (I - \\eta A) N (I - \\eta A)^\\top + \\eta^2 (I - \\mathrm{diag}(A N A^\\top))$;
      for correlated Gaussian noise with the covariance of the signs at $x_*$ and without the last term.

    **Arguments:** `opt`; `problem` with a `Quadratic` (or `LinearRegression`) loss; `x0`, shape `(d,)`; `steps`, whole
    numbers of shape `(n,)`.

    **Returns:** a `Law`: `.mean` `(n, d)`, `.covariance` `(n, d, d)`, `.loss` `(n,)`.

    **Raises:** `ValueError` that names the assumption which fails; `TypeError` for `steps` that are not whole.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> discrete_moments(js.SGD(0.5), problem, jnp.ones(1), [1, 2]).covariance.ravel().tolist()
    [0.25, 0.3125]
    """
    theory = theory_of(opt)
    s = setting(opt, problem, needs_variance=theory.needs_variance)
    start = np.asarray(as_start(x0, s), float)
    count = np.asarray(steps)
    if not np.issubdtype(count.dtype, np.integer):
        raise TypeError(f"steps must be whole numbers, got {steps!r}")
    if count.ndim != 1 or not count.size:
        raise ValueError(f"steps must be a vector of numbers of steps, got shape {count.shape}")
    _checks.number("steps", count, low=0.0, closed="low")
    return _discrete_law(s, *theory.discrete_transient(opt, s, start, count))


def discrete_stationary(opt: AbstractOptimizer, problem: Problem) -> Law:
    """Mean, covariance and expected loss of the stationary law of an optimizer itself on a quadratic $f$.

    The limit of [`discrete_moments`][], under the same assumptions. With everything diagonal and $x_* = 0$, per coordinate:

    - SGD: $\\eta \\sigma^2 / (\\lambda (2 - \\eta\\lambda))$.
    - SignSGD: $\\eta / (2a)$, $a = \\ell \\lambda / \\sigma$.
    - RMSpropW: $\\eta / (r (2 - \\eta r))$, $r = \\lambda / \\sigma + \\theta$.

    **Arguments:** `opt`; `problem` with a `Quadratic` (or `LinearRegression`) loss.

    **Returns:** a `Law`: `.mean` `(d,)`, `.covariance` `(d, d)`, `.loss` `()`.

    **Raises:** `ValueError` that names the assumption which fails, or where there is no stationary law.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> round(float(discrete_stationary(js.SGD(0.5), problem).covariance[0, 0]), 6)
    0.333333
    """
    theory = theory_of(opt)
    s = setting(opt, problem, needs_variance=theory.needs_variance)
    return _discrete_law(s, *theory.discrete_stationary(opt, s))


def _law(s: Setting, mean: Array, covariance: Array) -> Law:
    return Law(mean, covariance, s.loss(mean, covariance))


def _discrete_law(s: Setting, mean: np.ndarray, covariance: np.ndarray) -> Law:
    """The law of all parameters from the moments of the systems, whose further coordinates are left out."""
    d = s.minimum.shape[0]
    if s.diagonal:
        mean, covariance = mean[..., 0], covariance[..., 0, 0, None] * np.eye(d)
    else:
        mean, covariance = mean[..., 0, :d], covariance[..., 0, :d, :d]
    means, covariances = jnp.asarray(mean, s.minimum.dtype), jnp.asarray(covariance, s.minimum.dtype)
    return Law(means, covariances, s.loss(means, covariances))
