"""Moments of the optimizers themselves on quadratics: linear recursions, in float64 on the host."""

import jax.numpy as jnp
import numpy as np

from .. import _checks
from .._typing import ArrayLike
from ..optimizers import AbstractOptimizer, Adam, AdamW, SignSGD
from ..problems import Problem
from ._linear import LinearRecursion
from ._moments import Law, with_power
from ._recursions import averaging, moving, recursion, sign_sgd_recursion
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
    whole = _warmed_up(opt, s, count) if isinstance(opt, (Adam, AdamW)) else recursion(opt, s).power(count)
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
    step = recursion(opt, s)
    step.check_stable()
    return _law(s, *step.stationary())


def _law(s: Setting, mean: np.ndarray, covariance: np.ndarray) -> Law:
    """The law of all parameters from the moments of the systems, whose further coordinates are left out."""
    d = s.minimum.shape[0]
    if s.diagonal:
        mean, covariance = mean[..., 0], covariance[..., 0, 0, None] * np.eye(d)
    else:
        mean, covariance = mean[..., 0, :d], covariance[..., 0, :d, :d]
    means, covariances = jnp.asarray(mean, s.minimum.dtype), jnp.asarray(covariance, s.minimum.dtype)
    return Law(means, covariances, s.loss(means, covariances))


def _warmed_up(opt: Adam | AdamW, s: Setting, count: np.ndarray) -> LinearRecursion:
    """`count` steps of Adam as one, from the start: one by one as long as the bias correction changes."""
    b1 = float(opt.b1)
    settled = int(np.ceil(np.log(np.finfo(float).eps) / np.log(b1))) if b1 > 0 else 0
    early = np.minimum(count, settled)
    entering, later = averaging(opt, s), recursion(opt, s)
    whole = LinearRecursion(*(part[0] for part in later.power(np.zeros(1, int))))
    stages = {0: whole}
    for k in range(1, early.max(initial=0) + 1):
        whole = whole.then(entering).then(moving(opt, s, 1 / (1 - b1**k)))
        if k in early:
            stages[k] = whole
    begun = LinearRecursion(*(np.stack(parts) for parts in zip(*(stages[k] for k in early.tolist()), strict=True)))
    return begun.then(later.power(count - early))


def _sign_sgd_steps(s: Setting, independent: bool, start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step, drift, minimum = sign_sgd_recursion(s, independent)
    mean, covariance = step.transient(start, count)
    if not independent:
        return mean, covariance
    offset = start - minimum
    second = offset[..., :, None] * offset[..., None, :]
    stages = {0: second}
    for k in range(1, count.max(initial=0) + 1):
        power = np.einsum("...ij,...jk,...ik->...i", drift, second, drift)
        second = step.matrix @ second @ np.swapaxes(step.matrix, -1, -2)
        second = second + step.noise * (1 - power)[..., None]
        if k in count:
            stages[k] = second
    away = mean - minimum
    return mean, np.stack([stages[k] for k in count.tolist()]) - away[..., :, None] * away[..., None, :]


def _sign_sgd_rest(s: Setting, independent: bool) -> tuple[np.ndarray, np.ndarray]:
    step, drift, minimum = sign_sgd_recursion(s, independent)
    if not independent:
        step.check_stable()
        return minimum, step.stationary()[1]
    # The second moment's own recursion contracts while the step stays below the noise's scale, eta A < 1.
    twice = step._replace(matrix=2 * step.matrix - np.eye(drift.shape[-1]))
    twice.check_stable()
    unit = np.stack([step.noise * row for row in np.eye(drift.shape[-1])])
    responses = step._replace(noise=unit).stationary()[1]
    return minimum, with_power(np.moveaxis(responses, 0, -3), drift)
