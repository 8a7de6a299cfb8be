"""`noise_report`: how strong and how heavy-tailed the gradient noise at a point is, in how many directions it goes, and up
to which learning rate an SDE should describe an optimizer there."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy  # whose parts load when they are first used
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .. import _checks, _random
from .._special import SIGN_SLOPE
from .._traced import with_traced
from .._tree import cast, flat
from .._typing import Key
from ..problems import MeanLoss, Problem

# The share of the numbers, the largest ones, that the tail index is estimated from, and how many numbers are used at most.
_TAIL, _MOST_NUMBERS = 0.01, 2_000_000

# The largest number of coordinates for which the Hessian is formed. Beyond it, the largest eigenvalue is found by Lanczos's
# iteration, to this relative accuracy and with a basis of this size.
_DENSE, _ACCURACY, _BASIS = 64, 0.01, 12


class LayerNoise(NamedTuple):
    """The gradient and its noise in one array of the parameters, or in all of them."""

    name: str
    size: int
    """The number of coordinates."""
    active: float
    """The share of coordinates whose noise is not always 0. It is always 0 behind a unit that no example switches on. Kurtosis
    and tail index are those of active coordinates."""
    gradient_norm: float
    noise_norm: float
    """The root of the trace of the covariance: the root mean square distance of a batch gradient from the gradient."""
    kurtosis: float
    """Excess kurtosis, the mean over coordinates; 0 for Gaussian noise."""
    tail_index: float
    """Hill's estimate (hill1975) a of the tail, P(|Z| > z) ~ z^-a, from the largest hundredth of all noise, each coordinate
    over its mean absolute value. To be held against `gaussian_tail_index`: noise of infinite variance has 2 or less."""
    effective_rank: float
    """(tr S)^2 / tr S^2 of the covariance S: the number of directions of noise that is equally strong in each."""
    sign_gap: float
    """The root mean square difference of the coordinates' mean signs from those under normal noise of the same variances,
    without the part that chance explains. SignSGD's SDE takes noise for normal, on mini-batches where the batch has a gradient
    that is not 0."""

    @property
    def signal_to_noise(self) -> float:
        """The norm of the gradient over that of the noise."""
        return self.gradient_norm / self.noise_norm if self.noise_norm else math.inf


class NoiseReport(NamedTuple):
    """What [`noise_report`][] returns."""

    layers: list[LayerNoise]
    whole: LayerNoise
    critical_ratio: float
    """How many times as large the batch would have to be for the noise to be as large as the gradient."""
    curvature: dict[str, float]
    """The largest curvature, by optimizer: that of the loss for SGD, and that of the preconditioned loss for the others."""
    learning_rate: dict[str, float]
    """The largest learning rate at which an optimizer's SDE should hold."""
    tolerance: float
    draws: int
    tail_levels: np.ndarray
    """The quantiles `1 - tail_shares` of the absolute value of the noise, over its mean."""
    tail_shares: np.ndarray
    gaussian_tail_index: float
    """The value that the estimate of the tail index takes for Gaussian noise, whose tail is no power law."""


