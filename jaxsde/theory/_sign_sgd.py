"""What theory knows of SignSGD: in Phase 3, where the mean sign is linear in the gradient; its bounds in all phases."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import _checks
from .._linalg import einsum, matmul
from ..optimizers import SignSGD
from ..problems import Gaussian
from ._linear import LinearRecursion, LinearSystem, exponential
from ._linear_theory import joined, limits, transients
from ._phases import phase_2_constants
from ._setting import Setting
from ._theory import (
    AbstractScheduledTheory,
    LossBound,
    Moments,
    Relaxation,
    check_lengths,
    convex_spectrum,
    exponential_bound,
    register,
)


@register(SignSGD)
class SignSGDTheory(AbstractScheduledTheory):
    """For noise of any law. Where its coordinates are independent, the second moment N has a recursion of its own, because the
    variance of the signs depends on it; where they are correlated, the covariance of the signs is the one at the minimum."""

    needs_variance = False
    bounds_hold_at_any_rate = True

    def check_rate(self, opt: SignSGD, s: Setting) -> None:
        """SignSGD never diverges. But where its steps are longer than the noise is wide, $\\eta \\ell \\lambda \\ge
        \\sigma$, the second moment of the linearised chain is negative or infinite."""
        if not _checks.is_concrete(opt, s):
            return
        matrix = 2 * _recursion(s)[0].matrix
        check_lengths(opt, s, matrix - np.eye(matrix.shape[-1]), "the noise must be wider than a step")

    def transient(self, opt: SignSGD, s: Setting, x0: Array, ts: Array) -> Moments:
        drift = sign_drift(s)
        if s.diagonal:
            return _decoupled(s, drift, x0, ts)
        if s.law.independent:
            mean, covariance = _coupled(drift, s.rate, x0 - s.minimum, ts)
            return mean + s.minimum, covariance
        system = LinearSystem(drift[None], matmul(drift, s.minimum)[None], s.rate * sign_covariance(s)[None])
        return joined(transients(system, x0[None], ts), x0.shape[0])

    def stationary(self, opt: SignSGD, s: Setting) -> Moments:
        drift = sign_drift(s)
        if s.diagonal:
            if _checks.is_concrete(drift) and not np.all(np.asarray(drift) > 0):
                raise ValueError(f"there is no stationary law: the Hessian's eigenvalues are {s.hessian}, not all positive")
            return s.minimum, jnp.diag(s.rate / (2 * drift + s.rate * drift**2))
        noise = s.rate * sign_covariance(s)
        noises = jax.vmap(jnp.diag)(noise) if s.law.independent else noise[None]
        stacked = LinearSystem(jnp.broadcast_to(drift, noises.shape), jnp.zeros(noises.shape[:-1], noise.dtype), noises)
        stacked.check_stable()
        responses = limits(stacked)[1]
        return s.minimum, _with_power(responses, drift) if s.law.independent else responses[0]

    def discrete_transient(self, opt: SignSGD, s: Setting, x0: np.ndarray, steps: np.ndarray) -> Moments:
        start = x0[:, None] if s.diagonal else x0[None]
        step, drift, minimum = _recursion(s)
        mean, covariance = step.transient(start, steps)
        if not s.law.independent:
            return mean, covariance
        offset = start - minimum
        second = offset[..., :, None] * offset[..., None, :]
        stages = {0: second}
        for k in range(1, steps.max(initial=0) + 1):
            power = np.einsum("...ij,...jk,...ik->...i", drift, second, drift)
            second = step.matrix @ second @ np.swapaxes(step.matrix, -1, -2)
            second = second + step.noise * (1 - power)[..., None]
            if k in steps:
                stages[k] = second
        away = mean - minimum
        return mean, np.stack([stages[k] for k in steps.tolist()]) - away[..., :, None] * away[..., None, :]

    def discrete_stationary(self, opt: SignSGD, s: Setting) -> Moments:
        step, drift, minimum = _recursion(s)
        if not s.law.independent:
            step.check_stable()
            return minimum, step.stationary()[1]
        # The second moment's own recursion contracts while the step stays below the noise's scale, eta A < 1.
        twice = step._replace(matrix=2 * step.matrix - np.eye(drift.shape[-1]))
        twice.check_stable()
        unit = np.stack([step.noise * row for row in np.eye(drift.shape[-1])])
        responses = step._replace(noise=unit).stationary()[1]
        return minimum, _with_power(np.moveaxis(responses, 0, -3), drift)

    def bound(self, opt: SignSGD, s: Setting, x0: Array) -> tuple[Array, Array]:
        """Lemma 3.5, with the chord of the mean sign."""
        _check_noise(s)
        return _decay(s, _chord(s, x0))

    def phase_bound(self, opt: SignSGD, s: Setting, x0: Array, ts: Array, phase: int | None, published: bool) -> LossBound:
        """Lemmas 3.4 and 3.5."""
        if phase in (1, 2) and type(s.law) is not Gaussian:
            raise ValueError(f"the bounds of Phases 1 and 2 are for Gaussian noise, got {type(s.law).__name__}")
        if phase == 1:
            return _phase_1(s.loss(x0, jnp.zeros_like(s.dense_hessian)), convex_spectrum(s).mu, ts, published)
        _check_noise(s)
        if phase == 2:
            return exponential_bound(s, x0, ts, *_phase_2(s, published))
        kappa = s.slope if published else _chord(s, x0 if phase is None else s.minimum)
        return exponential_bound(s, x0, ts, *_decay(s, kappa))

    def scheduled_moments(self, opt: SignSGD, s: Setting) -> Relaxation:
        _check_noise(s)
        hessian, scale = (np.asarray(v, float) for v in (s.hessian, s.scale))
        a = float(s.slope) * hessian / scale
        return Relaxation(a, 0.5 * float(opt.rate) * a * a, np.ones_like(a))

    def scheduled_bound(self, opt: SignSGD, s: Setting, x0: Array, published: bool) -> Relaxation:
        _check_noise(s)
        mu, _, trace = (float(v) for v in convex_spectrum(s))
        kappa = float(s.slope if published else _chord(s, x0))
        a = mu * kappa / float(jnp.max(s.scale))
        return Relaxation(a, 0.5 * float(opt.rate) * a * a, trace)

    def power_rate(self, opt: SignSGD, s: Setting) -> float:
        _check_noise(s)
        return 2 * float(convex_spectrum(s).mu) * float(s.slope) / float(jnp.max(s.scale))


def sign_drift(s: Setting) -> Array:
    """$A = \\ell D^{-1} H$ of the mean sign, linearised: a vector where coordinates decouple, else a matrix."""
    if _checks.is_concrete(s.scale) and not np.all(np.asarray(s.scale) > 0):
        raise ValueError(f"SignSGD's closed forms linearise the mean sign and need noise in every coordinate, got {s.scale}")
    gain = s.slope / s.scale
    return gain * s.hessian if s.diagonal else gain[:, None] * s.hessian


def sign_covariance(s: Setting) -> Array:
    """The covariance of the signs at the minimum, as a matrix: $\\frac2\\pi \\arcsin$ of the noise's correlations."""
    if s.law.independent:
        return jnp.eye(s.minimum.shape[0], dtype=s.minimum.dtype)
    correlation = s.noise / jnp.outer(s.scale, s.scale)
    covariance = (2 / np.pi) * jnp.arcsin(jnp.clip(correlation, -1, 1))
    # The slope of arcsin is infinite at 1, where rounding would grow to its root.
    return jnp.fill_diagonal(covariance, 1.0, inplace=False)


