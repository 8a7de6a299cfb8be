"""Moments on quadratics: along the way and in the stationary law."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._linalg import einsum, matmul
from .._typing import ArrayLike
from ..optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ..problems import Problem
from ._linear import LinearSystem, exponential
from ._recursions import check_rate, sign_covariance, sign_drift
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
    s = setting(opt, problem)
    x0, ts = as_start(x0, s), as_times(ts, s)
    check_rate(opt, s, problem.noise.independent)
    if isinstance(opt, SignSGD):
        return _law(s, *_sign_sgd_transient(s, problem.noise.independent, x0, ts))
    systems, d = _systems(opt, s)
    gradient = matmul(s.dense_hessian, x0 - s.minimum)
    start = _by_system(s, jnp.stack([x0, gradient]))[:, : systems.constant.shape[-1]]
    return _law(s, *_joined(_transients(systems, start, ts), d))


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
    s = setting(opt, problem)
    check_rate(opt, s, problem.noise.independent)
    if isinstance(opt, SignSGD):
        return _law(s, s.minimum, _sign_sgd_limit(s, problem.noise.independent))
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
    return _stacked(opt, s.rate, *parts), parts[-1].shape[-1]


@eqx.filter_jit
def _stacked(opt: AbstractOptimizer, eta: Array, hessian: Array, noise: Array, minimum: Array) -> LinearSystem:
    return jax.vmap(lambda h, q, m: _system(opt, eta, h, q, m))(hessian, noise, minimum)


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
    pull = matmul(hessian, minimum)
    if isinstance(opt, SGD):
        return LinearSystem(hessian, pull, eta * noise)
    if not isinstance(opt, (RMSprop, RMSpropW, Adam, AdamW)):
        raise ValueError(f"there are no closed forms for {type(opt).__name__}")
    identity = jnp.eye(minimum.shape[0], dtype=hessian.dtype)
    inverse = jnp.diag(1 / (jnp.sqrt(jnp.diagonal(noise)) + opt.eps))
    decay = identity * (opt.weight_decay if isinstance(opt, (RMSpropW, AdamW)) else 0.0)
    if isinstance(opt, (RMSprop, RMSpropW)):
        kick = matmul(matmul(eta * inverse, noise), inverse)
        return LinearSystem(matmul(inverse, hessian) + decay, matmul(inverse, pull), kick)
    rho = (1 - opt.b1) / eta
    nothing = jnp.zeros_like(hessian)
    return LinearSystem(
        jnp.block([[decay, inverse], [-rho * hessian, rho * identity]]),
        jnp.concatenate([nothing[0], -rho * pull]),
        jnp.block([[nothing, nothing], [nothing, eta * rho**2 * noise]]),
    )


def with_power(responses: Any, drift: Any) -> Any:
    """The second moment $N = \\sum_i (1 - p_i) R_i$ under signs of the variances $1 - p$, $p = \\mathrm{diag}(A N A^\\top)$.

    **Arguments:** `responses`: $R_i$, the second moment under unit noise in coordinate i alone, axes `(..., i, d, d)`;
    `drift`: $A$, shape `(..., d, d)`. Both of JAX, or both of NumPy.
    """
    xp, sums = (np, np.einsum) if isinstance(responses, np.ndarray) else (jnp, einsum)
    power = sums("...aj,...ijk,...ak->...ai", drift, responses, drift)
    variance = xp.linalg.solve(xp.eye(drift.shape[-1], dtype=drift.dtype) + power, xp.ones_like(drift[..., :1]))
    return sums("...i,...ijk->...jk", variance[..., 0], responses)


def _sign_sgd_transient(s: Setting, independent: bool, x0: Array, ts: Array) -> tuple[Array, Array]:
    drift = sign_drift(s)
    if s.diagonal:
        return _decoupled_signs(s, drift, x0, ts)
    if independent:
        mean, covariance = _coupled_signs(drift, s.rate, x0 - s.minimum, ts)
        return mean + s.minimum, covariance
    system = LinearSystem(drift[None], matmul(drift, s.minimum)[None], s.rate * sign_covariance(s, independent)[None])
    return _joined(_transients(system, x0[None], ts), x0.shape[0])


def _sign_sgd_limit(s: Setting, independent: bool) -> Array:
    drift = sign_drift(s)
    if s.diagonal:
        if _checks.is_concrete(drift) and not np.all(np.asarray(drift) > 0):
            raise ValueError(f"there is no stationary law: the Hessian's eigenvalues are {s.hessian}, not all positive")
        return jnp.diag(s.rate / (2 * drift + s.rate * drift**2))
    noise = s.rate * sign_covariance(s, independent)
    noises = jax.vmap(jnp.diag)(noise) if independent else noise[None]
    systems = LinearSystem(jnp.broadcast_to(drift, noises.shape), jnp.zeros(noises.shape[:-1], noise.dtype), noises)
    systems.check_stable()
    responses = _limits(systems)[1]
    return with_power(responses, drift) if independent else responses[0]


def _decoupled_signs(s: Setting, a: Array, x0: Array, ts: Array) -> tuple[Array, Array]:
    t, offset = ts[:, None], x0 - s.minimum
    # Written by the growth (e^y - 1) / y, so that flat directions (a = 0) have their limit, eta t.
    exponent = -(2 * a + s.rate * a * a) * t
    growth = jnp.where(exponent == 0, 1.0, jnp.expm1(exponent) / jnp.where(exponent == 0, 1.0, exponent))
    mean = jnp.exp(-a * t) * offset
    second = jnp.exp(exponent) * offset**2 + s.rate * t * growth
    return mean + s.minimum, jax.vmap(jnp.diag)(second - mean**2)


@jax.jit
def _coupled_signs(drift: Array, eta: Array, offset: Array, ts: Array) -> tuple[Array, Array]:
    """Mean offset and covariance under independent noise; the covariance C and the squared mean S = N - C apart, so that
    a small one is no difference of large ones."""

    def field(y: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        one, mean, square, covariance = y
        flow = matmul(drift, square), matmul(drift, covariance)
        power = jnp.diagonal(matmul(flow[0] + flow[1], drift.T))
        kick = eta * jnp.diag(one - power)
        return jnp.zeros_like(one), matmul(-drift, mean), -flow[0] - flow[0].T, kick - flow[1] - flow[1].T

    def advance(y: Any, gap: Array) -> tuple[Any, tuple[Array, Array]]:
        y = exponential(field, y, gap, 2 * size + eta * size**2)
        return y, (y[1], y[3])

    size = jnp.linalg.norm(drift, 2)
    start = jnp.ones_like(eta), offset, jnp.outer(offset, offset), jnp.zeros_like(drift)
    order = jnp.argsort(ts)
    mean, covariance = jax.lax.scan(advance, start, jnp.diff(ts[order], prepend=0))[1]
    place = jnp.argsort(order)
    return mean[place], covariance[place]
