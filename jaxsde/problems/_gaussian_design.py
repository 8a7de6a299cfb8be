"""Linear regression on fresh Gaussian features, whose gradient noise and signs have closed forms."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks
from .._linalg import matmul, vdot
from .._typing import ArrayLike
from ._gaussian import _checked_factor
from ._losses import Quadratic
from ._noise import AbstractNoise
from ._numbers import real
from ._problem import Problem
from ._scale import safe_divide
from ._sign_law import AbstractSignLaw, Signs

_MOST = 2**31 - 1


class GaussianDesign(AbstractNoise, AbstractSignLaw):
    """The gradient noise of one-pass linear regression: the mean of $a\\,(a^\\top r - \\epsilon)$ over B fresh examples with
    features $a \\sim N(0, K)$, label noise $\\epsilon \\sim N(0, v^2)$ and $r = x - x_*$, minus its mean $K r$.

    Its covariance is $\\frac1B (K r r^\\top K + (r^\\top K r + v^2) K)$ (Isserlis' theorem). For batches of one example
    the signs have a law, too: $\\mathrm{sign}(a_i)\\,\\mathrm{sign}(a^\\top r - \\epsilon)$ has the mean
    $s_i = \\frac2\\pi \\arcsin \\frac{(K r)_i}{\\sqrt{K_{ii} (r^\\top K r + v^2)}}$ and the covariance
    $\\frac2\\pi \\arcsin \\bar K - s s^\\top$ with the correlations $\\bar K$ of the features (derived here): so that
    SignSGD's SDE is exact in the moments of one step, and in high dimension that of xiao2024, where
    $\\arcsin$ is linear in the means and $s s^\\top$ negligible.

    **Arguments:** those of [`one_pass_regression`][], which makes the problem.

    >>> noise = GaussianDesign(jnp.eye(2), jnp.zeros(2), label_noise=2.0)
    >>> noise.covariance(jnp.zeros(2)).tolist()
    [[4.0, 0.0], [0.0, 4.0]]
    """

    features: Float[Array, "d d"]
    """K, the covariance of the features."""
    minimum: Float[Array, " d"]
    label_noise: Float[Array, ""]
    batch_size: int = eqx.field(static=True)
    _factor: Float[Array, "d d"]
    _sign_root: Float[Array, "d d"]
    _sign_inverse: Float[Array, "d d"]

    def __init__(self, covariance: ArrayLike, minimum: ArrayLike, label_noise: ArrayLike, batch_size: int = 1):
        self.features, self._factor, _ = _checked_factor(real("covariance", covariance))
        d = self.features.shape[0]
        minimum = real("minimum", minimum)
        if minimum.shape not in ((), (d,)):
            raise ValueError(
                f"minimum must be a number or have shape ({d},), as the covariance says, got shape {minimum.shape}"
            )
        self.minimum = jnp.broadcast_to(minimum, (d,))
        _checks.scalar("label_noise", label_noise, low=0.0, closed="low")
        self.label_noise = real("label_noise", label_noise)
        self.batch_size = _checks.count("batch_size", batch_size, most=_MOST)
        std = jnp.sqrt(jnp.diagonal(self.features))
        if _checks.is_concrete(std) and not np.all(np.asarray(std) > 0):
            raise ValueError(f"covariance must have a positive diagonal, got {np.diagonal(np.asarray(self.features))}")
        correlation = jnp.clip(self.features / std[:, None] / std[None], -1, 1)
        signs = jnp.where(jnp.eye(d, dtype=bool), 1, 2 / np.pi * jnp.arcsin(correlation))
        _, self._sign_root, self._sign_inverse = _checked_factor(signs)

    def validate(self, params: PyTree) -> None:
        if not (isinstance(params, jax.Array) and params.shape == self.minimum.shape):
            raise ValueError(f"the parameters of this regression are one vector of shape {self.minimum.shape}, got {params!r}")

    def sample(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        gradient = self.stochastic_gradient(None, params, key)
        return gradient - matmul(self.features.astype(params.dtype), self._offset(params))

    def stochastic_gradient(self, loss: Callable[[PyTree], Array] | None, params: PyTree, key: PRNGKeyArray) -> PyTree:
        del loss
        one, other = jax.random.split(key)
        a = jax.random.normal(one, (self.batch_size, params.size), params.dtype)
        a = matmul(a, self._factor.astype(params.dtype))
        epsilon = self.label_noise.astype(params.dtype) * jax.random.normal(other, (self.batch_size,), params.dtype)
        return matmul(matmul(a, self._offset(params)) - epsilon, a) / self.batch_size

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        u = matmul(self._factor.astype(params.dtype), self._offset(params))
        squared = vdot(u, u)
        level = jnp.sqrt(squared + self._label_variance(params))
        # The root of level^2 + u u' is level, but for sqrt(level^2 + |u|^2) along u.
        along = (jnp.sqrt(level**2 + squared) - level) / jnp.where(squared > 0, squared, 1)
        return eqx.Partial(_root, self._factor, u, level, along, float(1 / np.sqrt(self.batch_size)))

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        features, level = self.features.astype(params.dtype), self._residual_variance(params)
        gradient = matmul(features, self._offset(params))
        return (gradient[:, None] * gradient[None] + level * features) / self.batch_size

    def variance(self, params: PyTree) -> PyTree:
        features = self.features.astype(params.dtype)
        gradient = matmul(features, self._offset(params))
        return (gradient**2 + self._residual_variance(params) * jnp.diagonal(features)) / self.batch_size

    @property
    def independent_signs(self) -> bool:
        return False

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        self._check_signs()
        scale = jnp.sqrt(jnp.diagonal(self.features).astype(params.dtype) * self._residual_variance(params))
        return 2 / np.pi * jnp.arcsin(jnp.clip(safe_divide(gradient, scale), -1, 1))

    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        return jnp.where(self._residual_variance(params) > 0, jnp.ones_like(gradient), 0)

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        mean = self.mean_sign(gradient, params)
        root = self._sign_root.astype(params.dtype)
        second = matmul(root, root) * self.prob_nonzero(gradient, params)[None]
        return second - mean[:, None] * mean[None]

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        mean = self.mean_sign(gradient, params)
        # C - s s' = C^(1/2) (1 - w w') C^(1/2) with w = C^(-1/2) s: the root of 1 - w w' is 1, but sqrt(1 - |w|^2) along w.
        w = matmul(self._sign_inverse.astype(params.dtype), mean)
        squared = vdot(w, w)
        along = (jnp.sqrt(jnp.maximum(1 - squared, 0)) - 1) / jnp.where(squared > 0, squared, 1)
        level = self.prob_nonzero(gradient, params)[0]
        return Signs(mean, eqx.Partial(_root, self._sign_root, w, level, along, 1.0))

    def _offset(self, params: Array) -> Array:
        return params - self.minimum.astype(params.dtype)

    def _label_variance(self, params: Array) -> Array:
        return self.label_noise.astype(params.dtype) ** 2

    def _residual_variance(self, params: Array) -> Array:
        """$r^\\top K r + v^2$."""
        u = matmul(self._factor.astype(params.dtype), self._offset(params))
        return vdot(u, u) + self._label_variance(params)

    def _check_signs(self) -> None:
        if self.batch_size != 1:
            raise ValueError(f"the signs of a mean over {self.batch_size} examples have no closed form, only those of one")


def _root(factor: Array, u: Array, level: Array, along: Array, scale: float, dw: Array) -> Array:
    return matmul(factor.astype(dw.dtype), level * dw + along * vdot(u, dw) * u) * scale


def one_pass_regression(
    covariance: ArrayLike, minimum: ArrayLike = 0.0, *, label_noise: ArrayLike = 1.0, batch_size: int = 1
) -> Problem:
    """Linear regression on examples that are seen once: features $a \\sim N(0, K)$, labels $a^\\top x_* + \\epsilon$ with
    $\\epsilon \\sim N(0, v^2)$, and the squared error, halved.

    **Arguments:**

    - `covariance`: K, that of the features, a symmetric positive semi-definite matrix of shape `(d, d)` with a positive
      diagonal.
    - `minimum`: $x_*$, a number or an array of shape `(d,)`.
    - `label_noise`: $v \\ge 0$, a number.
    - `batch_size`: B, how many fresh examples a stochastic gradient is the mean over.

    **Returns:** a problem with the loss [`Quadratic`][], $\\frac12 (x - x_*)^\\top K (x - x_*)$, which is the expected loss
    minus $v^2 / 2$, and the noise [`GaussianDesign`][].

    **Raises:** `ValueError` or `TypeError` for arguments that are no such numbers.

    On K = 1, SGD of one example with the rate $\\eta / d$ has the stationary loss
    $\\frac{\\eta v^2}{2 (2 - \\eta (d + 2) / d)}$ exactly (derived here), and thus $\\frac{\\eta v^2}{2 (2 - \\eta)}$ in high
    dimension.

    >>> problem = one_pass_regression(jnp.eye(2), label_noise=0.0)
    >>> problem.loss(jnp.ones(2)).item(), problem.noise.variance(jnp.ones(2)).tolist()
    (1.0, [3.0, 3.0])
    """
    noise = GaussianDesign(covariance, minimum, label_noise, batch_size)
    return Problem(Quadratic(noise.features, minimum=noise.minimum), noise)
