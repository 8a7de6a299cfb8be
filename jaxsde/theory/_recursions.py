"""The optimizers' own linear recursions on quadratics, in float64 on the host, and how far their learning rates may go."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import _checks
from ..optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ._linear import LinearRecursion
from ._setting import Setting


def check_rate(opt: AbstractOptimizer, s: Setting, independent: bool) -> None:
    """Raises `ValueError` where one step of the optimizer itself enlarges what its SDE contracts: past that learning rate
    the optimizer diverges, and the SDE's moments no longer describe it.

    For SGD that is where $\\eta\\lambda \\ge 2$. SignSGD never diverges. But where its steps are longer than the noise is
    wide, $\\eta \\ell \\lambda \\ge \\sigma$, the second moment of the linearised chain is negative or infinite.
    """
    if not _checks.is_concrete(opt, s):
        return
    if isinstance(opt, SignSGD):
        matrix = 2 * sign_sgd_recursion(s, independent)[0].matrix
        matrix = matrix - np.eye(matrix.shape[-1])
    else:
        matrix = recursion(opt, s).matrix
    sizes = np.linalg.eigvals(matrix)
    # Real multipliers from 1 on belong to flat or unstable directions, which the SDE shares. Only negative or complex ones
    # mean that the step is too long.
    past = sizes[(np.abs(sizes) >= 1 - 1e-9) & ~((np.abs(sizes.imag) < 1e-9) & (sizes.real > 0))]
    if past.size:
        size = np.abs(past).max()
        what = "the noise must be wider than a step"
        if not isinstance(opt, SignSGD):
            what = f"one step multiplies a direction by {size:.4g} in size: the optimizer diverges while its SDE does not"
        raise ValueError(
            f"learning_rate {float(s.rate):.4g} is past the limit of {type(opt).__name__} on this quadratic: {what}"
        )


def recursion(opt: AbstractOptimizer, s: Setting) -> LinearRecursion:
    """One step of the parameters (of the parameters and the mean gradient, for Adam, its bias correction settled)."""
    if isinstance(opt, (Adam, AdamW)):
        return averaging(opt, s).then(moving(opt, s, 1.0))
    hessian, noise, minimum = systems(s)
    eta, identity = float(s.rate), np.eye(minimum.shape[-1])
    pull = np.einsum("...ij,...j->...i", hessian, minimum)
    if isinstance(opt, SGD):
        return LinearRecursion(identity - eta * hessian, eta * pull, eta**2 * noise)
    if not isinstance(opt, (RMSprop, RMSpropW)):
        raise ValueError(f"there are no closed forms for {type(opt).__name__}")
    gain, kept = _gain_and_kept(opt, s)
    return LinearRecursion(kept - gain @ hessian, np.einsum("...ij,...j->...i", gain, pull), gain @ noise @ gain)


def systems(s: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hessian, noise and minimum of the independent systems, stacked: one per coordinate where coordinates decouple."""
    hessian, noise, minimum = (np.asarray(a, float) for a in (s.hessian, s.noise, s.minimum))
    if s.diagonal:
        return hessian[:, None, None], noise[:, None, None], minimum[:, None]
    return hessian[None], noise[None], minimum[None]


def _gain_and_kept(opt: RMSprop | RMSpropW | Adam | AdamW, s: Setting) -> tuple[np.ndarray, np.ndarray]:
    """What one step takes from the mean gradient, $\\eta P^{-1}$, and what it keeps of the parameters, $1 - \\eta\\theta$."""
    noise, eta = systems(s)[1], float(s.rate)
    identity = np.broadcast_to(np.eye(noise.shape[-1]), noise.shape)
    deviation = np.sqrt(np.diagonal(noise, axis1=-2, axis2=-1))
    decay = float(opt.weight_decay) if isinstance(opt, (RMSpropW, AdamW)) else 0.0
    return eta / (deviation + float(opt.eps))[..., None] * identity, (1 - eta * decay) * identity


def averaging(opt: Adam | AdamW, s: Setting) -> LinearRecursion:
    """The first half of Adam's step: a new stochastic gradient enters the mean."""
    hessian, noise, minimum = systems(s)
    b1, nothing = float(opt.b1), np.zeros_like(hessian)
    identity = nothing + np.eye(minimum.shape[-1])
    pull = np.einsum("...ij,...j->...i", hessian, minimum)
    return LinearRecursion(
        np.block([[identity, nothing], [(1 - b1) * hessian, b1 * identity]]),
        np.concatenate([np.zeros_like(pull), -(1 - b1) * pull], axis=-1),
        np.block([[nothing, nothing], [nothing, (1 - b1) ** 2 * noise]]),
    )


def moving(opt: Adam | AdamW, s: Setting, correction: float) -> LinearRecursion:
    """The second half of Adam's step: the mean gradient, multiplied by the bias `correction`, moves the parameters."""
    gain, kept = _gain_and_kept(opt, s)
    nothing = np.zeros_like(gain)
    matrix = np.block([[kept, -correction * gain], [nothing, nothing + np.eye(gain.shape[-1])]])
    return LinearRecursion(matrix, np.zeros(matrix.shape[:-1]), np.zeros_like(matrix))


def sign_sgd_recursion(s: Setting, independent: bool) -> tuple[LinearRecursion, np.ndarray, np.ndarray]:
    """One step of the linearised signs with their covariance at the minimum; the drift A and the minimum, by systems."""
    drift, minimum = np.asarray(sign_drift(s), float), systems(s)[2]
    if s.diagonal:
        drift, signs = drift[:, None, None], np.ones((len(drift), 1, 1))
    else:
        drift, signs = drift[None], np.asarray(sign_covariance(s, independent), float)[None]
    eta, identity = float(s.rate), np.eye(minimum.shape[-1])
    pull = eta * np.einsum("...ij,...j->...i", drift, minimum)
    return LinearRecursion(identity - eta * drift, pull, eta**2 * signs), drift, minimum


def sign_drift(s: Setting) -> Array:
    """$A = \\ell D^{-1} H$ of the mean sign, linearised: a vector where coordinates decouple, else a matrix."""
    if _checks.is_concrete(s.scale) and not np.all(np.asarray(s.scale) > 0):
        raise ValueError(f"SignSGD's closed forms linearise the mean sign and need noise in every coordinate, got {s.scale}")
    gain = s.slope / s.scale
    return gain * s.hessian if s.diagonal else gain[:, None] * s.hessian


def sign_covariance(s: Setting, independent: bool) -> Array:
    """The covariance of the signs at the minimum, as a matrix: $\\frac2\\pi \\arcsin$ of the noise's correlations."""
    if independent:
        return jnp.eye(s.minimum.shape[0], dtype=s.minimum.dtype)
    correlation = s.noise / jnp.outer(s.scale, s.scale)
    covariance = (2 / np.pi) * jnp.arcsin(jnp.clip(correlation, -1, 1))
    # The slope of arcsin is infinite at 1, where rounding would grow to its root.
    return jnp.fill_diagonal(covariance, 1.0, inplace=False)
