"""Distributed optimizers whose workers send compressed gradients: the chains and the SDEs."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _checks
from ..problems import AbstractSource, Problem, Signs, sign_law
from ..processes import SDE, Chain, Instant
from ._base import (
    AbstractOptimizer,
    LearningRate,
    as_hyperparameter,
    as_rates,
    check_covariance,
    check_problem,
    diffusion_of_a_step,
    itself,
    parameters,
)
from ._received import AbstractReceived, Workers, WorkersDraws, each_gradient, received_problem
from ._roles import Roles


class DistributedSignSGD(AbstractOptimizer):
    """SignSGD over N workers, $x_{k+1} = x_k - \\frac\\eta N \\sum_i \\mathrm{sign}(g^i_k)$ with the workers' independent
    stochastic gradients $g^i_k$: the signs are averaged, without a majority vote.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `workers`: N, a whole number from 1 on; each has the noise of the problem, batches of its own on data.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for rates or workers out of range, or arrays of them; `TypeError` for what is no number, or a
    schedule that JAX cannot trace.

    The rule for batches is SignSGD's, for a batch of each worker's. With N workers and the rate $N \\eta$ the SDE is that of
    one worker with $\\eta$: so many workers take N times fewer steps (derived here).

    >>> import jaxsde as js
    >>> chain = DistributedSignSGD(0.1, workers=4).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0)))
    >>> round(chain.step(chain.init(jnp.ones(1)), jax.random.key(0)).x.item(), 4)
    0.9
    """

    models: ClassVar[tuple[str, ...]] = ("compagnoni", "ode")
    roles: ClassVar[Roles | None] = Roles(normalised=True)
    learning_rate: Any
    reference_rate: Float[Array, ""] | None
    workers: int = eqx.field(static=True)

    def __init__(self, learning_rate: LearningRate, workers: int, *, reference_rate: ArrayLike | None = None):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.workers = _checks.count("workers", workers)

    def transform(self) -> optax.GradientTransformation:
        """`optax.sgd`, for the mean of the workers' signs."""
        return optax.sgd(self.learning_rate)

    def chain(self, problem: Problem) -> Chain:
        """The optimizer run on the mean of the signs of N independent stochastic gradients of `problem`."""
        check_problem(problem)
        return Chain(self.transform, received_problem(_MeanOfSigns(problem, self.workers)), self.rate)

    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The SDE of distributed SignSGD on `problem`, which is what each worker has.

        **Arguments:** `model`:

        - `"compagnoni"`: $dX = -\\eta_t s(X)\\,dt + \\eta_t \\sqrt{\\eta / N}\\,\\bar\\Sigma(X)^{1/2} dW$, with mean $s$ and
          covariance $\\bar\\Sigma$ of the signs of one stochastic gradient as in [`SignSGD.sde`][], and with $\\eta_t$ the
          schedule relative to the reference rate (after compagnonib2025; derived here from the moments of one step).
        - `"ode"`: its drift alone.

        **Raises:** `ValueError` for another model, or noise whose signs have no law.
        """
        check_problem(problem)
        self.check_model(model)
        law = sign_law(problem.noise, "DistributedSignSGD's SDE")
        return SDE(
            statistics=eqx.Partial(_signs, problem),
            coefficients=eqx.Partial(_sign_coefficients, self, model),
            position=itself,
            state_from_chain=parameters,
            chain=self.chain(problem),
            start_steps=0,
            model=model,
            noise_like=law.sign_increments_like,
        )


class CompressedSGD(AbstractOptimizer):
    """SGD over N workers that send sparse gradients, $x_{k+1} = x_k - \\frac\\eta N \\sum_i C(g^i_k)$ with the workers'
    independent stochastic gradients $g^i_k$.

    The compressor keeps each coordinate with the probability $p = 1 / (1 + \\omega)$, independently, and divides it by p:
    $E\\,C(g) = g$ and $E \\|C(g) - g\\|^2 = \\omega \\|g\\|^2$. With $\\omega = 0$ nothing is left out.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `workers`: N, a whole number from 1 on; each has the noise of the problem, batches of its own on data.
    - `omega`: $\\omega \\ge 0$.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for numbers out of range, or arrays of them; `TypeError` for what is no number, or a schedule that
    JAX cannot trace.

    The linear scaling rule holds where noise outweighs the gradient: what compression adds from the gradient itself does not
    shrink with a larger batch.

    >>> import jaxsde as js
    >>> chain = CompressedSGD(0.1, workers=4, omega=0.0).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0)))
    >>> round(chain.step(chain.init(jnp.ones(1)), jax.random.key(0)).x.item(), 4)
    0.9
    """

    models: ClassVar[tuple[str, ...]] = ("compagnoni", "ode")
    roles: ClassVar[Roles | None] = Roles()
    learning_rate: Any
    omega: Float[Array, ""]
    reference_rate: Float[Array, ""] | None
    workers: int = eqx.field(static=True)

    def __init__(self, learning_rate: LearningRate, workers: int, omega: ArrayLike, *, reference_rate: ArrayLike | None = None):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.workers = _checks.count("workers", workers)
        self.omega = as_hyperparameter("omega", omega, low=0.0, closed="low")

    def transform(self) -> optax.GradientTransformation:
        """`optax.sgd`, for the mean of what the workers send."""
        return optax.sgd(self.learning_rate)

    def chain(self, problem: Problem) -> Chain:
        """The optimizer run on the mean of N independent stochastic gradients of `problem`, each of them compressed."""
        check_problem(problem)
        return Chain(self.transform, received_problem(_MeanOfSparse(problem, self.workers, self.omega)), self.rate)

    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The SDE of compressed SGD on `problem`, which is what each worker has.

        **Arguments:** `model`:

        - `"compagnoni"`: $dX = -\\eta_t \\nabla f(X)\\,dt + \\eta_t \\sqrt{\\eta / N}\\,\\big(\\Sigma(X)^{1/2} dW +
          \\sqrt\\omega\\,\\mathrm{diag}(\\nabla f(X)^2 + \\mathrm{diag}\\,\\Sigma(X))^{1/2} dW'\\big)$, with $\\eta_t$ the
          schedule relative to the reference rate. Given the stochastic gradients, what is left out of their coordinates is
          uncorrelated, and its variance is $\\omega g^2$: so the covariance of the mean is
          $\\frac1N \\big(\\Sigma + \\omega\\,\\mathrm{diag}(\\nabla f^2 + \\mathrm{diag}\\,\\Sigma)\\big)$ (after
          compagnonib2025; derived here from the moments of one step). The noise is a pair of Brownian motions.
        - `"ode"`: its drift alone.

        **Raises:** `ValueError` for another model, or noise without a covariance.
        """
        check_problem(problem)
        self.check_model(model)
        if model != "ode":
            check_covariance(problem, "CompressedSGD")
        return SDE(
            statistics=eqx.Partial(_sparse_statistics, problem, model),
            coefficients=eqx.Partial(_sparse_coefficients, self),
            position=itself,
            state_from_chain=parameters,
            chain=self.chain(problem),
            start_steps=0,
            model=model,
            noise_like=eqx.Partial(_sparse_increments, problem),
        )


