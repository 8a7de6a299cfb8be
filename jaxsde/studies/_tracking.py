"""How far a model's loss is from an optimizer's, by runs on the same noise, without the solver's error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ..optimizers import AbstractOptimizer, SquareNoise
from ..problems import Problem
from ..processes import SDE, Paired, PairedPosition
from ..simulation import simulate

MODELS = {"compagnoni": "paper", "second-order": "second order", "malladi": "malladi", "ode": "ode"}

# Twice as many solver steps remove the error of first order in their length.
_SUBSTEPS = 2, 4

# An ODE has no noise to share, so the optimizer's own mean has to do: of so many times the seeds.
_MORE_SEEDS = 8


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

    @property
    def decrease(self) -> float:
        """By how much the optimizer's mean loss falls."""
        return float(self.loss[0] - self.loss.min())

    def gap(self, label: str) -> tuple[float, float]:
        """The mean over times of the absolute difference of the mean losses, and its standard error, in the loss's units."""
        found = self.models[label]
        return float(np.mean(np.abs(found.difference))), float(np.mean(found.stderr))


def track(optimizer: AbstractOptimizer, problem: Problem, x0: Any, run: Run, models: dict[str, str] = MODELS) -> Tracking:
    """Runs an optimizer and the models of it that there are, on normal noise.

    Model and optimizer share their noise, seed by seed: their difference takes few seeds.

    **Arguments:** `optimizer`, `problem`: its noise is Gaussian with independent coordinates; `x0`; `run`; `models`: labels by
    the names of models.

    **Returns:** a [`Tracking`][].
    """
    shared: dict[str, Any] = dict(steps=run.steps, every=run.every, progress=False)
    many = simulate(
        optimizer.chain(problem), x0, seeds=_MORE_SEEDS * run.seeds, key=jax.random.fold_in(run.key, 0),
        observe={"loss": problem.loss}, **shared,
    )  # fmt: skip
    loss, stderr = (np.asarray(part, float) for part in (many["loss"].mean, many["loss"].stderr))
    spread = float(np.mean(np.sqrt(np.asarray(many["loss"].variance, float)[1:])))
    found = {}
    for number, (model, label) in enumerate(models.items()):
        if model not in optimizer.models:
            continue
        sde = optimizer.sde(problem, model=model)
        key = jax.random.fold_in(run.key, 1 + number)
        if model == "ode":
            found[label] = _without_noise(sde, x0, problem, loss, stderr, spread, shared | {"key": key})
        else:
            found[label] = _with_noise(sde, x0, problem, run.seeds, spread, shared | {"key": key})
    return Tracking(np.asarray(many.ts, float), loss, spread, found)


def _with_noise(sde: SDE, x0: Any, problem: Problem, seeds: int, spread: float, shared: dict[str, Any]) -> Tracked:
    observe = {
        name: eqx.Partial(of, problem.loss)
        for name, of in (("difference", _difference), ("model", _of_model), ("optimizer", _of_optimizer))
    }
    coarse, fine = (
        simulate(Paired(sde.discretised(n, "gaussian"), of_gradient), x0, seeds=seeds, observe=observe, **shared)
        for n in _SUBSTEPS
    )
    (one, error), (two, its_error) = (
        (np.asarray(part, float)[1:] for part in (r["difference"].mean, r["difference"].stderr)) for r in (coarse, fine)
    )
    model, own = (np.sqrt(np.asarray(fine[name].variance, float)[1:]) for name in ("model", "optimizer"))
    solver = float(np.mean(np.abs(two - one))) / spread
    # Both runs have the same key, so their errors go together: the extrapolated error is at most what independent ones give.
    return Tracked(2 * two - one, np.hypot(2 * its_error, error), float(np.mean(model) / np.mean(own)), solver)


def _without_noise(
    sde: SDE, x0: Any, problem: Problem, loss: np.ndarray, stderr: np.ndarray, spread: float, shared: dict[str, Any]
) -> Tracked:
    # The optimizer's steps that lead to an ODE's start are noisy.
    seeds = 32 if sde.start_steps else 1
    one, two = (simulate(sde, x0, seeds=seeds, substeps=n, observe={"loss": problem.loss}, **shared)["loss"] for n in _SUBSTEPS)
    ends = [np.asarray(run.mean, float)[1:] for run in (one, two)]
    own = np.asarray(two.stderr, float)[1:] if seeds > 1 else 0.0
    solver = float(np.mean(np.abs(ends[1] - ends[0]))) / spread
    return Tracked(2 * ends[1] - ends[0] - loss[1:], np.hypot(stderr[1:], own), 0.0, solver)


def of_gradient(dw: Any) -> Any:
    """The increment of the gradient's noise, of an SDE's increments."""
    return dw.gradient if isinstance(dw, SquareNoise) else dw


def _difference(loss: Callable[[Any], Any], seen: PairedPosition) -> Any:
    return loss(seen.sde) - loss(seen.chain)


def _of_model(loss: Callable[[Any], Any], seen: PairedPosition) -> Any:
    return loss(seen.sde)


def _of_optimizer(loss: Callable[[Any], Any], seen: PairedPosition) -> Any:
    return loss(seen.chain)
