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
from jaxtyping import Array, PyTree

from .. import _checks, _random
from .._progress import progress_bar
from .._traced import with_traced
from .._tree import cast
from .._typing import Key
from ..problems import MeanLoss, Problem
from ._curvature import LEAST_PRODUCTS, PRECONDITIONERS, inverse_root, largest_curvature, sustained_loss

# The share of the numbers, the largest ones, that the tail index is estimated from, and how many numbers are used at most.
_TAIL, _MOST_NUMBERS = 0.01, 2_000_000

# Draws are made in so many calls, which the progress bar shows, each of a multiple of as many as are made at a time.
_CALLS, _AT_ONCE = 32, 8

# So many numbers of the noise are worked on at a time: what is computed from them stays in the caches, or nearly so.
_NUMBERS_AT_ONCE = 2**20


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
    curvature_error: dict[str, float]
    """The relative error of each, at most 0.01 where `curvature_products` sufficed. Else the largest curvature may be larger
    than the one given, which is met in some direction."""
    learning_rate: dict[str, float]
    """The largest learning rate at which an optimizer's SDE should hold."""
    floor: dict[str, float]
    """By optimizer: times the learning rate, how far above its minimum the noise here would keep the loss of a quadratic,
    whatever its curvature. It is $\\frac14 \\sum_i \\sigma_i^2 / P_i$, and $\\frac14 \\sum_i P_i$ for signs, whose noise has
    variance 1."""
    gradient: np.ndarray
    """All coordinates of it, raveled."""
    variance: np.ndarray
    """Of the noise in each of them."""
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
    curvature_products: int = 64,
    progress: bool = True,
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

    The work is bounded: one gradient of the loss, `draws` stochastic ones, and for each of the three curvatures
    `curvature_products` products with the Hessian over `curvature_examples` examples, which cost some two gradients of them.
    An MLP of a million parameters takes some half a minute on two cores.

    **Arguments:**

    - `problem`: a [`Problem`][], of mini-batches or any other noise.
    - `params`: the parameters.
    - `key`: the key of the draws.
    - `draws`: the number of stochastic gradients, at least 16. All are held in memory, four bytes for each number of them.
    - `tolerance`: $\\epsilon$, between 0 and 1.
    - `curvature_examples`: the number of examples, evenly spaced, over which the Hessian of a mean over data is taken.
    - `curvature_products`: how many products with the Hessian to make for each curvature, at most; as many vectors like the
      parameters are held. Some 15 are enough to find most to 1 %; `.curvature_error` and the table say where they were not. For
      up to 64 parameters the Hessian is formed.
    - `progress`: whether a report that takes more than two seconds shows a progress bar, as in [`simulate`][].

    **Returns:** a [`NoiseReport`][], for `jaxsde.reporting.noise_table` and `.plot_noise`.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit.

    >>> import jaxsde as js
    >>> report = noise_report(js.Problem(js.Quadratic([1.0, 4.0]), js.Gaussian(0.1)), jnp.ones(2))
    >>> round(report.learning_rate["SGD"], 3)
    0.05
    """
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    _checks.eager("noise_report", problem, params, key)
    params = problem.validate(params)
    problem = with_traced(cast(problem, jnp.result_type(*jax.tree.leaves(params))), params)
    draws = _checks.count("draws", draws, least=16, most=2**24)
    _checks.scalar("tolerance", tolerance, low=0.0, high=1.0)
    curvature_examples = _checks.count("curvature_examples", curvature_examples)
    key = _random.stream_key(jax.random.key(0) if key is None else key)
    curvature_products = _checks.count("curvature_products", curvature_products, least=LEAST_PRODUCTS)
    with progress_bar(progress, draws + len(PRECONDITIONERS) * curvature_products, "gradient") as bar:
        gradient = _gradient(problem, params)
        means = [np.asarray(leaf, np.float32).ravel() for leaf in jax.tree.leaves(gradient)]
        noises = _draw(problem, params, jax.random.split(key, draws), means, bar)
        loss = problem.loss
        if isinstance(loss, MeanLoss) and loss.count > curvature_examples:
            loss = loss.subset(curvature_examples)
        return reported(loss, params, gradient, noises, tolerance, curvature_products, bar)


def reported(
    loss: Callable[[PyTree], Array],
    params: PyTree,
    gradient: PyTree,
    noises: list[np.ndarray],
    tolerance: float,
    products: int,
    bar: Any,
    unsure: float = 0.0,
) -> NoiseReport:
    """The report on draws of noise, an array of draws and coordinates for each array of the parameters.

    `loss`: whose curvature counts. `unsure`: the share of the noise's variance that is in the `gradient`, where it is a mean of
    draws itself; its square is taken less by that.
    """
    paths, draws = jax.tree.leaves_with_path(gradient), len(noises[0])
    names = [jax.tree_util.keystr(path).lstrip(".") or "params" for path, _ in paths]
    means = [np.asarray(leaf, np.float32).ravel() for _, leaf in paths]
    wide = draws < sum(mean.size for mean in means)
    sums = [_sums(mean, noise, wide, unsure) for mean, noise in zip(means, noises, strict=True)]
    layers = [_layer(name, [own], [z]) for name, own, z in zip(names, sums, noises, strict=True)]
    whole = _layer("all", sums, noises)
    shares = np.geomspace(1, 1e-5, 200)
    variance = np.concatenate([own.square for own in sums])
    curvature, error, floor = {}, {}, {}
    for name, preconditioner in PRECONDITIONERS.items():
        root = inverse_root(preconditioner.scale, gradient, jnp.asarray(variance))
        floor[name] = sustained_loss(preconditioner, root, variance)
        curvature[name], error[name] = largest_curvature(loss, params, root, products, bar)
    return NoiseReport(
        layers=layers,
        whole=whole,
        critical_ratio=1 / whole.signal_to_noise**2 if whole.gradient_norm else math.inf,
        curvature=curvature,
        curvature_error=error,
        learning_rate={name: 2 * tolerance / c if c else math.inf for name, c in curvature.items()},
        floor=floor,
        gradient=np.concatenate(means),
        variance=variance,
        tolerance=tolerance,
        draws=draws,
        tail_levels=np.quantile(_standardised(noises), 1 - shares),
        tail_shares=shares,
        gaussian_tail_index=_gaussian_tail_index(),
    )


@eqx.filter_jit
def _gradient(problem: Problem, params: PyTree) -> PyTree:
    return problem.gradient(params)


@eqx.filter_jit
def _stochastic_gradients(problem: Problem, params: PyTree, keys: Array) -> PyTree:
    return jax.lax.map(lambda key: problem.stochastic_gradient(params, key), keys, batch_size=_AT_ONCE)


def _draw(problem: Problem, params: PyTree, keys: Array, means: list[np.ndarray], bar: Any) -> list[np.ndarray]:
    """Draws the noise of the gradient for each key: an array of draws and coordinates for each array of the parameters."""
    draws = len(keys)
    noises = [np.empty((draws, mean.size), np.float32) for mean in means]
    length = _AT_ONCE * math.ceil(draws / (_CALLS * _AT_ONCE))
    for start in range(0, draws, length):
        stop = min(start + length, draws)
        drawn = jax.tree.leaves(_stochastic_gradients(problem, params, keys[start:stop]))
        for noise, mean, leaf in zip(noises, means, drawn, strict=True):
            np.subtract(np.asarray(leaf, np.float32).reshape(stop - start, -1), mean, out=noise[start:stop])
        bar.update(stop - start)
    return noises


class _Sums(NamedTuple):
    """What the numbers of a layer are computed from; those of several layers add up."""

    gradient: float
    """The sum of squares of the gradient."""
    fourth: float
    """The sum over active coordinates of the noise's mean fourth power over its squared mean square."""
    lengths: np.ndarray
    """The sum of squares of the noise, by draw."""
    signs: float
    """The sum over active coordinates of the squared difference of mean signs from normal noise's, less the part of chance."""
    square: np.ndarray
    """The mean of squares of the noise, by coordinate."""
    products: np.ndarray | None
    """All Z_i'Z_j; None where draws are as many as all coordinates, or more."""

    @property
    def active(self) -> int:
        """How many coordinates have noise."""
        return int(np.count_nonzero(self.square))


