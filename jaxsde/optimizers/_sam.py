"""Sharpness-aware minimisation, SGD whose gradients are taken a step uphill: the chains and the SDEs."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._tree import size
from ..problems import AbstractScaleFamily, AbstractSource, Gaussian, MiniBatch, Problem
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
from ._received import AbstractReceived, received_problem
from ._roles import Roles

# The mean of a normalised gradient is an integral of a bell over an angle: so many of its widths, with so many nodes.
_WIDTHS, _NODES = 7.0, 40


class AbstractSharpnessAware(AbstractOptimizer):
    """SGD on stochastic gradients taken a step uphill along themselves; [`USAM`][] and [`SAM`][] say how far."""

    models: ClassVar[tuple[str, ...]] = ("compagnoni", "ode")
    learning_rate: Any
    rho: Float[Array, ""]
    reference_rate: Float[Array, ""] | None

    def __init__(self, learning_rate: LearningRate, rho: ArrayLike, *, reference_rate: ArrayLike | None = None):
        self.learning_rate, self.reference_rate = as_rates(learning_rate, reference_rate)
        self.rho = as_hyperparameter("rho", rho, low=0.0, closed="low")

    @abc.abstractmethod
    def uphill(self, problem: Problem) -> AbstractReceived:
        """The stochastic gradient that the chain receives on `problem`."""

    def transform(self) -> optax.GradientTransformation:
        """`optax.sgd`, for the gradient taken uphill."""
        return optax.sgd(self.learning_rate)

    def chain(self, problem: Problem) -> Chain:
        """The optimizer run on stochastic gradients of `problem`, each taken uphill along itself."""
        check_problem(problem)
        return Chain(self.transform, received_problem(self.uphill(problem)), self.rate)

    def _sde(self, problem: Problem, statistics: Callable[[PyTree], Any], model: str) -> SDE:
        return SDE(
            statistics=statistics,
            coefficients=eqx.Partial(_coefficients, self),
            position=itself,
            state_from_chain=parameters,
            chain=self.chain(problem),
            start_steps=0,
            model=model,
            noise_like=problem.noise.increments_like,
        )


class USAM(AbstractSharpnessAware):
    """Unnormalised SAM, $x_{k+1} = x_k - \\eta \\nabla f_\\gamma(x_k + \\rho \\nabla f_\\gamma(x_k))$ with the same draw
    $\\gamma$ twice: the same batch, or the same noise added to the gradient.

    **Arguments:**

    - `learning_rate`: $\\eta > 0$, a number or an Optax schedule.
    - `rho`: $\\rho \\ge 0$, in units of the parameters over those of the gradient.
    - `reference_rate`: required with a schedule: the rate that sets the clock, $t = k \\cdot$ `reference_rate`.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    >>> import jaxsde as js
    >>> chain = USAM(0.1, rho=0.5).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0)))
    >>> round(chain.step(chain.init(jnp.ones(1)), jax.random.key(0)).x.item(), 4)
    0.85
    """

    roles: ClassVar[Roles | None] = Roles()

    def uphill(self, problem: Problem) -> AbstractReceived:
        return _Uphill(problem, self.rho)

    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The SDE of unnormalised SAM on `problem`.

        **Arguments:** `model`:

        - `"compagnoni"`: $dX = -\\eta_t \\nabla \\tilde f(X)\\,dt + \\eta_t \\sqrt\\eta\\,\\tilde\\Sigma(X)^{1/2} dW$ with
          $\\tilde f = f + \\frac\\rho2 E \\|\\nabla f_\\gamma\\|^2 = f + \\frac\\rho2 (\\|\\nabla f\\|^2 +
          \\mathrm{tr}\\,\\Sigma)$, $\\tilde\\Sigma = \\Sigma + \\rho (\\hat\\Sigma + \\hat\\Sigma^\\top)$ and
          $\\hat\\Sigma = \\mathrm{Cov}(\\nabla f_\\gamma, \\nabla^2 f_\\gamma \\nabla f_\\gamma)$ (after compagnoni2023), with
          $\\eta_t$ the schedule relative to the reference rate. Derived here from the moments of one step: to first order in
          $\\rho$, $\\nabla f_\\gamma(x + \\rho \\nabla f_\\gamma) = \\nabla f_\\gamma + \\frac\\rho2 \\nabla \\|\\nabla
          f_\\gamma\\|^2$. For noise of constant law $(1 + \\rho \\nabla^2 f)\\,\\Sigma^{1/2}$ is taken as the root, the same to
          that order; on quadratics drift and diffusion are then exact. On mini-batches it is
          $R + \\rho\\,(\\nabla^2 f R + (\\nabla f \\cdot \\nabla) R)$ with the root $R$ of $\\Sigma$ that needs no matrix, the
          same to that order but for third moments of the batch's noise; the drift takes the examples' gradients.
        - `"ode"`: its drift alone.

        **Raises:** `ValueError` for another model, noise without a covariance, or noise of which it is not known what one draw
        is at two points: all but laws of the package that are constant, and [`MiniBatch`][].
        """
        check_problem(problem)
        self.check_model(model)
        _check_draws(problem)
        if model != "ode" or isinstance(problem.noise, MiniBatch):
            check_covariance(problem, "USAM")
        return self._sde(problem, eqx.Partial(_statistics, self, problem, model), model)


