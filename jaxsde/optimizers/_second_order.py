"""SDEs of adaptive methods with the noise of squared gradients, and drifts of weak order 2 by differentiation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..problems import Gaussian, Problem
from ._base import gradient_whitening

# V has Gaussian noise here, which would take it where the optimizer's v, a mean of squares, does not go: below this share
# of the least that the mean of v can be some steps later, V is taken for that share. As the learning rate falls, V gets
# there ever more rarely, so that no order is lost.
_LEAST = 0.35
_LATER = 4  # below so many gradients v spreads about as widely as it is large, and no expansion in its noise holds

Drift = Callable[[Array, Any, PyTree], Any]


class SquareNoise(NamedTuple):
    """Two Brownian motions, each shaped like the parameters: the gradient's noise, and that of its square."""

    gradient: PyTree
    square: PyTree


def check_square_noise(problem: Problem, model: str) -> None:
    """Raises where the law of the squared gradient's noise is not known."""
    if not (type(problem.noise) is Gaussian and problem.noise.independent):
        raise ValueError(
            f"model={model!r} needs the fourth moments of the gradient noise, and is there for Gaussian noise with "
            f"independent coordinates; got {type(problem.noise).__name__} noise"
        )


def square_whitening(problem: Problem) -> Callable[[PyTree, PyTree], SquareNoise]:
    """The noise z of a stochastic gradient, and that of its square, (z^2 - 1) / sqrt 2: uncorrelated for Gaussian z."""
    return eqx.Partial(_whiten_square, gradient_whitening(problem))


def _whiten_square(standardised: Any, x: PyTree, gradient: PyTree) -> SquareNoise:
    z = standardised(x, gradient)
    return SquareNoise(z, jax.tree.map(lambda z: (z * z - 1) * np.sqrt(0.5).astype(z.dtype), z))


def corrected(
    eta: Array, gradient: Callable[[PyTree], PyTree], b0: Drift, extra: Callable[[Any, PyTree, Any], Any], t: Array, y: Any
) -> tuple[Any, PyTree]:
    """The drift $b_0 + \\eta\\,(c - \\frac12 (\\partial_t + b_0 \\cdot \\nabla) b_0)$ of weak order 2, and the gradient at y.x.

    A chain moves by $\\eta b_0 + \\eta^2 c + O(\\eta^3)$ on average; over a time $\\eta$ the flow of $b_0$ itself adds the
    term that is taken off. `b0(t, y, g)` takes the gradient as a number, so that it is evaluated once, and multiplied once
    by its Hessian. `extra` gives $c$ from $b_0$, the gradient, and a function that differentiates $b_0$ along a direction with
    x at rest. The covariance of the noise counts as constant along the flow: where it depends on the parameters, terms of order
    $\\eta$ with its derivative are left out.
    """
    g, turned = jax.linearize(gradient, y.x)

    def along(direction: Any, turn: PyTree) -> Any:
        return jax.jvp(b0, (t, y, g), (jnp.ones_like(t), direction, turn))[1]

    drift = b0(t, y, g)
    flow, rest = along(drift, turned(drift.x)), jax.tree.map(jnp.zeros_like, g)
    added = extra(drift, g, lambda direction: along(direction, rest))
    return jax.tree.map(lambda b, c, d: b + eta * (c - 0.5 * d), drift, added, flow), g


def floor_second_moment(v: PyTree, b: Array, steps: Array, initial: Array | float, variance: PyTree) -> PyTree:
    """`v`, kept from falling to zero and below: the mean of an average of squared gradients, that many `steps` after it was
    `initial`, is at least that of squared noise alone."""
    seen = debias(b, steps + _LATER)

    def one(v: Array, s: Array) -> Array:
        # Without noise and gradient V stays at zero: as good as zero, but with a derivative of its root.
        least = _LEAST * ((1 - seen) * initial + seen * s)
        return jnp.maximum(v, jnp.maximum(least, jnp.sqrt(jnp.finfo(v.dtype).tiny)))

    return jax.tree.map(one, v, variance)


def debias(b: Array, steps: Array) -> Array:
    """1 - b^steps, the share of what an average has seen, by which a bias correction divides."""
    return -jnp.expm1(steps * jnp.log(jnp.maximum(b, jnp.finfo(b.dtype).tiny)))  # b = 0 too has a derivative


def square_noise(eta: Array, rho: Array, gradient: PyTree, std: PyTree, dw: SquareNoise) -> PyTree:
    """What the noise of the squared gradient, $2 g \\sigma z + \\sigma^2 (z^2 - 1)$, adds to $dV$."""

    def one(g: Array, s: Array, z: Array, u: Array) -> Array:
        return jnp.sqrt(eta) * rho * (2 * g * s * z + jnp.sqrt(2.0).astype(s.dtype) * s * s * u)

    return jax.tree.map(one, gradient, std, dw.gradient, dw.square)


def both_noises(y: Any) -> SquareNoise:
    """A pytree shaped like the noise, from an SDE's state."""
    return SquareNoise(y.x, y.x)
