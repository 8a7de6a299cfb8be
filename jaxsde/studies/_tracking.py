"""How far a model's loss is from an optimizer's, by runs on the same noise, without the solver's error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ..optimizers import AbstractOptimizer, SignSGD, SquareNoise
from ..problems import AsGaussian, Gaussian, Problem
from ..processes import SDE, Paired, PairedPosition
from ..simulation import Ensemble, simulate

MODELS = {"compagnoni": "paper", "second-order": "second order", "malladi": "malladi", "ode": "ode"}

# Twice as many solver steps remove the error of first order in their length.
_SUBSTEPS = 2, 4

# What shares no noise with the optimizer is compared with its mean alone: of so many times the seeds, and an SDE, whose seeds
# cost more, of so many.
_MORE_SEEDS, _MORE_OF_SDES = 8, 4


class Run(NamedTuple):
    """What all runs have in common."""

    steps: int
    every: int
    seeds: int
    key: PRNGKeyArray


class Tracked(NamedTuple):
    """A model's mean loss less the optimizer's, at the times after the start."""

    difference: np.ndarray
    stderr: np.ndarray
    """Its standard error, at most: for AdamW's SDE it has been found to be half of this."""
    spread: float
    """The model's standard deviation over the optimizer's; 0 for an ODE."""
    solver: float
    """What the extrapolation has taken off, in the optimizer's spreads: the error of the solver with the most steps."""


class Tracking(NamedTuple):
    """What [`track`][] returns."""

    ts: np.ndarray
    loss: np.ndarray
    """The optimizer's mean loss at `ts`."""
    spread: float
    """Its standard deviation over seeds, averaged over the times after the start."""
    models: dict[str, Tracked]
    law: Tracked | None
    """The optimizer on the problem's own noise, in place of a model: what the law of the noise does, beyond its covariance.
    None where that noise is normal."""

    @property
    def decrease(self) -> float:
        """By how much the optimizer's mean loss falls."""
        return float(self.loss[0] - self.loss.min())

    def gap(self, label: str) -> tuple[float, float]:
        """The mean over times of the absolute difference of the mean losses, and its standard error, in the loss's units."""
        return _gap(self.models[label])

    @property
    def law_gap(self) -> tuple[float, float]:
        """The same for `law`."""
        assert self.law is not None
        return _gap(self.law)


def _gap(found: Tracked) -> tuple[float, float]:
    return float(np.mean(np.abs(found.difference))), float(np.mean(found.stderr))


def track(optimizer: AbstractOptimizer, problem: Problem, x0: Any, run: Run, models: dict[str, str] = MODELS) -> Tracking:
    """Runs an optimizer on normal noise, and the models of it that there are.

    Model and optimizer share their noise, seed by seed: their difference takes few seeds. Where the problem's own noise is not
    normal, that of the optimizer here is as strong, and the optimizer on the problem's own is compared with it as well.

    **Arguments:** `optimizer`, `problem`; `x0`; `run`; `models`: labels by the names of models.

    **Returns:** a [`Tracking`][].
    """
    normal = problem if isinstance(problem.noise, Gaussian) else Problem(problem.loss, AsGaussian(problem.noise))
    # A sign's noise is made of the gradient's where this is independent over the coordinates.
    apart = isinstance(optimizer, SignSGD) and not normal.noise.independent
    shared: dict[str, Any] = dict(steps=run.steps, every=run.every, progress=False)
    more = dict(seeds=_MORE_SEEDS * run.seeds, observe={"loss": problem.loss})
    many = simulate(optimizer.chain(normal), x0, key=jax.random.fold_in(run.key, 0), **more, **shared)
    own = _Losses.of(many)
    found = {}
    for number, (model, label) in enumerate(models.items()):
        if model not in optimizer.models:
            continue
        sde = optimizer.sde(problem if apart else normal, model=model)
        settings = shared | {"key": jax.random.fold_in(run.key, 1 + number)}
        if apart or model == "ode":
            # The optimizer's steps that lead to an ODE's start are noisy.
            seeds = _MORE_OF_SDES * run.seeds if model != "ode" else 32 if sde.start_steps else 1
            found[label] = _on_its_own(sde, x0, own, settings | more | {"seeds": seeds})
        else:
            found[label] = _with_the_same_noise(sde, x0, run.seeds, own.spread, settings)
    law = None
    if normal is not problem:
        key = jax.random.fold_in(run.key, 1 + len(models))
        other = _Losses.of(simulate(optimizer.chain(problem), x0, key=key, **more, **shared))
        difference, stderr = other.mean - own.mean, np.hypot(other.stderr, own.stderr)
        law = Tracked(difference[1:], stderr[1:], other.spread / own.spread, 0.0)
    return Tracking(np.asarray(many.ts, float), own.mean, own.spread, found, law)