def noise_report(
    problem: Problem,
    params: PyTree,
    *,
    key: Key | None = None,
    draws: int = 256,
    tolerance: float = 0.1,
    curvature_examples: int = 128,
) -> NoiseReport:
    """Measures the gradient noise of a problem at given parameters, before any training.

    Draws stochastic gradients and compares them with the gradient, for each array of the parameters. The estimates of the
    traces of the covariance and of its square (the mean of $(Z_i^\\top Z_j)^2$ over $i \\ne j$) have no bias, so that the
    effective rank may exceed the number of draws.

    The learning rates are $2\\epsilon / \\lambda$ with the tolerance $\\epsilon$ and the largest curvature $\\lambda$ (in
    absolute value) of $P^{-1/2} H P^{-1/2}$: on a quadratic the SDE's stationary variance is then off by the factor
    $1 - \\epsilon$ in the steepest direction, and other errors of first order are alike. $P$ is 1 for SGD,
    $\\sqrt{\\pi/2}\\,\\sigma$ for SignSGD (Lemma 3.7, where noise dominates), the root of the mean squared gradient for
    RMSprop and Adam. It is the reading of a linear theory at one point: a guide, not a guarantee.

    **Arguments:**

    - `problem`: a [`Problem`][], of mini-batches or any other noise.
    - `params`: the parameters.
    - `key`: the key of the draws.
    - `draws`: the number of stochastic gradients. All are held in memory.
    - `tolerance`: $\\epsilon$, between 0 and 1.
    - `curvature_examples`: the number of examples, evenly spaced, over which the Hessian of a mean over data is taken.

    **Returns:** a [`NoiseReport`][], for `jaxsde.reporting.noise_table` and `.plot_noise`.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit.

    >>> import jaxsde as js
    >>> report = noise_report(js.Problem(js.Quadratic([1.0, 4.0]), js.Gaussian(0.1)), jnp.ones(2))
    >>> round(report.learning_rate["SGD"], 3)
    0.05
    """
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    params = problem.validate(params)
    problem = with_traced(cast(problem, jnp.result_type(*jax.tree.leaves(params))), params)
    draws = _checks.count("draws", draws, least=16, most=2**24)
    _checks.scalar("tolerance", tolerance, low=0.0, high=1.0)
    curvature_examples = _checks.count("curvature_examples", curvature_examples)
    key = _random.stream_key(jax.random.key(0) if key is None else key)
    gradient, drawn = _draw(problem, params, jax.random.split(key, draws))

    names = [jax.tree_util.keystr(path).lstrip(".") or "params" for path, _ in jax.tree.leaves_with_path(gradient)]
    grads, noises = ([np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(tree)] for tree in (gradient, drawn))
    means = [g.ravel() for g in grads]
    noises = [z.reshape(draws, -1) - g for g, z in zip(means, noises, strict=True)]
    layers = [_layer(*three) for three in zip(names, means, noises, strict=True)]
    mean, noise = np.concatenate(means), np.concatenate(noises, axis=1)
    whole = _layer("all", mean, noise)
    shares = np.geomspace(1, 1e-5, 200)
    levels = np.quantile(_standardised(noise), 1 - shares)

    curvature = _curvatures(problem, params, gradient, drawn, curvature_examples)
    return NoiseReport(
        layers=layers,
        whole=whole,
        critical_ratio=1 / whole.signal_to_noise**2 if whole.gradient_norm else math.inf,
        curvature=curvature,
        learning_rate={name: 2 * tolerance / c if c else math.inf for name, c in curvature.items()},
        tolerance=tolerance,
        draws=draws,
        tail_levels=levels,
        tail_shares=shares,
        gaussian_tail_index=_gaussian_tail_index(),
    )


@eqx.filter_jit
def _draw(problem: Problem, params: PyTree, keys: Array) -> tuple[PyTree, PyTree]:
    """Computes the gradient, and draws a stochastic one for each key."""
    return problem.gradient(params), jax.lax.map(lambda key: problem.stochastic_gradient(params, key), keys, batch_size=8)


def _layer(name: str, gradient: np.ndarray, noise: np.ndarray) -> LayerNoise:
    draws, size = noise.shape
    square = np.mean(noise**2, axis=0)
    active = square > 0
    fourth = np.mean(noise[:, active] ** 4, axis=0) / square[active] ** 2
    lengths = np.sum(noise**2, axis=1, dtype=float)
    trace = float(np.mean(lengths))
    # The smaller of the two matrices of products gives the sum of all (Z_i'Z_j)^2.
    products = noise @ noise.T if draws < size else noise.T @ noise
    pairs = np.sum(products**2, dtype=float) - np.sum(lengths**2)
    trace_of_square = float(pairs) / (draws * (draws - 1))
    return LayerNoise(
        name=name,
        size=size,
        active=float(np.mean(active)),
        gradient_norm=float(np.linalg.norm(gradient)),
        noise_norm=math.sqrt(trace),
        # For Gaussian noise the fourth moment of a sample over its squared second one is 3 (n - 1) / (n + 1) in the mean.
        kurtosis=float(np.mean(fourth)) - 3 * (draws - 1) / (draws + 1) if fourth.size else math.nan,
        tail_index=_hill(_standardised(noise)),
        effective_rank=trace**2 / trace_of_square if trace_of_square > 0 else math.nan,
        sign_gap=_sign_gap(gradient[active], noise[:, active], square[active]),
    )


