"""Moments of the optimizers themselves on quadratics: linear recursions, in float64 on the host."""

import jax.numpy as jnp
import numpy as np

from .. import _checks
from .._typing import ArrayLike
from ..optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ..problems import Problem
from ._linear import LinearRecursion
from ._moments import Law, sign_covariance, sign_drift, with_power
from ._setting import Setting, as_start, setting


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
    s = setting(opt, problem)
    start = np.asarray(as_start(x0, s), float)
    count = np.asarray(steps)
    if not np.issubdtype(count.dtype, np.integer):
        raise TypeError(f"steps must be whole numbers, got {steps!r}")
    if count.ndim != 1 or not count.size:
        raise ValueError(f"steps must be a vector of numbers of steps, got shape {count.shape}")
    _checks.number("steps", count, low=0.0, closed="low")
    by_system = start[:, None] if s.diagonal else start[None]
    if isinstance(opt, SignSGD):
        return _law(s, *_sign_sgd_steps(s, problem.noise.independent, by_system, count))
    whole = _warmed_up(opt, s, count) if isinstance(opt, (Adam, AdamW)) else _recursion(opt, s).power(count)
    from_start = whole.matrix[..., : by_system.shape[1]]  # the mean gradient starts at 0
    return _law(s, whole.constant + np.einsum("...ij,...j->...i", from_start, by_system), whole.noise)


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
    s = setting(opt, problem)
    if isinstance(opt, SignSGD):
        return _law(s, *_sign_sgd_rest(s, problem.noise.independent))
    recursion = _recursion(opt, s)
    recursion.check_stable()
    return _law(s, *recursion.stationary())


