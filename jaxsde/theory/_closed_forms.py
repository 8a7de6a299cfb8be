"""The published closed forms on diagonal quadratics $f(x) = \\frac12 \\sum_i \\lambda_i x_i^2$ with independent Gaussian noise.

As printed, beside what [`moments`][] and [`stationary`][] give, so that one sees where the two differ. All arguments are
arrays or numbers, one entry per coordinate for `hessian` $\\lambda$, `scale` $\\sigma$ and `x0`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._special import SIGN_SLOPE
from .._typing import ArrayLike


class DiagonalLaw(NamedTuple):
    """Mean and variance of each coordinate at each time."""

    mean: Float[Array, "n d"]
    variance: Float[Array, "n d"]


def lemma_3_7(x0: ArrayLike, hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, ts: ArrayLike) -> DiagonalLaw:
    """SignSGD's law along the way (compagnoni2025, Lemma 3.7).

    With $a = \\sqrt{2/\\pi}\\,\\lambda / \\sigma$, $b = \\frac\\eta\\pi \\lambda^2 / \\sigma^2$ and $m_t = e^{-2(a + b)t}$:
    $E X_t = e^{-at} x_0$, $\\mathrm{Var}\\,X_t = (m_t - e^{-2at}) x_0^2 + \\frac{\\eta}{2(a + b)} (1 - m_t)$.

    Assumes Phase 3, $|\\lambda x| \\ll \\sigma$. It is what `moments` gives. The linearised chain's own stationary variance is
    $\\eta / (2a)$ exactly: $b$ is a correction of the size of the SDE's error, and it points away from the chain.

    **Arguments:** `x0`, `hessian` (positive), `scale` (positive), each `(d,)`; `learning_rate`: $\\eta$; `ts`, shape `(n,)`,
    in units of the clock $t = k \\eta$.

    **Returns:** a `DiagonalLaw`: `.mean` and `.variance`, both `(n, d)`.

    **Raises:** `ValueError` for arguments out of range or of unlike shapes, `TypeError` for what are no real numbers.

    >>> round(lemma_3_7([0.0], [1.0], [1.0], 0.01, [100.0]).variance.item(), 7)
    0.0062417
    """
    x0, lam, sigma, eta, t = _checked_rows(x0, hessian, scale, learning_rate, ts)
    a, b = SIGN_SLOPE * lam / sigma, eta / np.pi * lam**2 / sigma**2
    m, mean = jnp.exp(-2 * (a + b) * t), jnp.exp(-a * t)
    return DiagonalLaw(mean * x0, (m - mean**2) * x0**2 + eta / (2 * (a + b)) * (1 - m))


def lemma_3_8(x0: ArrayLike, hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, ts: ArrayLike) -> DiagonalLaw:
    """SGD's law along the way (compagnoni2025, Lemma 3.8).

    $E X_t = e^{-\\lambda t} x_0$, $\\mathrm{Var}\\,X_t = \\frac\\eta2 \\frac{\\sigma^2}{\\lambda} (1 - e^{-2\\lambda t})$.

    Exact for the SDE, and for noise of any law with the variance $\\sigma^2$; it is what `moments` gives. The chain's
    stationary variance is $\\eta \\sigma^2 / (\\lambda (2 - \\eta\\lambda))$.

    **Arguments, Returns, Raises:** those of [`lemma_3_7`][].

    >>> round(lemma_3_8([0.0], [1.0], [1.0], 0.01, [100.0]).variance.item(), 6)
    0.005
    """
    x0, lam, sigma, eta, t = _checked_rows(x0, hessian, scale, learning_rate, ts)
    return DiagonalLaw(jnp.exp(-lam * t) * x0, -eta / 2 * sigma**2 / lam * jnp.expm1(-2 * lam * t))


def lemma_c52(hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike) -> Float[Array, " d"]:
    """Adam's stationary variance (compagnoni2025, Lemma C.52), $\\frac\\eta2 \\sigma / \\lambda$.

    Assumes that noise dominates the gradient and $V$ has settled at $\\sigma^2$, and $\\epsilon = 0$. Then it is exact for the
    linear SDE of $(X, M)$, whatever $\\beta_1$, and it is what `stationary` gives.

    **Arguments:** `hessian` (not negative), `scale` (positive), each `(d,)`; `learning_rate`: $\\eta$.

    **Returns:** the variance of each coordinate, shape `(d,)`; infinite where the curvature is 0.

    **Raises:** `ValueError` for arguments out of range or of unlike shapes, `TypeError` for what are no real numbers.

    >>> lemma_c52([1.0, 2.0], [1.0, 1.0], 0.5).tolist()
    [0.25, 0.125]
    """
    return lemma_c57(hessian, scale, learning_rate, 0.0)


def lemma_c57(hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike) -> Float[Array, " d"]:
    """AdamW's stationary variance (compagnoni2025, Lemma C.57), $\\frac\\eta2 (\\lambda / \\sigma + \\theta)^{-1}$.

    Assumes what [`lemma_c52`][] does. The linear SDE of $(X, M)$ has this times $\\rho_1 / (\\rho_1 + \\theta)$,
    $\\rho_1 = (1 - \\beta_1) / \\eta$, which `stationary` gives: the statement holds for $\\rho_1 \\gg \\theta$. For RMSpropW,
    which has no $M$, it is exact.

    **Arguments:** those of [`lemma_c52`][], and `weight_decay`: $\\theta \\ge 0$.

    **Returns:** the variance of each coordinate, shape `(d,)`.

    **Raises:** `ValueError` for arguments out of range or of unlike shapes, `TypeError` for what are no real numbers.

    >>> round(lemma_c57([1.0], [1.0], 5e-3, 0.5).item(), 6)
    0.001667
    """
    lam, sigma, eta, theta = _checked_limit(hessian, scale, learning_rate, weight_decay)
    return eta / 2 / (lam / sigma + theta)


def rmspropw_transient(
    x0: ArrayLike, hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike, ts: ArrayLike
) -> DiagonalLaw:
    """RMSpropW's law along the way (after compagnoni2025).

    With $r = \\lambda / \\sigma + \\theta$: $E X_t = e^{-rt} x_0$, $\\mathrm{Var}\\,X_t = \\frac{\\eta}{2r} (1 - e^{-2rt})$.

    Assumes that noise dominates the gradient, $V = \\sigma^2$ from the start, and $\\epsilon = 0$; then it is what `moments`
    gives. Under the same assumptions the chain's stationary variance is $\\eta / (r (2 - \\eta r))$.

    **Arguments:** those of [`lemma_3_7`][], and `weight_decay`: $\\theta \\ge 0$.

    **Returns, Raises:** those of [`lemma_3_7`][].

    >>> rmspropw_transient([1.0], [1.0], [1.0], 0.5, 1.0, [0.0]).mean.tolist()
    [[1.0]]
    """
    x0, lam, sigma, eta, t = _checked_rows(x0, hessian, scale, learning_rate, ts)
    rate = lam / sigma + _checked_decay(weight_decay)
    return DiagonalLaw(jnp.exp(-rate * t) * x0, -eta / 2 / rate * jnp.expm1(-2 * rate * t))


def stationary_loss_adamw(
    hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike
) -> Float[Array, ""]:
    """AdamW's asymptotic loss, $\\frac\\eta4 \\mathrm{Tr}[H (H \\Sigma^{-1/2} + \\theta I)^{-1}]$.

    It saturates at $\\frac{\\eta}{4\\theta} \\mathrm{Tr} H$ as the noise grows. Assumes what [`lemma_c57`][] does, and lacks
    the same factor $\\rho_1 / (\\rho_1 + \\theta)$.

    **Arguments:** those of [`lemma_c57`][].

    **Returns:** the expected loss above its minimum.

    **Raises:** `ValueError` for arguments out of range or of unlike shapes, `TypeError` for what are no real numbers.

    >>> round(stationary_loss_adamw([1.0], [1e6], 0.01, 0.5).item(), 6)
    0.005
    """
    lam, sigma, eta, theta = _checked_limit(hessian, scale, learning_rate, weight_decay)
    return eta / 4 * jnp.sum(lam / (lam / sigma + theta))


def stationary_loss_adam_l2(
    hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike
) -> Float[Array, ""]:
    """The asymptotic loss of Adam with a coupled penalty $\\frac\\theta2 \\|x\\|^2$ in the loss that it descends,
    $\\frac\\eta4 \\mathrm{Tr}[H \\Sigma^{1/2} (H + \\theta I)^{-1}]$.

    It grows in proportion to the noise, where [`stationary_loss_adamw`][] saturates. Assumes what [`lemma_c52`][] does, for
    the gradient with the penalty's; then exact for the linear SDE.

    **Arguments, Returns, Raises:** those of [`stationary_loss_adamw`][].

    >>> stationary_loss_adam_l2([1.0], [2.0], 1.0, 1.0).item()
    0.25
    """
    lam, sigma, eta, theta = _checked_limit(hessian, scale, learning_rate, weight_decay)
    return eta / 4 * jnp.sum(lam * sigma / (lam + theta))


def stationary_loss_sgdw(
    hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike
) -> Float[Array, ""]:
    """The asymptotic loss of SGD with weight decay, $\\frac\\eta4 \\mathrm{Tr}[H \\Sigma (H + \\theta I)^{-1}]$.

    It grows with the square of the noise scale. Exact for the SDE; the chain has $2 / (2 - \\eta(\\lambda + \\theta))$ times as
    much in each coordinate.

    **Arguments, Returns, Raises:** those of [`stationary_loss_adamw`][].

    >>> stationary_loss_sgdw([1.0], [2.0], 1.0, 1.0).item()
    0.5
    """
    lam, sigma, eta, theta = _checked_limit(hessian, scale, learning_rate, weight_decay)
    return eta / 4 * jnp.sum(lam * sigma**2 / (lam + theta))


def _checked_rows(
    x0: ArrayLike, hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, ts: ArrayLike
) -> tuple[Array, Array, Array, Array, Array]:
    """As `_checked`, with the vectors as rows beside the column of times."""
    x0, lam, sigma, eta, t = _checked(x0, hessian, scale, learning_rate, ts)
    return x0[None], lam[None], sigma[None] if sigma.ndim else sigma, eta, t


def _checked(
    x0: ArrayLike, hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, ts: ArrayLike
) -> tuple[Array, Array, Array, Array, Array]:
    """The arguments of a law along the way, with times as a column."""
    lam, sigma, eta, _ = _checked_limit(hessian, scale, learning_rate, 0.0)
    _checks.number("hessian", lam, low=0.0)
    _checks.number("x0", x0)
    _checks.number("ts", ts, low=0.0, closed="low")
    x0, ts = (jnp.asarray(_checks.whole_as_float(a)) for a in (x0, ts))
    if x0.shape != lam.shape:
        raise ValueError(f"x0 must have shape {lam.shape} like hessian, got {x0.shape}")
    if ts.ndim != 1:
        raise ValueError(f"ts must be a vector of times, got shape {ts.shape}")
    return x0, lam, sigma, eta, ts[:, None]


def _checked_limit(
    hessian: ArrayLike, scale: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    _checks.number("hessian", hessian, low=0.0, closed="low")
    _checks.number("scale", scale, low=0.0)
    _checks.scalar("learning_rate", learning_rate, low=0.0)
    lam, sigma, eta = (jnp.asarray(_checks.whole_as_float(a)) for a in (hessian, scale, learning_rate))
    if lam.ndim != 1:
        raise ValueError(f"hessian must be a vector, the diagonal of the Hessian, got shape {lam.shape}")
    if sigma.shape not in ((), lam.shape):
        raise ValueError(f"scale must be a number or have shape {lam.shape} like hessian, got {sigma.shape}")
    return lam, sigma, eta, _checked_decay(weight_decay)


def _checked_decay(weight_decay: ArrayLike) -> Array:
    _checks.scalar("weight_decay", weight_decay, low=0.0, closed="low")
    return jnp.asarray(_checks.whole_as_float(weight_decay))