def _recursion(s: Setting) -> tuple[LinearRecursion, np.ndarray, np.ndarray]:
    """One step of the linearised signs with their covariance at the minimum; the drift A and the minimum, by systems."""
    drift, minimum = np.asarray(sign_drift(s), float), s.systems[2]
    if s.diagonal:
        drift, signs = drift[:, None, None], np.ones((len(drift), 1, 1))
    else:
        drift, signs = drift[None], np.asarray(sign_covariance(s), float)[None]
    eta, identity = float(s.rate), np.eye(minimum.shape[-1])
    pull = eta * np.einsum("...ij,...j->...i", drift, minimum)
    return LinearRecursion(identity - eta * drift, pull, eta**2 * signs), drift, minimum


def _with_power(responses: Any, drift: Any) -> Any:
    """The second moment $N = \\sum_i (1 - p_i) R_i$ under signs of the variances $1 - p$, $p = \\mathrm{diag}(A N A^\\top)$.

    **Arguments:** `responses`: $R_i$, the second moment under unit noise in coordinate i alone, axes `(..., i, d, d)`;
    `drift`: $A$, shape `(..., d, d)`. Both of JAX, or both of NumPy.
    """
    xp, sums = (np, np.einsum) if isinstance(responses, np.ndarray) else (jnp, einsum)
    power = sums("...aj,...ijk,...ak->...ai", drift, responses, drift)
    variance = xp.linalg.solve(xp.eye(drift.shape[-1], dtype=drift.dtype) + power, xp.ones_like(drift[..., :1]))
    return sums("...i,...ijk->...jk", variance[..., 0], responses)


