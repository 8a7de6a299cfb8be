"""SignSGD's three phases: boundaries, constants, and bounds of the drift (Lemma 3.4)."""

import functools
from math import erf
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _checks
from ..problems import Gaussian, Problem

_INNER, _OUTER = 1.0, 1.5


class PhaseTwoConstants(NamedTuple):
    """The lines that enclose erf between 1 and 3/2: slope $m$, and the intercepts $q_1$ of the secant, $q_2$ of the tangent."""

    slope: float
    secant_intercept: float
    tangent_intercept: float
    tangent_point: float


@functools.cache
def phase_2_constants() -> PhaseTwoConstants:
    """The constants of Phase 2, from erf: its secant through 1 and 3/2, and the tangent of the same slope.

    erf is concave there, so $m y + q_1 \\le \\mathrm{erf}(y) \\le m y + q_2$ for $1 \\le y \\le 3/2$.

    >>> [round(c, 6) for c in phase_2_constants()]
    [0.246809, 0.595892, 0.614478, 1.232852]
    """
    slope = (erf(_OUTER) - erf(_INNER)) / (_OUTER - _INNER)
    # erf' = (2 / sqrt pi) exp(-y^2) equals the slope here.
    point = float(np.sqrt(-np.log(slope * np.sqrt(np.pi) / 2)))
    return PhaseTwoConstants(slope, erf(_INNER) - slope * _INNER, erf(point) - slope * point, point)


def phase(problem: Problem, x: PyTree) -> PyTree:
    """SignSGD's phase, coordinate by coordinate: with $Y = \\Sigma^{-1/2} \\nabla f / \\sqrt 2$, it is 1 where $|Y| > 3/2$, the
    signal dominates; 2 between 1 and 3/2; 3 below 1, where noise dominates (Lemma 3.4).

    SignSGD's SDE has models that idealise Phases 1 and 3, `"phase-1"` and `"phase-3"`.

    **Arguments:** `problem` with Gaussian noise; `x`: a pytree of parameters.

    **Returns:** whole numbers, shaped like `x`.

    **Raises:** `ValueError` for noise that is not Gaussian.

    >>> import jaxsde as js
    >>> phase(js.Problem(js.Quadratic([1.0, 1.0, 1.0]), js.Gaussian(1.0)), jnp.array([3.0, 1.8, -0.5])).tolist()
    [1, 2, 3]
    """

    def one(y: Array) -> Array:
        return jnp.where(jnp.abs(y) > _OUTER, 1, jnp.where(jnp.abs(y) > _INNER, 2, 3))

    return jax.tree.map(one, _normalised(problem, x))


def phase_2_drift_bounds(problem: Problem, x: PyTree, *, published: bool = False) -> tuple[PyTree, PyTree]:
    """Lower and upper bounds of the drift of SignSGD's SDE in Phase 2, $-mY - q^+ \\le b \\le -mY - q^-$ (Lemma 3.4).

    With $q^+ = q_2, q^- = q_1$ where the gradient is positive, and $-q_1, -q_2$ where it is negative. As published, some
    bounds take $\\hat q = \\max(q_1, q_2)$ in place of $q_1$, which the argument does not support.

    **Arguments:** `problem` with Gaussian noise; `x`: a pytree of parameters in Phase 2; `published`: whether both
    bounds are those with $\\hat q$.

    **Returns:** two pytrees shaped like `x`.

    **Raises:** `ValueError` for noise that is not Gaussian.

    >>> import jaxsde as js
    >>> low, high = phase_2_drift_bounds(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), jnp.array([1.8]))
    >>> [round(b.item(), 4) for b in (low, high)]
    [-0.9286, -0.91]
    """
    c = phase_2_constants()
    inner = c.tangent_intercept if published else c.secant_intercept

    def bound(positive: float, negative: float) -> PyTree:
        return jax.tree.map(lambda y: -c.slope * y - jnp.where(y > 0, positive, -negative), _normalised(problem, x))

    return bound(c.tangent_intercept, inner), bound(inner, c.tangent_intercept)


def _normalised(problem: Problem, x: PyTree) -> PyTree:
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    x = problem.validate(x)
    if type(problem.noise) is not Gaussian:
        raise ValueError(f"the phases are those of Gaussian noise, got {type(problem.noise).__name__}")
    # Without noise signal dominates, unless there is none either.
    ratio = lambda g, v: jnp.where(g == 0, g, g / jnp.sqrt(2 * v))
    return jax.tree.map(ratio, problem.gradient(x), problem.noise.variance(x))