def _standardised(noise: np.ndarray) -> np.ndarray:
    """Divides the absolute values of the noise by their mean, for each coordinate. Of many coordinates, some are left out."""
    # Leaving out whole columns keeps the same number of draws for every coordinate.
    noise = noise[:, :: max(1, math.ceil(noise.size / _MOST_NUMBERS))]
    size = np.abs(noise)
    scale = size.mean(axis=0)
    ratios = (size[:, scale > 0] / scale[scale > 0]).ravel()
    return ratios if ratios.size else np.full(1, math.nan)


def _hill(values: np.ndarray) -> float:
    tail = math.ceil(_TAIL * values.size)
    if tail >= values.size or not np.all(np.isfinite(values)):
        return math.nan
    largest = np.partition(values, values.size - tail - 1)[values.size - tail - 1 :]
    excess = float(np.mean(np.log(largest[1:] / largest[0])))
    return 1 / excess if excess > 0 else math.inf


def _gaussian_tail_index() -> float:
    """Returns the limit of Hill's estimate for normal variables: one over the mean of log(|Z| / q) where |Z| > q."""
    level = scipy.special.ndtri(1 - _TAIL / 2)
    density = lambda z: 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / _TAIL * math.log(z / level)
    return 1 / scipy.integrate.quad(density, level, level + 10)[0]


def _sign_gap(gradient: np.ndarray, noise: np.ndarray, variance: np.ndarray) -> float:
    if not gradient.size:
        return math.nan
    normal = scipy.special.erf(gradient / np.sqrt(2 * variance))
    signs = np.sign(gradient + noise)
    found = signs.mean(axis=0)
    chance = (np.mean(signs**2, axis=0) - found**2) / (len(noise) - 1)
    return math.sqrt(max(0.0, float(np.mean((found - normal) ** 2 - chance))))


def _curvatures(problem: Problem, params: PyTree, gradient: PyTree, drawn: PyTree, examples: int) -> dict[str, float]:
    loss = problem.loss
    if isinstance(loss, MeanLoss) and loss.count > examples:
        loss = loss.subset(examples)
    return {name: _largest(loss, params, root) for name, root in _roots(gradient, drawn).items()}


@jax.jit
def _roots(gradient: PyTree, drawn: PyTree) -> dict[str, Array]:
    """Computes the diagonals of P^{-1/2}."""
    variance = flat(jax.tree.map(lambda g, z: jnp.mean((z - g[None]) ** 2, axis=0), gradient, drawn))
    square = variance + flat(gradient) ** 2
    # Coordinates without noise and gradient don't move; a floor keeps them from counting as infinitely steep.
    floor = 1e-6 * jnp.sqrt(jnp.mean(square)) + jnp.finfo(jnp.float32).tiny
    sign, adaptive = float(1 / SIGN_SLOPE) * jnp.sqrt(variance), jnp.sqrt(square)
    scales = {"SGD": jnp.ones_like(square), "SignSGD": sign + floor, "RMSprop, Adam": adaptive + floor}
    return {name: 1 / jnp.sqrt(scale) for name, scale in scales.items()}


def _largest(loss: Callable[[PyTree], Array], params: PyTree, root: Array) -> float:
    """Computes the largest absolute eigenvalue of R H R with the Hessian H and a diagonal R."""
    size = root.size
    if size <= _DENSE:
        products = jax.vmap(lambda v: _product(loss, params, root, v))(jnp.eye(size, dtype=root.dtype))
        return float(np.max(np.abs(np.linalg.eigvalsh(np.asarray(products, float)))))
    linear: Any = scipy.sparse.linalg.LinearOperator
    times = lambda v: np.asarray(_product(loss, params, root, jnp.asarray(v.ravel())))
    start = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    iterate: Any = scipy.sparse.linalg.eigsh
    operator = linear((size, size), times, dtype=np.float32)
    values = iterate(operator, k=1, which="LM", tol=_ACCURACY, ncv=_BASIS, v0=start, return_eigenvectors=False)
    return float(abs(values[0]))


@eqx.filter_jit
def _product(loss: Callable[[PyTree], Array], params: PyTree, root: Array, v: Array) -> Array:
    _, unravel = ravel_pytree(params)
    along = unravel((root * v).astype(root.dtype))
    return root * flat(jax.jvp(jax.grad(loss), (params,), (along,))[1])
