"""Linear response: the fixed point of an optimizer's mean map, and the stationary law, rates and stability around it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy  # whose parts load when they are first used
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int, PyTree

from .. import _checks
from .._double import converted, double_precision
from .._linalg import matmul
from .._traced import with_traced
from .._tree import as_params
from ..processes import SDE, Chain, Instant
from ._cautions import RATCHET
from ._derive import Derivation, derived_sde
from ._rules import SMOOTH

_MOST = 512
"""Numbers in an SDE's state: its Jacobian is a matrix."""
_DENSE = 20_001
"""Nodes of the means over updates that are not smooth, so that their differences are derivatives."""
_WIDTH = 0.05
"""Half of such a difference: by how much it moves a mean update, as a share of the spread of one."""
_LATE = 1_000_000
"""The step at which coefficients are taken: bias corrections and warm-up are over by then."""
_MAPS, _NEWTON_STEPS = 4000, 12
_SETTLED = {True: 1e-6, False: 1e-3}
"""The largest mean move at a fixed point, as a share of one step's spread, for smooth updates and others."""
_ROUNDS, _PAIRS, _NOISES = 40, 128, 16
"""Of statistical linearisation, and the points that it averages the drift and the noise over."""
_DIFFERENT = 0.1
"""Where variances by the two linearisations differ by more, noise carries the state beyond the linear range."""
_FASTEST = 1e6
"""The largest factor of the learning rate at which stability is looked at."""


class LinearResponse(NamedTuple):
    """The linear picture of an optimizer near a stationary point; see [`linearise`][]."""

    point: PyTree
    """The fixed point, parameters."""
    jacobian: np.ndarray
    """Of the mean map $s \\to E F(s, g)$ (chain) or of the drift (SDE) there, over all numbers of the state that move."""
    covariance: np.ndarray
    """The stationary covariance of the parameters, raveled."""
    averaged_covariance: np.ndarray
    """The same by statistical linearisation: the derivative is averaged over the stationary normal law itself."""
    rate: float
    """Of the slowest mode of the parameters, per unit of time."""
    largest_learning_rate: float
    """Beyond which the mean map is unstable, with all other hyperparameters as they are; infinite where it never is."""
    valid: bool
    """Whether the linear picture holds."""
    why: str
    """Why not, or an empty string."""


def linearise(process: Chain | SDE, x0: PyTree) -> LinearResponse:
    """Finds the fixed point near `x0`, and linearises there.

    With the mean map $G(s) = E F(s, g)$ of the chain, $M = DG(s^*)$ and $Q = Cov F(s^*, g)$, the stationary covariance solves
    $C = M C M^\\top + Q$; with an SDE's drift b and diffusion A, $B = Db(s^*)$, it solves $B C + C B^\\top + A A^\\top = 0$.
    Both are exact for linear updates, and else of leading order in the noise. Where the noise carries the state beyond the
    range in which updates are linear, as with the sign of a momentum, they are wrong: the same is then done with the
    derivative's mean over the stationary normal law (statistical linearisation), and where the two differ the result is not
    `valid`, and says so.

    **Arguments:** `process`: an optimizer's chain or SDE, of at most 512 numbers in its state; `x0`: where to begin.

    **Returns:** a [`LinearResponse`][].

    **Raises:** `ValueError` for a chain whose transform has no derived SDE, a schedule, or a state that is too large.

    >>> import jaxsde as js
    >>> chain = js.SGD(learning_rate=0.1).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))
    >>> response = linearise(chain, jnp.ones(1))
    >>> [round(float(v), 4) for v in (response.covariance[0, 0], response.rate, response.largest_learning_rate)]
    [0.0526, 1.0536, 2.0]
    """
    _checks.instance("process", process, (Chain, SDE), "an optimizer's chain(problem) or sde(problem)")
    x0 = process.problem.validate(as_params(x0))
    with double_precision():
        x0, process = converted(x0), converted(process)
        discrete = isinstance(process, Chain)
        sde = derived_sde(process, start=x0, order=1) if discrete else with_traced(process, x0)
        system = _System(_dense(sde), x0)
        derivation = _derivation(sde)
        corrected = derivation is not None and derivation.order > 1
        plain = _System(_dense(derived_sde(sde.chain, start=x0, order=1)), x0) if corrected else system
        ratchets = derivation is not None and derivation.anatomy is not None and RATCHET in derivation.anatomy.cautions
        return _response(system, plain, discrete, f"there is no stationary law: {RATCHET}" if ratchets else "")