class SAM(AbstractSharpnessAware):
    """SAM, $x_{k+1} = x_k - \\eta \\nabla f_\\gamma(x_k + \\rho\\,g_k / \\|g_k\\|)$ with $g_k = \\nabla f_\\gamma(x_k)$ and
    the same draw $\\gamma$ twice, as in [`USAM`][].

    **Arguments:** those of [`USAM`][]; here $\\rho$ is a length in the space of the parameters.

    **Raises:** `ValueError` for hyperparameters out of range, or arrays of them; `TypeError` for what is no real number, or a
    schedule that JAX cannot trace.

    >>> import jaxsde as js
    >>> chain = SAM(0.1, rho=0.5).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0)))
    >>> round(chain.step(chain.init(jnp.full(1, 2.0)), jax.random.key(0)).x.item(), 4)
    1.75
    """

    def uphill(self, problem: Problem) -> AbstractReceived:
        return _FarUphill(problem, self.rho)

    def sde(self, problem: Problem, model: str = "compagnoni") -> SDE:
        """The SDE of SAM on `problem` with Gaussian noise of one standard deviation $\\sigma$ in all d coordinates.

        **Arguments:** `model`:

        - `"compagnoni"`: $dX = -\\eta_t \\nabla \\big(f + \\rho\\,E \\|\\nabla f_\\gamma\\|\\big)(X)\\,dt +
          \\eta_t \\sqrt\\eta\\,\\tilde\\Sigma(X)^{1/2} dW$ with $\\tilde\\Sigma = \\Sigma + \\rho (\\hat\\Sigma +
          \\hat\\Sigma^\\top)$ and $\\hat\\Sigma = \\mathrm{Cov}(\\nabla f_\\gamma, \\nabla^2 f_\\gamma \\nabla f_\\gamma /
          \\|\\nabla f_\\gamma\\|)$ (after compagnoni2023), with $\\eta_t$ the schedule relative to the reference rate. For this
          noise (derived here) $\\nabla E \\|\\nabla f_\\gamma\\| = \\nabla^2 f\\,u(\\nabla f)$ with the mean direction
          $u(g) = E \\frac{g + Z}{\\|g + Z\\|} = \\sqrt{\\frac2\\pi}\\,\\frac g\\sigma \\int_0^{\\pi/2} \\cos^d\\theta\\;
          e^{-\\|g\\|^2 \\sin^2\\theta / (2 \\sigma^2)}\\,d\\theta$. By Stein's lemma
          $\\hat\\Sigma = \\sigma^2 \\nabla u\\,\\nabla^2 f$, so that $\\sigma\\,(1 + \\rho \\nabla^2 f\\,\\nabla u)$ is a
          root to first order in $\\rho$. On quadratics the drift is exact. In one dimension, where a direction is a sign,
          $u(g) = \\mathrm{Erf}(g / (\\sqrt2 \\sigma))$.
        - `"ode"`: its drift alone.

        **Raises:** `ValueError` for another model, or other noise.
        """
        check_problem(problem)
        self.check_model(model)
        noise: Any = problem.noise
        if not (type(noise) is Gaussian and noise.independent and [s.shape for s in jax.tree.leaves(noise.scale)] == [()]):
            raise ValueError(
                "SAM's SDE takes the mean of a normalised gradient, and is there for Gaussian noise with one standard "
                f"deviation for all coordinates, such as jaxsde.Gaussian(0.5); got {type(noise).__name__} noise"
                + (" of another covariance" if type(noise) is Gaussian else "")
            )
        return self._sde(problem, eqx.Partial(_far_statistics, self, problem, model), model)


class _Uphill(AbstractReceived):
    """A stochastic gradient taken uphill along itself, with the same draw."""

    problem: Problem
    rho: Array

    @property
    def source(self) -> AbstractSource:
        return self.problem.noise.source

    def receive(self, params: PyTree, draw: Any) -> PyTree:
        gradient = self.problem.stochastic_gradient(params, draw)
        uphill = jax.tree.map(lambda x, g: x + self.rho.astype(x.dtype) * g, params, gradient)
        return self.problem.stochastic_gradient(uphill, draw)