def _decoupled(s: Setting, a: Array, x0: Array, ts: Array) -> tuple[Array, Array]:
    t, a, offset = ts[:, None], a[None], (x0 - s.minimum)[None]
    # Written by the growth (e^y - 1) / y, so that flat directions (a = 0) have their limit, eta t.
    exponent = -(2 * a + s.rate * a * a) * t
    growth = jnp.where(exponent == 0, 1.0, jnp.expm1(exponent) / jnp.where(exponent == 0, 1.0, exponent))
    mean = jnp.exp(-a * t) * offset
    second = jnp.exp(exponent) * offset**2 + s.rate * t * growth
    return mean + s.minimum[None], jax.vmap(jnp.diag)(second - mean**2)


@jax.jit
def _coupled(drift: Array, eta: Array, offset: Array, ts: Array) -> tuple[Array, Array]:
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


def _check_noise(s: Setting) -> None:
    """Raises unless there is noise in every coordinate, without which the mean sign has no chord."""
    if _checks.is_concrete(s.scale) and not np.all(np.asarray(s.scale) > 0):
        raise ValueError(f"SignSGD's bounds divide by the noise's scale and need noise in every coordinate, got {s.scale}")


def _chord(s: Setting, x0: Array) -> Array:
    """The slope of the chord of the mean sign, from 0 to the largest normalised gradient at the start."""
    gradient = matmul(s.dense_hessian, x0 - s.minimum)
    largest = jnp.maximum(jnp.max(jnp.abs(gradient) / s.scale), np.sqrt(2.0))
    return jnp.max(s.law.mean_sign(largest * s.scale, x0)) / largest


def _decay(s: Setting, kappa: Array) -> tuple[Array, Array]:
    """Rate and source of the bound where the mean sign is at least `kappa` times the normalised gradient."""
    mu, _, trace = convex_spectrum(s)
    sigma = jnp.max(s.scale)
    return 2 * mu * (kappa / sigma + 0.5 * s.rate * mu * (kappa / sigma) ** 2), trace


def _phase_1(start: Array, mu: Array, ts: Array, published: bool) -> LossBound:
    speed = 0.5 * jnp.sqrt(mu) if published else jnp.sqrt(mu / 2)
    loss = jnp.maximum(jnp.sqrt(start) - speed * ts, 0) ** 2
    return LossBound(loss, 2 * speed / jnp.sqrt(start), jnp.zeros_like(start))


def _phase_2(s: Setting, published: bool) -> tuple[Array, Array]:
    mu, _, trace = convex_spectrum(s)
    sigma, c = jnp.max(s.scale), phase_2_constants()
    q = max(c.secant_intercept, c.tangent_intercept) if published else c.secant_intercept
    rate = 2 * mu * (c.slope / (np.sqrt(2) * sigma) + s.rate * mu * c.slope**2 / (4 * sigma**2))
    return rate, trace - mu * s.minimum.shape[0] * q**2
