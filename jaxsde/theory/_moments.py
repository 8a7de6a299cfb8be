"""Moments on quadratics: along the way and in the stationary law."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .. import _checks
from ..optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ..problems import Problem
from ._linear import LinearSystem
from ._setting import Setting, as_start, as_times, setting


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
    - SignSGD (Lemma 3.7): in Phase 3, $|\\nabla f| \\ll \\sigma$, for a diagonal Hessian and independent noise. With
      $a = \\ell \\lambda / \\sigma$, $b = \\frac\\eta2 \\ell^2 \\lambda^2 / \\sigma^2$ per coordinate: $E X_t - x_* =
      e^{-at}(x_0 - x_*)$ and the second moment relaxes at the rate $2(a + b)$ to $\\eta / (2(a + b))$. Here
      $\\ell = \\sqrt{2/\\pi}$ for Gaussian noise, and the slope of the centred t-CDF, doubled, for Student-t.
    - RMSprop(W): noise dominates and V has settled, $P = (\\mathrm{diag}\\,\\Sigma)^{1/2} + \\epsilon$: linear with the
      drift $-(P^{-1} H (X - x_*) + \\theta X)$ and the noise $\\eta P^{-1} \\Sigma P^{-1}$.
    - Adam(W): the same assumptions, for the linear SDE of $(X, M)$ from $M_0 = \\nabla f(x_0)$, the expected value of
      the bias-corrected mean.

    **Arguments:** `opt`; `problem` with a `Quadratic` (or `LinearRegression`) loss; `x0`, shape `(d,)`; `ts`, shape
    `(n,)`, in units of the SDE's clock $t = k \\eta$.

    **Returns:** a `Law`: `.mean` `(n, d)`, `.covariance` `(n, d, d)`, `.loss` `(n,)`.

    **Raises:** `ValueError` that names the assumption which fails.

    >>> import jaxsde as js
    >>> law = moments(js.SGD(0.1), js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), jnp.ones(1), jnp.array([0.0, 9.0]))
    >>> round(float(law.covariance[-1, 0, 0]), 4)
    0.05
    """
    s = setting(opt, problem)
    x0, ts = as_start(x0, s), as_times(ts, s)
    if isinstance(opt, SignSGD):
        return _law(s, *_sign_sgd_transient(s, x0, ts))
    systems, d = _systems(opt, s)
    gradient = s.dense_hessian @ (x0 - s.minimum)
    start = _by_system(s, jnp.stack([x0, gradient]))[:, : systems.constant.shape[-1]]
    return _law(s, *_joined(_transients(systems, start, ts), d))


def stationary(opt: AbstractOptimizer, problem: Problem) -> Law:
    """Mean, covariance and expected loss of the stationary law of an optimizer's SDE on a quadratic $f$.

    The limit of [`moments`][] as $t \\to \\infty$. With everything diagonal and $x_* = 0$, per coordinate:

    - SGD: $\\frac\\eta2 \\sigma^2 / \\lambda$.
    - SignSGD (Lemma 3.7): $\\eta / (2 (a + b))$, near $\\frac\\eta2 \\sqrt{\\pi/2}\\,\\sigma / \\lambda$.
    - RMSpropW: $\\frac\\eta2 (\\lambda / \\sigma + \\theta)^{-1}$.
    - AdamW: the same times $\\rho_1 / (\\rho_1 + \\theta)$, $\\rho_1 = (1 - \\beta_1) / \\eta$. Lemma C.57 states it without
      this factor, which is right for $\\rho_1 \\gg \\theta$ only.
    - RMSprop, Adam (Lemma C.52): the same with $\\theta = 0$.

    **Arguments:** `opt`; `problem` with a `Quadratic` (or `LinearRegression`) loss.

    **Returns:** a `Law`: `.mean` `(d,)`, `.covariance` `(d, d)`, `.loss` `()`.

    **Raises:** `ValueError` that names the assumption which fails, or where there is no stationary law.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> opt = js.AdamW(5e-3, b1=0.99, b2=0.999, weight_decay=0.5)
    >>> round(float(stationary(opt, problem).covariance[0, 0]), 6)
    0.001333
    """
    s = setting(opt, problem)
    if isinstance(opt, SignSGD):
        a, b = _sign_sgd_rates(s)
        if _checks.is_concrete(a) and not np.all(np.asarray(a) > 0):
            raise ValueError(f"there is no stationary law: the Hessian's eigenvalues are {s.hessian}, not all positive")
        return _law(s, s.minimum, jnp.diag(s.rate / (2 * (a + b))))
    systems, d = _systems(opt, s)
    systems.check_stable()
    return _law(s, *_joined(_limits(systems), d))