class _FarUphill(AbstractReceived):
    """A stochastic gradient taken at a distance uphill along itself, with the same draw."""

    problem: Problem
    rho: Array

    @property
    def source(self) -> AbstractSource:
        return self.problem.noise.source

    def receive(self, params: PyTree, draw: Any) -> PyTree:
        gradient = self.problem.stochastic_gradient(params, draw)
        squared = _squared(gradient)
        far = jnp.where(squared > 0, self.rho / jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
        uphill = jax.tree.map(lambda x, g: x + far.astype(x.dtype) * g, params, gradient)
        return self.problem.stochastic_gradient(uphill, draw)


class _Statistics(NamedTuple):
    gradient: PyTree
    """The mean gradient uphill."""
    root: Callable[[PyTree], PyTree] | None


def _check_draws(problem: Problem) -> None:
    noise = problem.noise
    if not (type(noise) in (Gaussian, MiniBatch) or isinstance(noise, AbstractScaleFamily)):
        raise ValueError(
            "USAM's SDE needs to know what one draw of the noise is at two points, as of a law of the package that is "
            f"constant, or of mini-batches; got {type(noise).__name__}"
        )


def _plus(scale: Array, a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a + scale.astype(a.dtype) * b, a, b)


def _statistics(opt: USAM, problem: Problem, model: str, x: PyTree) -> _Statistics:
    gradient, hessian = jax.linearize(problem.gradient, x)
    noise, batches = problem.noise, isinstance(problem.noise, MiniBatch)
    uphill = _plus(opt.rho, gradient, hessian(gradient))
    if batches:
        trace = lambda x: sum(jnp.sum(v) for v in jax.tree.leaves(noise.variance(x)))
        uphill = _plus(0.5 * opt.rho, uphill, jax.grad(trace)(x))
    if model == "ode":
        return _Statistics(uphill, None)

    def root(dw: PyTree) -> PyTree:
        if not batches:
            z = noise.sqrt_covariance(x)(dw)
            return _plus(opt.rho, z, hessian(z))
        z, change = jax.jvp(lambda x: noise.sqrt_covariance(x)(dw), (x,), (gradient,))
        return _plus(opt.rho, z, jax.tree.map(jnp.add, hessian(z), change))

    return _Statistics(uphill, root)


def _far_statistics(opt: SAM, problem: Problem, model: str, x: PyTree) -> _Statistics:
    gradient, hessian = jax.linearize(problem.gradient, x)
    noise: Any = problem.noise
    direction, turned = jax.linearize(lambda g: mean_direction(g, noise.scale), gradient)
    uphill = _plus(opt.rho, gradient, hessian(direction))
    if model == "ode":
        return _Statistics(uphill, None)

    def root(dw: PyTree) -> PyTree:
        z = noise.sqrt_covariance(x)(dw)
        return _plus(opt.rho, z, hessian(turned(z)))

    return _Statistics(uphill, root)


def _squared(tree: PyTree) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(tree)]))


def mean_direction(gradient: PyTree, scale: PyTree) -> PyTree:
    """$E \\frac{g + Z}{\\|g + Z\\|}$ for Gaussian Z with that standard deviation in all coordinates; 0 where nothing points."""
    squared = _squared(gradient)
    sigma, count = jax.tree.leaves(scale)[0].astype(squared.dtype), size(gradient)
    # The integrand is a bell over the angle, of the width sigma over this length.
    total = squared + count * sigma**2
    length = jnp.sqrt(jnp.where(total > 0, total, 1))
    noisy = sigma * _WIDTHS > 0.5 * np.pi * jnp.finfo(squared.dtype).eps * length
    most = jnp.where(noisy, 0.5 * np.pi / jnp.where(noisy, sigma, 1), jnp.inf)
    reach = jnp.minimum(_WIDTHS / length, most)  # of the angle over sigma
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    places = reach * jnp.asarray(0.5 * (1 + nodes), squared.dtype)
    sine = places * jnp.sinc(sigma * places / np.pi)  # over sigma
    bell = jnp.exp(0.5 * count * jnp.log1p(-((sigma * sine) ** 2)) - 0.5 * squared * sine**2)
    mean = jnp.sqrt(2 / np.pi).astype(squared.dtype) * 0.5 * reach * jnp.sum(bell * jnp.asarray(weights, squared.dtype))
    return jax.tree.map(lambda g: mean.astype(g.dtype) * g, gradient)


def _coefficients(opt: AbstractSharpnessAware, now: Instant, x: PyTree, statistics: _Statistics) -> tuple[PyTree, Any]:
    rate = opt.relative_rate(now.step)
    drift = jax.tree.map(lambda g: -rate * g, statistics.gradient)
    if statistics.root is None:
        return drift, None
    return drift, eqx.Partial(diffusion_of_a_step, rate * jnp.sqrt(opt.rate), statistics.root)
