"""jaxsde stationary."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .. import _checks, reporting, theory
from ..estimation import extrapolate_law, stationary
from ._setup import Setup


@dataclasses.dataclass(frozen=True)
class Stationary(Setup):
    """Estimates the stationary law of an optimizer and of its SDE, and sets them beside the closed forms.

    Prints mean, covariance and loss with standard errors, by how much control variates cut the variance, R-hat,
    effective sample sizes, and whether the runs are stationary. The SDE's numbers are extrapolated to a solver step of
    zero from two runs.
    """

    steps: int | None = None
    """Optimizer steps; by default as many as it takes."""
    seeds: int = 20_000
    """Noise seeds."""
    substeps: int = 4
    """Solver steps of the SDE per optimizer step, in the coarser of its two runs."""
    spread: float = 0.0
    """The standard deviation of the seeds' starts about --start. Wider than the stationary law, it shows whether seeds from
    different places come to the same law; but then there are no control variates."""


def run_stationary(arguments: Stationary) -> None:
    """Estimates and prints."""
    _checks.number("spread", arguments.spread, low=0.0, closed="low")
    opt, problem, start = arguments.build()
    x0 = start
    if arguments.spread:
        x0 = functools.partial(_scattered, start, arguments.spread)
    common: dict[str, Any] = dict(key=arguments.key, seeds=arguments.seeds, steps=arguments.steps)
    columns: dict[str, Any] = {}
    notes: list[str] = []
    try:
        with arguments.resumed():
            columns["optimizer"] = stationary(opt.chain(problem), x0, **common)
            try:
                sde = opt.sde_for(problem, arguments.model or opt.default_model, start)
                runs = [stationary(sde, x0, substeps=n * arguments.substeps, **common) for n in (1, 2)]
                columns["SDE"] = extrapolate_law(*runs)
            except ValueError as error:
                notes.append(f"no SDE: {error}")
    except KeyboardInterrupt:
        if columns:
            print(reporting.stationary_table(columns, {}, ["interrupted before the SDE's law was done"]))
        raise
    forms = {}
    for name, form in (("theory", theory.stationary), ("discrete theory", theory.discrete_stationary)):
        try:
            forms[name] = form(opt, problem)
        except ValueError as error:
            notes.append(f"no {name}: {error}")
    # Seeds that start in one place are on one lattice.
    forms |= _exact(opt, problem, None if arguments.spread else arguments.start)
    print(reporting.stationary_table(columns, forms, notes))


def _scattered(x0: Any, spread: float, key: jax.Array) -> Any:
    """A normal start about `x0`."""
    vector, unravel = ravel_pytree(x0)
    return unravel(vector + spread * jax.random.normal(key, vector.shape, vector.dtype))


def _exact(opt: Any, problem: Any, offset: float | None) -> dict[str, theory.Law]:
    """Exact laws of one-dimensional problems, by detailed balance and by quadrature."""
    exact = {}
    references = {
        "exact optimizer": lambda: theory.birth_death(opt, problem, offset),
        "exact SDE": lambda: theory.density(opt.sde(problem)),
    }
    for name, reference in references.items():
        try:
            with warnings.catch_warnings():  # which the SDE gave above
                warnings.simplefilter("ignore")
                law = reference()
        except ValueError:
            continue  # these exist in one dimension, for few optimizers
        mean, variance = jnp.atleast_1d(law.mean), jnp.atleast_2d(law.variance)
        exact[name] = theory.Law(mean, variance, jnp.asarray(jnp.nan))
    return exact