def _sums(gradient: np.ndarray, noise: np.ndarray, wide: bool, unsure: float) -> _Sums:
    draws, size = noise.shape
    width = max(1, _NUMBERS_AT_ONCE // draws)
    parts = [_sums_of(gradient[i : i + width], noise[:, i : i + width]) for i in range(0, size, width)]
    length, fourth, signs = (float(sum(part[i] for part in parts)) for i in (0, 1, 3))
    lengths, square = np.sum([part[2] for part in parts], axis=0), np.concatenate([part[4] for part in parts])
    length = max(0.0, length - unsure * float(np.sum(square)))
    return _Sums(length, fourth, lengths, signs, square, noise @ noise.T if wide else None)


def _sums_of(gradient: np.ndarray, noise: np.ndarray) -> tuple[float, float, np.ndarray, float, np.ndarray]:
    """The first fields of the sums, for some of a layer's coordinates."""
    squares, length = noise * noise, float(np.sum(gradient * gradient, dtype=float))
    square, lengths = np.mean(squares, axis=0), np.sum(squares, axis=1, dtype=float)
    active = square > 0
    if not active.all():
        gradient, noise, squares = gradient[active], noise[:, active], squares[:, active]
    variance = square[active]
    fourth = np.sum(np.mean(squares * squares, axis=0) / variance**2, dtype=float)
    return length, float(fourth), lengths, _sign_gaps(gradient, noise, variance), square


def _layer(name: str, sums: list[_Sums], noises: list[np.ndarray]) -> LayerNoise:
    """The numbers of one or several arrays of the parameters together."""
    draws, size = len(noises[0]), sum(noise.shape[1] for noise in noises)
    lengths, active = sum(own.lengths for own in sums), sum(own.active for own in sums)
    trace = float(np.mean(lengths))
    grams = [own.products for own in sums if own.products is not None]
    if grams:
        products = sum(grams[1:], grams[0])
    else:  # the other matrix of products, which has the same sum of squares, is smaller
        noise = np.concatenate(noises, axis=1)
        products = noise.T @ noise
    pairs = np.sum(products**2, dtype=float) - np.sum(lengths**2)
    trace_of_square = float(pairs) / (draws * (draws - 1))
    fourth, signs = sum(own.fourth for own in sums), sum(own.signs for own in sums)
    return LayerNoise(
        name=name,
        size=size,
        active=active / size,
        gradient_norm=math.sqrt(sum(own.gradient for own in sums)),
        noise_norm=math.sqrt(trace),
        # For Gaussian noise the fourth moment of a sample over its squared second one is 3 (n - 1) / (n + 1) in the mean.
        kurtosis=fourth / active - 3 * (draws - 1) / (draws + 1) if active else math.nan,
        tail_index=_hill(_standardised(noises)),
        effective_rank=trace**2 / trace_of_square if trace_of_square > 0 else math.nan,
        sign_gap=math.sqrt(max(0.0, signs / active)) if active else math.nan,
    )


def _standardised(noises: list[np.ndarray]) -> np.ndarray:
    """Divides the absolute values of the noise by their mean, for each coordinate. Of many coordinates, some are left out."""
    # Leaving out whole columns keeps the same number of draws for every coordinate.
    stride = max(1, math.ceil(sum(noise.size for noise in noises) / _MOST_NUMBERS))
    before = np.cumsum([0, *(noise.shape[1] for noise in noises)])
    size = np.abs(np.concatenate([z[:, -n % stride :: stride] for n, z in zip(before[:-1], noises, strict=True)], axis=1))
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


def _sign_gaps(gradient: np.ndarray, noise: np.ndarray, variance: np.ndarray) -> float:
    normal = scipy.special.erf(gradient / np.sqrt(2 * variance))
    # A sign is less than 0, 0 or greater than 0: counts are cheaper than sums of floating-point signs.
    level = -gradient
    above, below = (np.count_nonzero(side(noise, level), axis=0) / len(noise) for side in (np.greater, np.less))
    found = above - below
    chance = (above + below - found**2) / (len(noise) - 1)
    return float(np.sum((found - normal) ** 2 - chance))