class _Losses(NamedTuple):
    """The mean loss at the times of a run, its standard error, and the mean of its standard deviation after the start."""

    mean: np.ndarray
    stderr: np.ndarray
    spread: float

    @staticmethod
    def of(run: Ensemble) -> "_Losses":
        mean, variance = (np.asarray(part, float) for part in (run["loss"].mean, run["loss"].variance))
        if run.seeds == 1:
            return _Losses(mean, np.zeros_like(mean), 0.0)
        return _Losses(mean, np.asarray(run["loss"].stderr, float), float(np.mean(np.sqrt(variance[1:]))))


def _with_the_same_noise(sde: SDE, x0: Any, seeds: int, spread: float, settings: dict[str, Any]) -> Tracked:
    loss = sde.problem.loss
    observe = {
        name: eqx.Partial(of, loss)
        for name, of in (("difference", _difference), ("model", _of_model), ("optimizer", _of_optimizer))
    }
    coarse, fine = (
        simulate(Paired(sde.discretised(n, "gaussian"), of_gradient), x0, seeds=seeds, observe=observe, **settings)
        for n in _SUBSTEPS
    )
    (one, error), (two, its_error) = (
        (np.asarray(part, float)[1:] for part in (r["difference"].mean, r["difference"].stderr)) for r in (coarse, fine)
    )
    model, own = (np.sqrt(np.asarray(fine[name].variance, float)[1:]) for name in ("model", "optimizer"))
    solver = float(np.mean(np.abs(two - one))) / spread
    # Both runs have the same key, so their errors go together: the extrapolated error is at most what independent ones give.
    return Tracked(2 * two - one, np.hypot(2 * its_error, error), float(np.mean(model) / np.mean(own)), solver)


def _on_its_own(sde: SDE, x0: Any, own: _Losses, settings: dict[str, Any]) -> Tracked:
    one, two = (_Losses.of(simulate(sde, x0, substeps=n, **settings)) for n in _SUBSTEPS)
    solver = float(np.mean(np.abs(two.mean - one.mean)[1:])) / own.spread
    ode = sde.model == "ode"
    # An ODE's two runs start from the same places.
    error = two.stderr if ode else np.hypot(2 * two.stderr, one.stderr)
    difference, stderr = 2 * two.mean - one.mean - own.mean, np.hypot(own.stderr, error)
    return Tracked(difference[1:], stderr[1:], 0.0 if ode else two.spread / own.spread, solver)


def of_gradient(dw: Any) -> Any:
    """The increment of the gradient's noise, of an SDE's increments."""
    return dw.gradient if isinstance(dw, SquareNoise) else dw


def _difference(loss: Callable[[Any], Any], seen: PairedPosition) -> Any:
    return loss(seen.sde) - loss(seen.chain)


def _of_model(loss: Callable[[Any], Any], seen: PairedPosition) -> Any:
    return loss(seen.sde)


def _of_optimizer(loss: Callable[[Any], Any], seen: PairedPosition) -> Any:
    return loss(seen.chain)