def _systems(s: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hessian, noise and minimum of the independent systems, stacked: one per coordinate where coordinates decouple."""
    hessian, noise, minimum = (np.asarray(a, float) for a in (s.hessian, s.noise, s.minimum))
    if s.diagonal:
        return hessian[:, None, None], noise[:, None, None], minimum[:, None]
    return hessian[None], noise[None], minimum[None]


def _law(s: Setting, mean: np.ndarray, covariance: np.ndarray) -> Law:
    """The law of all parameters from the moments of the systems, whose further coordinates are left out."""
    d = s.minimum.shape[0]
    if s.diagonal:
        mean, covariance = mean[..., 0], covariance[..., 0, 0, None] * np.eye(d)
    else:
        mean, covariance = mean[..., 0, :d], covariance[..., 0, :d, :d]
    means, covariances = jnp.asarray(mean, s.minimum.dtype), jnp.asarray(covariance, s.minimum.dtype)
    return Law(means, covariances, s.loss(means, covariances))


def _recursion(opt: AbstractOptimizer, s: Setting) -> LinearRecursion:
    """One step of the parameters (of the parameters and the mean gradient, for Adam, its bias correction settled)."""
    if isinstance(opt, (Adam, AdamW)):
        return _averaging(opt, s).then(_moving(opt, s, 1.0))
    hessian, noise, minimum = _systems(s)
    eta, identity = float(s.rate), np.eye(minimum.shape[-1])
    pull = np.einsum("...ij,...j->...i", hessian, minimum)
    if isinstance(opt, SGD):
        return LinearRecursion(identity - eta * hessian, eta * pull, eta**2 * noise)
    if not isinstance(opt, (RMSprop, RMSpropW)):
        raise ValueError(f"there are no closed forms for {type(opt).__name__}")
    gain, kept = _gain_and_kept(opt, s)
    return LinearRecursion(kept - gain @ hessian, np.einsum("...ij,...j->...i", gain, pull), gain @ noise @ gain)


def _gain_and_kept(opt: RMSprop | RMSpropW | Adam | AdamW, s: Setting) -> tuple[np.ndarray, np.ndarray]:
    """What one step takes from the mean gradient, $\\eta P^{-1}$, and what it keeps of the parameters, $1 - \\eta\\theta$."""
    noise, eta = _systems(s)[1], float(s.rate)
    identity = np.broadcast_to(np.eye(noise.shape[-1]), noise.shape)
    deviation = np.sqrt(np.diagonal(noise, axis1=-2, axis2=-1))
    decay = float(opt.weight_decay) if isinstance(opt, (RMSpropW, AdamW)) else 0.0
    return eta / (deviation + float(opt.eps))[..., None] * identity, (1 - eta * decay) * identity


def _averaging(opt: Adam | AdamW, s: Setting) -> LinearRecursion:
    """The first half of Adam's step: a new stochastic gradient enters the mean."""
    hessian, noise, minimum = _systems(s)
    b1, nothing = float(opt.b1), np.zeros_like(hessian)
    identity = nothing + np.eye(minimum.shape[-1])
    pull = np.einsum("...ij,...j->...i", hessian, minimum)
    return LinearRecursion(
        np.block([[identity, nothing], [(1 - b1) * hessian, b1 * identity]]),
        np.concatenate([np.zeros_like(pull), -(1 - b1) * pull], axis=-1),
        np.block([[nothing, nothing], [nothing, (1 - b1) ** 2 * noise]]),
    )


def _moving(opt: Adam | AdamW, s: Setting, correction: float) -> LinearRecursion:
    """The second half of Adam's step: the mean gradient, multiplied by the bias `correction`, moves the parameters."""
    gain, kept = _gain_and_kept(opt, s)
    nothing = np.zeros_like(gain)
    matrix = np.block([[kept, -correction * gain], [nothing, nothing + np.eye(gain.shape[-1])]])
    return LinearRecursion(matrix, np.zeros(matrix.shape[:-1]), np.zeros_like(matrix))


def _warmed_up(opt: Adam | AdamW, s: Setting, count: np.ndarray) -> LinearRecursion:
    """`count` steps of Adam as one, from the start: one by one as long as the bias correction changes."""
    b1 = float(opt.b1)
    settled = int(np.ceil(np.log(np.finfo(float).eps) / np.log(b1))) if b1 > 0 else 0
    early = np.minimum(count, settled)
    averaging, later = _averaging(opt, s), _recursion(opt, s)
    whole = LinearRecursion(*(part[0] for part in later.power(np.zeros(1, int))))
    stages = {0: whole}
    for k in range(1, early.max(initial=0) + 1):
        whole = whole.then(averaging).then(_moving(opt, s, 1 / (1 - b1**k)))
        if k in early:
            stages[k] = whole
    begun = LinearRecursion(*(np.stack(parts) for parts in zip(*(stages[k] for k in early.tolist()), strict=True)))
    return begun.then(later.power(count - early))


def _sign_sgd_system(s: Setting, independent: bool) -> tuple[LinearRecursion, np.ndarray, np.ndarray]:
    """One step of the linearised signs with their covariance at the minimum; the drift A and the minimum, by systems."""
    drift, minimum = np.asarray(sign_drift(s), float), _systems(s)[2]
    if s.diagonal:
        drift, signs = drift[:, None, None], np.ones((len(drift), 1, 1))
    else:
        drift, signs = drift[None], np.asarray(sign_covariance(s, independent), float)[None]
    eta, identity = float(s.rate), np.eye(minimum.shape[-1])
    pull = eta * np.einsum("...ij,...j->...i", drift, minimum)
    return LinearRecursion(identity - eta * drift, pull, eta**2 * signs), drift, minimum


def _sign_sgd_steps(s: Setting, independent: bool, start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    recursion, drift, minimum = _sign_sgd_system(s, independent)
    mean, covariance = recursion.transient(start, count)
    if not independent:
        return mean, covariance
    offset = start - minimum
    second = offset[..., :, None] * offset[..., None, :]
    stages = {0: second}
    for k in range(1, count.max(initial=0) + 1):
        power = np.einsum("...ij,...jk,...ik->...i", drift, second, drift)
        second = recursion.matrix @ second @ np.swapaxes(recursion.matrix, -1, -2)
        second = second + recursion.noise * (1 - power)[..., None]
        if k in count:
            stages[k] = second
    away = mean - minimum
    return mean, np.stack([stages[k] for k in count.tolist()]) - away[..., :, None] * away[..., None, :]


def _sign_sgd_rest(s: Setting, independent: bool) -> tuple[np.ndarray, np.ndarray]:
    recursion, drift, minimum = _sign_sgd_system(s, independent)
    if not independent:
        recursion.check_stable()
        return minimum, recursion.stationary()[1]
    # The second moment's own recursion contracts while the step stays below the noise's scale, eta A < 1.
    twice = recursion._replace(matrix=2 * recursion.matrix - np.eye(drift.shape[-1]))
    twice.check_stable()
    unit = np.stack([recursion.noise * row for row in np.eye(drift.shape[-1])])
    responses = recursion._replace(noise=unit).stationary()[1]
    return minimum, with_power(np.moveaxis(responses, 0, -3), drift)