def _derivation(sde: SDE) -> Derivation | None:
    owner = getattr(sde.statistics, "__self__", None)
    return owner if isinstance(owner, Derivation) else None


def _is_smooth(sde: SDE) -> bool:
    derivation = _derivation(sde)
    return derivation is None or derivation.anatomy is None or derivation.anatomy.regularity == SMOOTH


def _dense(sde: SDE) -> SDE:
    """A derived SDE with so many nodes that differences of its means are derivatives, where these are no derivatives."""
    derivation = _derivation(sde)
    if derivation is None or _is_smooth(sde):
        return sde
    dense = derivation.with_nodes(_DENSE)
    methods = ("statistics", "coefficients", "state_from_chain", "noise_like")
    return eqx.tree_at(lambda s: [getattr(s, m) for m in methods], sde, [getattr(dense, m) for m in methods])


class _Place(eqx.Module):
    """An SDE at a late time, and which numbers of its state move: the others stay as in `template`."""

    sde: SDE
    template: PyTree
    moving: Int[Array, " n"]

    def state(self, v: Any) -> PyTree:
        full, unravel = ravel_pytree(self.template)
        return unravel(full.at[self.moving].set(v))

    @property
    def now(self) -> Instant:
        return Instant(_LATE * self.sde.learning_rate, jnp.asarray(_LATE, jnp.int32))


def _drift(place: _Place, v: Any) -> Array:
    return ravel_pytree(place.sde.drift(place.now, place.state(v)))[0][place.moving]


@eqx.filter_jit
def _drifts(place: _Place, points: Any) -> Array:
    return jax.vmap(lambda v: _drift(place, v))(points)


@eqx.filter_jit
def _derivative(place: _Place, v: Any) -> Array:
    return jax.jacfwd(lambda v: _drift(place, v))(v)


@eqx.filter_jit
def _noises(place: _Place, points: Any) -> Array:
    """The covariance of the noise, per unit of time."""

    def one(v: Any) -> Array:
        y = place.state(v)
        increment, unravel = ravel_pytree(place.sde.noise_shaped(y))
        diffusion = place.sde.diffusion(place.now, y)
        root = jax.vmap(lambda e: ravel_pytree(diffusion(unravel(e)))[0])(jnp.eye(increment.size))
        return matmul(root.T, root)[place.moving][:, place.moving]

    return jax.vmap(one)(points)


@eqx.filter_jit
def _settled(place: _Place, v: Any) -> Array:
    """Where the mean map leads."""
    eta = place.sde.learning_rate
    return jax.lax.fori_loop(0, _MAPS, lambda _, v: v + eta * _drift(place, v), v)


@eqx.filter_jit
def _into_x(place: _Place, v: Any) -> Array:
    """The matrix that picks the parameters out of the state."""
    return jax.jacfwd(lambda v: ravel_pytree(place.sde.position(place.state(v)))[0])(v)


@eqx.filter_jit
def _started(sde: SDE, x0: PyTree) -> PyTree:
    return sde.init(x0, jax.random.key(0))[1]


