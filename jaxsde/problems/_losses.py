"""Losses: callables from a pytree of parameters to a scalar. Any such callable will do; these are the common ones."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._linalg import matmul, vdot
from .._typing import ArrayLike
from ._numbers import real


@jax.custom_jvp
def _quadratic_form(hessian: Array, offset: Array) -> Array:
    """Half of offset' hessian offset, for a symmetric matrix or a diagonal given as a vector."""
    return 0.5 * vdot(offset, _apply(hessian, offset))


@_quadratic_form.defjvp
def _quadratic_form_jvp(primals: Any, tangents: Any) -> Any:
    # Symmetry known: the gradient is one product with the Hessian, where differentiating the product would take two.
    (hessian, offset), (d_hessian, d_offset) = primals, tangents
    value = _quadratic_form(hessian, offset)
    return value, vdot(d_offset, _apply(hessian, offset)) + 0.5 * vdot(offset, _apply(d_hessian, offset))


def _apply(hessian: Array, offset: Array) -> Array:
    return hessian * offset if hessian.ndim == 1 else matmul(hessian, offset)


def _real_or_none(minimum: Any) -> Array | None:
    return None if minimum is None else real("minimum", minimum)


class Quadratic(eqx.Module):
    """The quadratic loss $f(x) = \\frac12 (x - x_*)^\\top H (x - x_*)$.

    **Arguments:**

    - `hessian`: $H$, a symmetric matrix of shape `(d, d)`, or a vector of shape `(d,)` for a diagonal one.
    - `minimum`: $x_*$, a number or an array of shape `(d,)`; by default the origin.

    **Raises:** `ValueError` where the Hessian is not symmetric, the shapes don't fit, or a number is not finite; `TypeError`
    for anything but real numbers.

    >>> Quadratic(jnp.array([1.0, 2.0]))(jnp.array([1.0, 1.0])).item()
    1.5
    """

    hessian: Float[Array, " d"] | Float[Array, "d d"] = eqx.field(converter=functools.partial(real, "hessian"))
    minimum: Float[Array, "..."] | None = eqx.field(converter=_real_or_none, default=None)

    def __check_init__(self):
        shape = self.hessian.shape
        if not (len(shape) == 1 or (len(shape) == 2 and shape[0] == shape[1])) or 0 in shape:
            raise ValueError(f"hessian must be a vector (d,) or a matrix (d, d), got shape {shape}")
        if self.minimum is not None and self.minimum.shape not in ((), shape[:1]):
            raise ValueError(f"minimum must be a number or have shape {shape[:1]}, got shape {self.minimum.shape}")
        if _checks.is_concrete(self.hessian):
            entries = np.asarray(self.hessian)
            if entries.ndim == 2 and not np.allclose(entries, entries.T, rtol=1e-5, atol=1e-6 * np.abs(entries).max()):
                raise ValueError(f"hessian must be symmetric, got {entries}")

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        if _shape(x) != self.hessian.shape[:1]:
            raise ValueError(f"a Quadratic of {self.hessian.shape[0]} coordinates got x of shape {_shape(x)}")
        # In a loop over steps the compiler can't know that a minimum that is data is 0.
        offset = x if self.minimum is None else x - self.minimum.astype(x.dtype)
        return _quadratic_form(self.hessian.astype(x.dtype), offset)


class EmbeddedSaddle(eqx.Module):
    """A saddle at the origin with minima beside it:
    $f(x) = \\frac12 x^\\top \\mathrm{diag}(h) x + \\frac\\lambda4 \\sum_i x_i^4 - \\frac\\xi3 \\sum_i x_i^3$.

    **Arguments:**

    - `hessian`: $h$, the curvatures at the origin, shape `(d,)`; by default (-1, 2).
    - `quartic`: $\\lambda > 0$.
    - `cubic`: $\\xi$, which makes one of the minima the deeper one.

    **Raises:** `ValueError` for numbers out of range, or shapes that don't fit; `TypeError` for anything but real numbers.

    >>> EmbeddedSaddle()(jnp.zeros(2)).item()
    0.0
    """

    hessian: Float[Array, " d"] = eqx.field(converter=functools.partial(real, "hessian"), default=(-1.0, 2.0))
    quartic: Float[Array, ""] = eqx.field(converter=functools.partial(real, "quartic"), default=1.0)
    cubic: Float[Array, ""] = eqx.field(converter=functools.partial(real, "cubic"), default=0.1)

    def __check_init__(self):
        if self.hessian.ndim != 1 or not self.hessian.size:
            raise ValueError(f"hessian must be a vector of curvatures, got shape {self.hessian.shape}")
        for name, value in (("quartic", self.quartic), ("cubic", self.cubic)):
            if value.shape not in ((), self.hessian.shape):
                raise ValueError(f"{name} must be a number, got shape {value.shape}")
        _checks.number("quartic", self.quartic, low=0.0)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        if _shape(x) != self.hessian.shape:
            raise ValueError(f"an EmbeddedSaddle of {self.hessian.shape[0]} coordinates got x of shape {_shape(x)}")
        square = x * x
        terms = 0.5 * self.hessian * square + (0.25 * self.quartic * x - self.cubic / 3) * square * x
        return jnp.sum(terms)


