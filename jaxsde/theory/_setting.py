"""What the closed forms need to know of an optimizer and a problem, with the assumptions checked."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._linalg import einsum, matmul
from .._tree import cast
from .._typing import ArrayLike
from ..optimizers import AbstractOptimizer
from ..problems import AbstractScaleFamily, Gaussian, LinearRegression, Problem, Quadratic


class Setting(NamedTuple):
    """A quadratic loss with constant noise, and a constant learning rate."""

    hessian: Float[Array, " d"] | Float[Array, "d d"]
    minimum: Float[Array, " d"]
    noise: Float[Array, " d"] | Float[Array, "d d"]
    """The covariance of the gradient noise, a vector where both it and the Hessian are diagonal."""
    scale: Float[Array, " d"]
    """The noise's scale per coordinate: the standard deviation of Gaussian noise."""
    slope: Float[Array, ""]
    """The derivative at 0 of u -> E sign(u + Z / scale)."""
    rate: Float[Array, ""]
    """The learning rate."""
    law: Gaussian | AbstractScaleFamily
    """The noise, in the precision of the rest."""

    @property
    def diagonal(self) -> bool:
        """Whether coordinates decouple."""
        return self.hessian.ndim == 1

    @property
    def dense_hessian(self) -> Float[Array, "d d"]:
        """The Hessian as a matrix."""
        return jnp.diag(self.hessian) if self.diagonal else self.hessian

    @property
    def systems(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hessian, noise and minimum of the independent systems, stacked, in NumPy's float64: one for each coordinate where
        coordinates decouple, else one in all."""
        hessian, noise, minimum = (np.asarray(a, float) for a in (self.hessian, self.noise, self.minimum))
        if self.diagonal:
            return hessian[:, None, None], noise[:, None, None], minimum[:, None]
        return hessian[None], noise[None], minimum[None]

    def loss(self, mean: Float[Array, "*n d"], covariance: Float[Array, "*n d d"]) -> Float[Array, "*n"]:
        """The expected loss above its minimum under a law with these moments."""
        offset = mean - jnp.broadcast_to(self.minimum, mean.shape)
        second = covariance + offset[..., :, None] * offset[..., None, :]
        return 0.5 * einsum("ij,...ij->...", self.dense_hessian, second)


def setting(optimizer: AbstractOptimizer, problem: Problem, *, needs_variance: bool) -> Setting:
    """The quadratic setting; raises `ValueError` that says which assumption of the closed forms fails."""
    if optimizer.reference_rate is not None:
        raise ValueError("the closed forms hold for a constant learning rate, not for a schedule")
    return setting_at_reference(optimizer, problem, needs_variance=needs_variance)


def setting_at_reference(optimizer: AbstractOptimizer, problem: Problem, *, needs_variance: bool) -> Setting:
    """The setting at the optimizer's constant learning rate, or at the reference rate of its schedule."""
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    loss, noise = problem.loss, problem.noise
    # By exact type: a subclass may be another function.
    if type(loss) is LinearRegression:
        loss = _regression_as_quadratic(cast(loss, _wide(loss.features)))
    if type(loss) is not Quadratic:
        raise ValueError(
            f"the closed forms hold for jaxsde.Quadratic losses, got a {type(loss).__name__}; jaxsde.linearise needs none"
        )
    if not (type(noise) is Gaussian or isinstance(noise, AbstractScaleFamily)):
        raise ValueError(f"the closed forms hold for noise of constant law, got {type(noise).__name__}")
    # Numbers of low precision are taken as they are; the arithmetic is not done in it.
    dtype = _wide(loss.hessian)
    problem, loss, noise = cast((problem, loss, noise), dtype)
    hessian = loss.hessian
    d = hessian.shape[0]
    x = jnp.zeros(d, hessian.dtype)
    problem.validate(x)
    diagonal = hessian.ndim == 1 and noise.independent
    if not diagonal and hessian.ndim == 1:
        hessian = jnp.diag(hessian)
    if needs_variance and not noise.has_variance:
        raise ValueError(
            f"the closed forms of {type(optimizer).__name__} need noise of finite variance, which {type(noise).__name__} "
            "noise has not with these parameters. SignSGD's hold for any tails"
        )
    if isinstance(noise, AbstractScaleFamily):
        scale = jnp.broadcast_to(noise.scale, (d,)).astype(x.dtype)
    else:
        scale = jnp.sqrt(noise.variance(x))
    slope = noise.slope.astype(x.dtype)
    covariance = noise.variance(x) if diagonal else noise.covariance(x)
    minimum = jnp.broadcast_to(0.0 if loss.minimum is None else loss.minimum, (d,)).astype(x.dtype)
    return Setting(hessian, minimum, covariance.astype(x.dtype), scale, slope, optimizer.rate.astype(x.dtype), noise)


def as_start(x0: ArrayLike, s: Setting) -> Float[Array, " d"]:
    """`x0` as a vector of the setting."""
    _checks.number("x0", x0)
    x0 = jnp.asarray(_checks.whole_as_float(x0), s.hessian.dtype)
    if x0.shape != s.minimum.shape:
        raise ValueError(f"x0 must have shape {s.minimum.shape} like the Hessian, got {x0.shape}")
    return x0


def as_times(ts: ArrayLike, s: Setting) -> Float[Array, " n"]:
    """`ts` as a vector of times, in any order."""
    _checks.number("ts", ts, low=0.0, closed="low")
    ts = jnp.asarray(_checks.whole_as_float(ts), s.hessian.dtype)
    if ts.ndim != 1:
        raise ValueError(f"ts must be a vector of times, got shape {ts.shape}")
    return ts


def _wide(array: Array) -> Any:
    """The dtype of the closed forms: the array's own, if that is not below single precision."""
    return array.dtype if jnp.finfo(array.dtype).bits >= 32 else jnp.float32


def _regression_as_quadratic(loss: LinearRegression) -> Quadratic:
    count = loss.features.shape[0]
    hessian = matmul(loss.features.T, loss.features) / count
    return Quadratic((hessian + hessian.T) / 2, jnp.linalg.lstsq(loss.features, loss.targets)[0])
