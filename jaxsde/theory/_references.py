"""Stationary laws in one dimension without Monte Carlo, in float64: SignSGD's chain by detailed balance, SDEs by quadrature."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._double import in_double
from .._typing import ArrayLike
from ..optimizers import SignSGD, check_optimizer
from ..problems import Problem, sign_law
from ..processes import SDE, Instant

_NEGLIGIBLE = -40.0  # in logs below the maximum: a weight of 4e-18
_SEGMENTS = 4096
_OFFSETS = 32
_REACH = 1e6


class LatticeLaw(NamedTuple):
    """A stationary law on points of a line."""

    points: Float[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"]

    def expectation(self, g: Callable[[np.ndarray], np.ndarray]) -> float:
        """The mean of `g`, a function of arrays."""
        return float(np.sum(self.probabilities * g(self.points)))

    def cdf(self, x: ArrayLike) -> np.ndarray:
        """The probability of values up to `x`."""
        below = np.concatenate([[0.0], np.cumsum(self.probabilities)])
        return np.asarray(np.minimum(below[np.searchsorted(self.points, np.asarray(x, float), side="right")], 1.0))

    def quantile(self, q: ArrayLike) -> np.ndarray:
        """The first point up to which the probability is at least `q`, in [0, 1]."""
        _checks.number("q", q, low=0.0, high=1.0, closed="low high")
        places = np.searchsorted(np.cumsum(self.probabilities), np.asarray(q, float) * (1 - 1e-12))
        return np.asarray(self.points[np.minimum(places, self.points.size - 1)])

    @property
    def mean(self) -> float:
        """The mean of the law."""
        return self.expectation(lambda x: x)

    @property
    def variance(self) -> float:
        """The variance of the law."""
        mean = self.mean
        return self.expectation(lambda x: (x - mean) ** 2)


class Density(NamedTuple):
    """A stationary density on an even grid, which ends where it is negligible."""

    points: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]

    def expectation(self, g: Callable[[np.ndarray], np.ndarray]) -> float:
        """The mean of `g`, a function of arrays."""
        return float(np.sum(self.values * g(self.points)) * (self.points[1] - self.points[0]))

    @property
    def mean(self) -> float:
        """The mean of the law."""
        return self.expectation(lambda x: x)

    @property
    def variance(self) -> float:
        """The variance of the law."""
        mean = self.mean
        return self.expectation(lambda x: (x - mean) ** 2)

    def cdf(self, x: ArrayLike) -> np.ndarray:
        """The probability of values below `x`."""
        return np.asarray(np.interp(np.asarray(x, float), self.points, self._cumulative(), left=0.0, right=1.0))

    def quantile(self, q: ArrayLike) -> np.ndarray:
        """The value below which the probability is `q`, in [0, 1]."""
        _checks.number("q", q, low=0.0, high=1.0, closed="low high")
        return np.asarray(np.interp(np.asarray(q, float), self._cumulative(), self.points))

    def _cumulative(self) -> np.ndarray:
        steps = (self.values[1:] + self.values[:-1]) * np.diff(self.points) / 2
        below = np.concatenate([[0.0], np.cumsum(steps)])
        return below / below[-1]


def birth_death(opt: SignSGD, problem: Problem, offset: float | None = None) -> LatticeLaw:
    """The stationary law of SignSGD's chain in one dimension, exactly.

    The iterate walks the lattice of spacing $\\eta$ through its start, up with the probability $p(x) = P(g < 0 \\mid x)$ and
    down with the probability $q(x) = P(g > 0 \\mid x)$: a birth-death chain, whose law $\\pi$ obeys detailed balance,
    $\\pi(x + \\eta) / \\pi(x) = p(x) / q(x + \\eta)$.

    **Arguments:**

    - `opt`: a `SignSGD` with a constant learning rate.
    - `problem`: any loss and noise in one dimension, parameters of shape `(1,)` or `()`; the noise must have a density.
    - `offset`: a point of the lattice, in units of the parameters; by default the average over all lattices, as for a
      start that is spread over many steps. The chain visits every second point at even steps, the others at odd ones;
      the law is the mean of the two.

    **Returns:** a `LatticeLaw`: `.points`, `.probabilities`, `.mean`, `.variance`, `.expectation(g)`.

    **Raises:** `ValueError` for another optimizer, a schedule, a problem of more dimensions, or one whose
    chain has no stationary law.

    >>> import jaxsde as js
    >>> law = birth_death(js.SignSGD(0.1), js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))
    >>> round(law.variance, 5)
    0.06465
    """
    check_optimizer(opt)
    if type(opt) is not SignSGD:
        raise ValueError(f"opt must be a jaxsde.SignSGD, whose chain lives on a lattice, got {type(opt).__name__}")
    if opt.reference_rate is not None:
        raise ValueError("a stationary law needs a constant learning rate, not a schedule")
    eta = float(opt.rate)
    moves = _on_grid(_prob_moves, problem, _like(problem))
    left, right = _resting_points(lambda x: np.subtract(*moves(x)))
    if offset is None:
        offsets = (np.arange(_OFFSETS) + 0.5) / _OFFSETS * eta
    else:
        _checks.scalar("offset", offset)
        offsets = np.array([float(offset)])
    first, last = np.round((left - offsets) / eta), np.round((right - offsets) / eta)
    reach, width = 64, int((last - first).max())
    while True:
        points = offsets[:, None] + eta * (first[:, None] + np.arange(-reach, width + reach + 1))
        up, down = (probability.reshape(points.shape) for probability in moves(points.ravel()))
        log = np.stack([_outward(ratios, reach) for ratios in _log_ratios(up, down)])
        log -= log.max(axis=1, keepdims=True)
        if log[:, 0].max() < _NEGLIGIBLE and log[:, -1].max() < _NEGLIGIBLE:
            break
        if points.size > 2**24:
            raise ValueError(f"the chain spreads over more than {points.size} points of its lattice, learning_rate {eta:.4g}")
        reach *= 2
    weights = np.exp(log)
    weights /= weights.sum(axis=1, keepdims=True) * len(offsets)
    order = np.argsort(points, axis=None)
    return LatticeLaw(points.ravel()[order], weights.ravel()[order])


def density(sde: SDE) -> Density:
    """The stationary density of an SDE in one dimension whose state is the parameters (SGD's, SignSGD's), by quadrature.

    For $dX = b(X)\\,dt + \\sqrt{2 D(X)}\\,dW$ it is proportional to $\\frac1D \\exp \\int \\frac bD\\,dx$, with no flow.
    Any loss, any noise. The grid is found by itself, and ends where the density is below $10^{-16}$ of its maximum.

    **Arguments:** `sde`: of a problem in one dimension, with parameters of shape `(1,)` or `()`.

    **Returns:** a `Density`: `.points`, `.values`, `.mean`, `.variance`, `.expectation(g)`, `.cdf(x)`, `.quantile(q)`.

    **Raises:** `ValueError` for an SDE with further state, of more dimensions, without noise or with a schedule, or where
    the density cannot be normalised.

    >>> import jaxsde as js
    >>> law = density(js.SignSGD(0.1).sde(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))))
    >>> round(law.variance, 5)
    0.06208
    """
    _checks.instance("sde", sde, SDE, "an optimizer's sde(problem)")
    like = _like(sde.problem)
    state = sde.state_from_chain(sde.chain.init(like))
    if not isinstance(state, jax.Array):
        raise ValueError(f"the density takes an SDE whose state is the parameters, got the state {type(state).__name__}")
    if sde.fields(jnp.zeros(()), like)[1] is None:
        raise ValueError("an ODE has no stationary density: the SDE's model must have noise")
    over_time = _on_grid(_over_steps, sde, like)(np.concatenate([[0], 10 ** np.arange(7)]))
    if not all(np.allclose(values, values[0], rtol=1e-9) for values in over_time):
        raise ValueError("a stationary law needs a constant learning rate, not a schedule")
    fields = _on_grid(_at_start, sde, like)
    left, right = _resting_points(lambda x: fields(x)[0])
    between = np.linspace(left, right, 2 * _SEGMENTS + 1)
    noiseless = between[~(fields(between)[1] > 0)]
    if noiseless.size:
        raise ValueError(f"there is no one stationary density: the noise vanishes at {noiseless[0]:.4g}, to rounding")
    reach = np.full(2, 1e-12 * max(1.0, abs(left), abs(right)))
    while True:
        points, log = _log_density(fields, left - reach[0], right + reach[1], left)
        short = log[[0, -1]] > _NEGLIGIBLE
        if not short.any():
            break
        if reach.max() > 2 * _REACH:
            raise ValueError(f"the density cannot be normalised: it is not negligible at a distance of {reach.max():.2g}")
        reach[short] *= 4
    inside = points[log > _NEGLIGIBLE]
    points, log = _log_density(fields, inside[0], inside[-1], left)
    values = np.exp(log)
    return Density(points, values / (values.sum() * (points[1] - points[0])))


def _on_grid(function: Callable[..., Any], *trees: Any) -> Callable[[np.ndarray], Any]:
    """`function(*trees, x)` in float64, as a function of NumPy grids of numbers x."""
    return in_double(eqx.Partial(_each, function), *trees)


def _each(function: Callable[..., Any], *arguments: Any) -> Any:
    *trees, grid = arguments
    return jax.vmap(lambda x: function(*trees, x))(grid)


def _like(problem: Problem) -> Array:
    """Zeros shaped like the parameters of a problem in one dimension."""
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    for shape in ((1,), ()):
        try:
            return problem.validate(jnp.zeros(shape))
        except (TypeError, ValueError) as error:
            reason = error
    raise ValueError(f"the problem must be one-dimensional, with parameters of shape (1,) or (): {reason}")


def _prob_moves(problem: Problem, like: Array, x: Array) -> tuple[Array, Array]:
    """Of a step up, and of one down; a stochastic gradient of 0 moves neither way."""
    x = jnp.broadcast_to(x, like.shape)
    gradient = problem.gradient(x)
    law = sign_law(problem.noise, "SignSGD's lattice law")
    up, nonzero = law.prob_negative(gradient, x), law.prob_nonzero(gradient, x)
    return up.reshape(()), (nonzero - up).reshape(())


def _over_steps(sde: SDE, like: Array, step: Array) -> tuple[Array, Array]:
    return _coefficients(sde, like, step, jnp.ones((), like.dtype))


def _at_start(sde: SDE, like: Array, x: Array) -> tuple[Array, Array]:
    return _coefficients(sde, like, jnp.zeros((), int), x)


def _coefficients(sde: SDE, like: Array, step: Array, x: Array) -> tuple[Array, Array]:
    """Drift and half the squared diffusion at an optimizer step."""
    now = Instant(step.astype(sde.learning_rate.dtype) * sde.learning_rate, step)
    drift, diffusion = sde.fields(now, jnp.broadcast_to(x.astype(like.dtype), like.shape))
    assert diffusion is not None
    return drift.reshape(()), 0.5 * diffusion(jnp.ones_like(like)).reshape(()) ** 2


def _resting_points(drift: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """The outermost points to which the drift pulls from both sides."""
    far = np.geomspace(1e-6, _REACH, _SEGMENTS)
    grid = np.concatenate([-far[::-1], [0.0], far])
    pull = drift(grid)
    if not (pull[0] > 0 and pull[-1] < 0):
        raise ValueError(
            f"there is no stationary law: the drift, {pull[0]:.4g} at {-_REACH:g} and {pull[-1]:.4g} at {_REACH:g}, must pull "
            "inwards far out"
        )

    def resting(grid: np.ndarray, which: int) -> float:
        for _ in range(5):
            pull = drift(grid)
            i = np.flatnonzero((pull[:-1] > 0) & (pull[1:] <= 0))[which]
            grid = np.linspace(grid[i], grid[i + 1], 2 * _SEGMENTS + 1)
        return float(grid[0])

    return resting(grid, 0), resting(grid, -1)


def _log_ratios(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The logarithms of pi(x + eta) / pi(x) along the last axis."""
    with np.errstate(divide="ignore"):
        return np.log(up[..., :-1]) - np.log(down[..., 1:])


def _log_density(fields: Callable[[np.ndarray], Any], low: float, high: float, anchor: float) -> tuple[np.ndarray, np.ndarray]:
    """Points, and the logarithm of the density relative to its maximum; the integral by Simpson's rule."""
    grid = np.linspace(low, high, 2 * _SEGMENTS + 1)
    drift, diffusion = fields(grid)
    # Where rounding leaves no noise, the drift alone decides; the density is negligible there.
    diffusion = np.maximum(diffusion, 1e-200)
    slope, points = drift / diffusion, grid[::2]
    steps = (slope[:-2:2] + 4 * slope[1::2] + slope[2::2]) * (points[1] - points[0]) / 6
    log = _outward(steps, int(np.argmin(np.abs(points - anchor)))) - np.log(diffusion[::2])
    return points, log - log.max()


def _outward(steps: np.ndarray, anchor: int) -> np.ndarray:
    """Sums of `steps` from the `anchor` outwards: far out they are huge, and would swallow what is near."""
    return np.concatenate([-np.cumsum(steps[:anchor][::-1])[::-1], [0.0], np.cumsum(steps[anchor:])])
