"""SignSGD's three phases: boundaries, constants, and the dynamics in each (Lemma 3.4)."""

import functools
from math import erf
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _checks
from ..optimizers import SignSGD
from ..problems import AbstractScaleFamily, Gaussian, Problem
from ..processes import SDE, Instant

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


def phase_sde(opt: SignSGD, problem: Problem, phase: int) -> SDE:
    """SignSGD's SDE as Lemma 3.4 idealises it in Phase 1 or 3.

    - Phase 1: $dX = -\\mathrm{sign}(\\nabla f)\\,dt$, no noise; off by at most $1 - \\mathrm{erf}(3/2) = 0.034$ there.
    - Phase 3: $dX = -\\sqrt{2/\\pi}\\,\\Sigma^{-1/2} \\nabla f\\,dt + \\sqrt\\eta \\sqrt{1 - \\frac2\\pi (\\Sigma^{-1/2}
      \\nabla f)^2}\\,dW$, a linearisation at 0: at the phase's edge the drift is 34 % too large, and beyond $|Y| =
      \\sqrt\\pi / 2$, still inside the phase, the term under the root is negative; it is taken as 0 there. For noise of
      another law, $\\Sigma^{1/2}$ is its scale, and the slope of its mean sign at 0 replaces $\\sqrt{2/\\pi}$.

    Phase 2 has bounds for its drift only, [`phase_2_drift_bounds`][].

    **Arguments:** `opt`; `problem` with noise of constant law and independent coordinates; `phase`: 1 or 3.

    **Returns:** an `SDE`, in the clock $t = k \\eta$.

    **Raises:** `ValueError` for another phase, another optimizer, or other noise.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> round(phase_sde(js.SignSGD(0.1), problem, 3).drift(0.0, jnp.array([0.1])).item(), 4)
    -0.0798
    """
    if type(opt) is not SignSGD:
        raise ValueError(f"the phases are those of SignSGD, got {type(opt).__name__}")
    if phase not in (1, 3):
        raise ValueError(f"phase must be 1 or 3: Phase 2 has bounds of its drift only; got {phase!r}")
    noise = problem.noise
    if not (noise.independent and (type(noise) is Gaussian or isinstance(noise, AbstractScaleFamily))):
        raise ValueError(f"phase_sde needs noise of constant law with independent coordinates, got {type(noise).__name__}")
    scale = noise.scale if phase == 3 else 1.0
    if _checks.is_concrete(scale) and not all(np.all(np.asarray(leaf) > 0) for leaf in jax.tree.leaves(scale)):
        raise ValueError(f"Phase 3 linearises the mean sign and needs noise in every coordinate, got the scale {scale}")
    statistics, coefficients = (problem.gradient, _signed) if phase == 1 else (eqx.Partial(_linearised, problem), _linear)
    return eqx.tree_at(
        lambda sde: (sde.statistics, sde.coefficients), opt.sde(problem), (statistics, eqx.Partial(coefficients, opt))
    )


def _signed(opt: SignSGD, now: Instant, x: PyTree, gradient: PyTree) -> tuple[PyTree, None]:
    rate = opt.relative_rate(now.step)
    return jax.tree.map(lambda g: -rate * jnp.sign(g), gradient), None


def _linear(opt: SignSGD, now: Instant, x: PyTree, mean_sign: PyTree) -> tuple[PyTree, Any]:
    rate = opt.relative_rate(now.step)
    return jax.tree.map(lambda s: -rate * s, mean_sign), eqx.Partial(_diffusion, rate * jnp.sqrt(opt.rate), mean_sign)


def _diffusion(scale: Array, mean_sign: PyTree, dw: PyTree) -> PyTree:
    return jax.tree.map(lambda s, z: -scale * jnp.sqrt(jnp.maximum(1 - s * s, 0)) * z, mean_sign, dw)


def _linearised(problem: Problem, x: PyTree) -> PyTree:
    """The mean sign, linear in the gradient as it is at 0."""
    noise: Any = problem.noise

    def over(scale: Array, gradient: PyTree) -> PyTree:
        return jax.tree.map(lambda g: (noise.slope / scale).astype(g.dtype) * g, gradient)

    # One scale may stand for the whole gradient.
    return jax.tree.map(over, noise.scale, problem.gradient(x))


def _normalised(problem: Problem, x: PyTree) -> PyTree:
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    if type(problem.noise) is not Gaussian:
        raise ValueError(f"the phases are those of Gaussian noise, got {type(problem.noise).__name__}")
    # Without noise signal dominates, unless there is none either.
    ratio = lambda g, v: jnp.where(g == 0, g, g / jnp.sqrt(2 * v))
    return jax.tree.map(ratio, problem.gradient(x), problem.noise.variance(x))