class _MeanOfSigns(AbstractReceived):
    """The mean of the signs of the workers' stochastic gradients."""

    problem: Problem
    workers: int = eqx.field(static=True)

    @property
    def source(self) -> AbstractSource:
        return Workers(self.problem.noise.source, self.workers)

    def receive(self, params: PyTree, draw: WorkersDraws) -> PyTree:
        signs = jax.tree.map(jnp.sign, each_gradient(self.problem, params, draw))
        return jax.tree.map(lambda s: jnp.mean(s, axis=0), signs)


class _MeanOfSparse(AbstractReceived):
    """The mean of the workers' stochastic gradients, of each of which some coordinates are left out."""

    problem: Problem
    workers: int = eqx.field(static=True)
    omega: Array

    @property
    def source(self) -> AbstractSource:
        return Workers(self.problem.noise.source, self.workers)

    def receive(self, params: PyTree, draw: WorkersDraws) -> PyTree:
        leaves, structure = jax.tree.flatten(each_gradient(self.problem, params, draw))

        def mean(g: Array, key: Array) -> Array:
            kept = jax.random.bernoulli(key, (1 / (1 + self.omega)).astype(g.dtype), g.shape)
            return jnp.mean(jnp.where(kept, g, 0), axis=0) * (1 + self.omega).astype(g.dtype)

        keys = jax.random.split(draw.key, len(leaves))
        return jax.tree.unflatten(structure, [mean(g, key) for g, key in zip(leaves, keys, strict=True)])


def _signs(problem: Problem, x: PyTree) -> Signs:
    return sign_law(problem.noise, "DistributedSignSGD's SDE").signs(problem.gradient(x), x)


def _sign_coefficients(opt: DistributedSignSGD, model: str, now: Instant, x: PyTree, signs: Signs) -> tuple[PyTree, Any]:
    rate = opt.relative_rate(now.step)
    drift = jax.tree.map(lambda s: -rate * s, signs.mean)
    if model == "ode":
        return drift, None
    return drift, eqx.Partial(diffusion_of_a_step, rate * jnp.sqrt(opt.rate / opt.workers), signs.sqrt_covariance)


class SparseNoise(NamedTuple):
    """Two Brownian motions: the gradient's noise, and what compression leaves out."""

    gradient: PyTree
    left_out: PyTree


class _SparseStatistics(NamedTuple):
    gradient: PyTree
    root: Any
    square: PyTree
    """The mean square of each coordinate of a stochastic gradient."""


def _sparse_statistics(problem: Problem, model: str, x: PyTree) -> _SparseStatistics:
    gradient = problem.gradient(x)
    if model == "ode":
        return _SparseStatistics(gradient, None, None)
    square = jax.tree.map(lambda g, v: g * g + v, gradient, problem.noise.variance(x))
    return _SparseStatistics(gradient, problem.noise.sqrt_covariance(x), square)


def _sparse_coefficients(opt: CompressedSGD, now: Instant, x: PyTree, statistics: _SparseStatistics) -> tuple[PyTree, Any]:
    rate = opt.relative_rate(now.step)
    drift = jax.tree.map(lambda g: -rate * g, statistics.gradient)
    if statistics.root is None:
        return drift, None
    left_out = jax.tree.map(lambda s: jnp.sqrt(opt.omega * s), statistics.square)
    return drift, eqx.Partial(_sparse_diffusion, rate * jnp.sqrt(opt.rate / opt.workers), statistics.root, left_out)


def _sparse_diffusion(scale: Array, root: Callable[[PyTree], PyTree], left_out: PyTree, dw: SparseNoise) -> PyTree:
    return jax.tree.map(lambda z, r, u: -scale * (z + r * u), root(dw.gradient), left_out, dw.left_out)


def _sparse_increments(problem: Problem, x: PyTree) -> SparseNoise:
    return SparseNoise(problem.noise.increments_like(x), x)