class LinearRegression(eqx.Module):
    """Half the mean squared error of a linear model, $f(w) = \\frac1{2N} \\sum_n (a_n^\\top w - b_n)^2$.

    **Arguments:** `features`, shape `(N, d)`; `targets`, shape `(N,)`.

    **Raises:** `ValueError` for shapes that don't fit, or numbers that are not finite; `TypeError` for anything but real
    numbers.

    >>> LinearRegression(jnp.eye(2), jnp.ones(2))(jnp.zeros(2)).item()
    0.5
    """

    features: Float[Array, "N d"] = eqx.field(converter=functools.partial(real, "features"))
    targets: Float[Array, " N"] = eqx.field(converter=functools.partial(real, "targets"))

    def __check_init__(self):
        _check_rows(self.features, self.targets, "targets")

    def __call__(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        _check_weights(self, w)
        return 0.5 * jnp.mean((matmul(self.features, w) - self.targets) ** 2)


class LogisticRegression(eqx.Module):
    """Logistic regression with a ridge, $f(w) = \\frac1N \\sum_n \\log(1 + e^{-s_n a_n^\\top w}) + \\frac{r}{2} \\|w\\|^2$,
    $s_n = \\pm 1$.

    **Arguments:**

    - `features`: shape `(N, d)`.
    - `labels`: shape `(N,)`, zeros and ones (or booleans).
    - `ridge`: $r \\ge 0$; positive, it makes the loss strongly convex.

    **Raises:** `ValueError` for shapes that don't fit, other labels, a negative ridge, or numbers that are not finite;
    `TypeError` for anything but real numbers.

    >>> round(LogisticRegression(jnp.eye(2), jnp.array([0, 1]))(jnp.zeros(2)).item(), 4)
    0.6931
    """

    features: Float[Array, "N d"]
    labels: Float[Array, " N"]
    ridge: Float[Array, ""]

    def __init__(self, features: ArrayLike, labels: ArrayLike, ridge: ArrayLike = 0.0):
        self.features = real("features", features)
        self.labels = real("labels", labels, finite=False).astype(self.features.dtype)
        self.ridge = real("ridge", ridge)

    def __check_init__(self):
        _check_rows(self.features, self.labels, "labels")
        _checks.number("ridge", self.ridge, low=0.0, closed="low")
        if self.ridge.ndim:
            raise ValueError(f"ridge must be one number, got shape {self.ridge.shape}")
        if _checks.is_concrete(self.labels) and not set(np.unique(np.asarray(self.labels))) <= {0.0, 1.0}:
            raise ValueError(f"labels must be 0 or 1, got values {np.unique(np.asarray(self.labels))[:5]}")

    def __call__(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        _check_weights(self, w)
        margins = (2 * self.labels - 1) * matmul(self.features, w)
        return jnp.mean(jax.nn.softplus(-margins)) + 0.5 * self.ridge * jnp.sum(w * w)


def _check_rows(features: Array, targets: Array, name: str) -> None:
    if features.ndim != 2 or 0 in features.shape or targets.shape != features.shape[:1]:
        raise ValueError(f"features must have shape (N, d) and {name} shape (N,), got {features.shape} and {targets.shape}")


def _check_weights(loss: LinearRegression | LogisticRegression, w: Array) -> None:
    count = loss.features.shape[1]
    if _shape(w) != (count,):
        raise ValueError(f"a {type(loss).__name__} on {count} features got w of shape {_shape(w)}")


def _shape(x: Any) -> Any:
    """An array's shape; of what is none, as a list, its type."""
    return getattr(x, "shape", type(x).__name__)