class _System:
    """An SDE as functions of vectors of NumPy."""

    def __init__(self, sde: SDE, x0: PyTree):
        template = _started(sde, x0)
        full = np.asarray(ravel_pytree(template)[0])
        if full.size > _MOST:
            raise ValueError(f"linearise takes a matrix over the state, of at most {_MOST} numbers; this one has {full.size}")
        whole = _Place(sde, template, jnp.arange(full.size))
        still = (np.asarray(_drifts(whole, full[None])[0]) == 0) & (np.diagonal(_noises(whole, full[None])[0]) == 0)
        moving = np.flatnonzero(~still | np.any(np.asarray(_into_x(whole, full)) != 0, axis=0))
        self.place = _Place(sde, template, jnp.asarray(moving))
        self.eta, self.smooth, self.start = float(sde.learning_rate), _is_smooth(sde), full[moving]
        self.into_x = np.asarray(_into_x(self.place, self.start))

    def params(self, v: np.ndarray) -> PyTree:
        return self.place.sde.position(self.place.state(jnp.asarray(v)))

    def drifts(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(_drifts(self.place, points))

    def noises(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(_noises(self.place, points))

    def jacobian(self, v: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Of the drift: its derivative, or differences so wide, by what is known of it, that they are seen beside the noise."""
        if self.smooth:
            return np.asarray(_derivative(self.place, v))
        step = np.sqrt(np.maximum(np.diagonal(self.noises(v[None])[0]) * self.eta, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            widths = _WIDTH * step[:, None] / np.abs(self.eta * near)
        width = np.min(np.where(np.isfinite(widths) & (widths > 0), widths, np.inf), axis=0)
        width = np.where(np.isfinite(width), width, 1e-6)
        return (self.drifts(v + np.diag(width)) - self.drifts(v - np.diag(width))).T / (2 * width)

    def settled(self) -> np.ndarray:
        """Where the mean map leads from the start, or the start itself where it leads away."""
        found = np.asarray(_settled(self.place, self.start))
        return found if np.all(np.isfinite(found)) else self.start


def _response(system: _System, plain: _System, discrete: bool, why: str) -> LinearResponse:
    n, eta, pick = len(system.start), system.eta, system.into_x
    v = system.settled()
    step = np.sqrt(np.maximum(np.diagonal(system.noises(v[None])[0]) * eta, 1e-30))
    # At first: the drift's move over ten steps of noise is taken for that of one.
    jacobian = np.outer(step, 1 / (10 * step)) / eta
    for _ in range(_NEWTON_STEPS):
        jacobian = system.jacobian(v, jacobian)
        change = np.linalg.lstsq(jacobian, -system.drifts(v[None])[0], rcond=None)[0]
        v = v + np.clip(change, -10 * step, 10 * step)
    moved = np.abs(eta * system.drifts(v[None])[0])
    if not why and not np.all(moved <= _SETTLED[system.smooth] * (step + 1e-3 * np.abs(v))):
        why = "the mean map has no fixed point near x0: part of the state keeps growing, or leaves"
    jacobian, noise = system.jacobian(v, jacobian), system.noises(v[None])[0]
    covariance = _stationary(jacobian, noise, eta, discrete)
    averaged = np.full_like(covariance, np.nan)
    if not why and not np.all(np.isfinite(covariance)):
        why = "the fixed point is unstable at this learning rate: there is no stationary law"
    if not why:
        averaged = _averaged(system, v, covariance, discrete)
        if not np.all(np.isfinite(averaged)):
            why = "averaged over the noise's own spread, the fixed point is unstable"
    of_x = lambda c: pick @ c @ pick.T
    if not why:
        ratio = np.diagonal(of_x(averaged)) / np.maximum(np.diagonal(of_x(covariance)), 1e-300)
        worst = ratio[np.argmax(np.abs(ratio - 1))]
        if abs(worst - 1) > _DIFFERENT:
            why = (
                "the noise carries the state beyond the range in which updates are linear: averaged over its own spread the "
                f"derivative gives a variance {worst:.2f} times the linear one"
            )
    mean_map = np.eye(n) + eta * (plain.jacobian(v, jacobian) if plain is not system else jacobian)
    return LinearResponse(
        point=system.params(v),
        jacobian=np.eye(n) + eta * jacobian if discrete else jacobian,
        covariance=of_x(covariance),
        averaged_covariance=of_x(averaged),
        rate=_slowest(jacobian, eta, pick, discrete),
        largest_learning_rate=eta * _largest_factor(mean_map, np.any(pick != 0, axis=0)),
        valid=not why,
        why=why,
    )


def _stationary(jacobian: np.ndarray, noise: np.ndarray, eta: float, discrete: bool) -> np.ndarray:
    """The covariance of the whole state; not a number where there is none."""
    nothing = np.full_like(noise, np.nan)
    if not (np.all(np.isfinite(jacobian)) and np.all(np.isfinite(noise))):
        return nothing
    if discrete:
        mean_map = np.eye(len(noise)) + eta * jacobian
        stable = np.max(np.abs(np.linalg.eigvals(mean_map))) < 1
        return scipy.linalg.solve_discrete_lyapunov(mean_map, eta * noise) if stable else nothing
    stable = np.max(np.real(np.linalg.eigvals(jacobian))) < 0
    return scipy.linalg.solve_continuous_lyapunov(jacobian, -noise) if stable else nothing


def _averaged(system: _System, v: np.ndarray, covariance: np.ndarray, discrete: bool) -> np.ndarray:
    """The covariance by statistical linearisation: the drift's regression on the state, over the normal law of that covariance
    itself."""
    n = len(v)
    pairs = max(_PAIRS, 2 * n)
    normals = np.random.default_rng(0).normal(size=(pairs, n))
    for _ in range(_ROUNDS):
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        points = normals @ root.T
        odd = (system.drifts(v + points) - system.drifts(v - points)) / 2
        # In the coordinates in which the law is standard: some numbers may have none of the noise.
        slope = np.linalg.lstsq(normals, odd, rcond=None)[0].T @ np.linalg.pinv(root)
        some = points[:_NOISES]
        noise = np.mean(system.noises(np.concatenate([v + some, v - some])), axis=0)
        new = _stationary(slope, noise, system.eta, discrete)
        if not np.all(np.isfinite(new)):
            return new
        done = np.allclose(new, covariance, rtol=1e-4)
        covariance = (covariance + new) / 2
        if done:
            break
    return covariance


def _slowest(jacobian: np.ndarray, eta: float, into_x: np.ndarray, discrete: bool) -> float:
    """The rate of the slowest mode that the parameters show."""
    if not np.all(np.isfinite(jacobian)):
        return float("nan")
    values, vectors = np.linalg.eig(jacobian)
    shown = np.linalg.norm(into_x @ vectors, axis=0) > 1e-9 * np.linalg.norm(vectors, axis=0)
    with np.errstate(divide="ignore"):
        rates = -np.log(np.abs(1 + eta * values)) / eta if discrete else -np.real(values)
    return float(np.min(rates[shown]))


def _largest_factor(mean_map: np.ndarray, is_x: np.ndarray) -> float:
    """The factor of the parameters' moves at which the mean map becomes unstable; 0 where it is for any."""
    if not np.all(np.isfinite(mean_map)):
        return float("nan")
    one = np.eye(len(mean_map))

    def is_stable(factor: float) -> bool:
        scaled = one + np.where(is_x, factor, 1.0)[:, None] * (mean_map - one)
        return bool(np.max(np.abs(np.linalg.eigvals(scaled))) < 1)

    factors = np.geomspace(1e-3, _FASTEST, 400)
    unstable = [factor for factor in factors if not is_stable(factor)]
    if not unstable:
        return float("inf")
    if unstable[0] == factors[0]:
        return 0.0
    low, high = unstable[0] / (factors[1] / factors[0]), unstable[0]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if is_stable(middle) else (low, middle)
    return float(low)