def _law(s: Setting, mean: Array, covariance: Array) -> Law:
    return Law(mean, covariance, s.loss(mean, covariance))


def _systems(opt: AbstractOptimizer, s: Setting) -> tuple[LinearSystem, int]:
    """The linear SDE as independent systems, stacked: one per coordinate where coordinates decouple, else one in all.

    Returns the number of parameters in each as well; further coordinates are the mean gradient's.
    """
    if s.diagonal:
        parts = s.hessian[:, None, None], s.noise[:, None, None], s.minimum[:, None]
    else:
        parts = s.hessian[None], s.noise[None], s.minimum[None]
    return jax.vmap(lambda h, q, m: _system(opt, s.rate, h, q, m))(*parts), parts[-1].shape[-1]


def _by_system(s: Setting, rows: Array) -> Array:
    """Vectors over coordinates, the rows, laid end to end for each of the systems."""
    return rows.T if s.diagonal else rows.reshape(1, -1)


@jax.jit
def _transients(systems: LinearSystem, start: Array, ts: Array) -> tuple[Array, Array]:
    return jax.vmap(lambda t: jax.vmap(lambda system, z0: system.transient(z0, t))(systems, start))(ts)


@jax.jit
def _limits(systems: LinearSystem) -> tuple[Array, Array]:
    return jax.vmap(lambda system: system.stationary())(systems)


def _joined(moments: tuple[Array, Array], d: int) -> tuple[Array, Array]:
    """Mean and covariance of all parameters from those of the systems, shapes `(..., systems, n)` and `(..., n, n)`."""
    mean, covariance = moments[0][..., :d], moments[1][..., :d, :d]
    if mean.shape[-2] == 1:
        return mean[..., 0, :], covariance[..., 0, :, :]
    variance = covariance[..., 0, 0]
    return mean[..., 0], variance[..., :, None] * jnp.eye(variance.shape[-1], dtype=variance.dtype)


def _system(opt: AbstractOptimizer, eta: Array, hessian: Array, noise: Array, minimum: Array) -> LinearSystem:
    """The linear SDE of the parameters (of the parameters and the mean gradient, for Adam)."""
    pull = hessian @ minimum
    if isinstance(opt, SGD):
        return LinearSystem(hessian, pull, eta * noise)
    if not isinstance(opt, (RMSprop, RMSpropW, Adam, AdamW)):
        raise ValueError(f"there are no closed forms for {type(opt).__name__}")
    identity = jnp.eye(minimum.shape[0], dtype=hessian.dtype)
    inverse = jnp.diag(1 / (jnp.sqrt(jnp.diagonal(noise)) + opt.eps))
    decay = identity * (opt.weight_decay if isinstance(opt, (RMSpropW, AdamW)) else 0.0)
    if isinstance(opt, (RMSprop, RMSpropW)):
        return LinearSystem(inverse @ hessian + decay, inverse @ pull, eta * inverse @ noise @ inverse)
    rho = (1 - opt.b1) / eta
    nothing = jnp.zeros_like(hessian)
    return LinearSystem(
        jnp.block([[decay, inverse], [-rho * hessian, rho * identity]]),
        jnp.concatenate([nothing[0], -rho * pull]),
        jnp.block([[nothing, nothing], [nothing, eta * rho**2 * noise]]),
    )


def _sign_sgd_rates(s: Setting) -> tuple[Array, Array]:
    if not s.diagonal:
        raise ValueError(
            "SignSGD's closed forms (Lemma 3.7) assume a diagonal Hessian, given as a vector, and noise with "
            "independent coordinates"
        )
    a = s.slope * s.hessian / s.scale
    return a, 0.5 * s.rate * a * a


def _sign_sgd_transient(s: Setting, x0: Array, ts: Array) -> tuple[Array, Array]:
    a, b = _sign_sgd_rates(s)
    t, offset = ts[:, None], x0 - s.minimum
    # Written by the growth (e^y - 1) / y, so that flat directions (a = 0) have their limit, eta t.
    exponent = -2 * (a + b) * t
    growth = jnp.where(exponent == 0, 1.0, jnp.expm1(exponent) / jnp.where(exponent == 0, 1.0, exponent))
    mean = jnp.exp(-a * t) * offset
    second = jnp.exp(exponent) * offset**2 + s.rate * t * growth
    return mean + s.minimum, jax.vmap(jnp.diag)(second - mean**2)
