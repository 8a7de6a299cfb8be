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
from ._output import Output, prepare_picture_and_numbers, write_files
from ._setup import Setup


@dataclasses.dataclass(frozen=True)
class Stationary(Output, Setup):
    """Estimates the stationary law of an optimizer and of its SDE, and sets them beside the closed forms.

    Prints mean, covariance and loss with standard errors, by how much control variates cut the variance, R-hat,
    effective sample sizes, and whether the runs are stationary. The SDE's numbers are extrapolated to a solver step of
    zero from two runs. Then come quantiles of the whole laws of the parameters and of the loss (the SDE's from the finer
    of the two runs) and their distances, and a picture and a netCDF file of the laws are written.
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
    prepare_picture_and_numbers(arguments.out)
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
                coarse = stationary(sde, x0, substeps=arguments.substeps, observe={}, **common)
                fine = stationary(sde, x0, substeps=2 * arguments.substeps, **common)
                columns["SDE"] = extrapolate_law(coarse, fine)
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
    exact = _exact(opt, problem, arguments.model, None if arguments.spread else arguments.start)
    forms |= {f"exact {name}": _moments(law) for name, law in exact.items()}
    print(reporting.stationary_table(columns, forms, notes))
    print(f"\n{reporting.laws_table(columns, exact)}")
    verdict = reporting.laws_verdict(columns, exact)
    title = ". ".join(filter(None, (f"{type(opt).__name__} on {arguments.problem}", verdict)))
    name = f"jaxsde-stationary-{arguments.label}-{arguments.problem}"
    writers = {
        f"{name}.png": lambda path: reporting.plot_laws(columns, exact, title=title).savefig(path, dpi=150),
        f"{name}.nc": lambda path: reporting.save_laws(columns, path),
    }
    picture, numbers = write_files(arguments.out, writers, force=arguments.force)
    print(f"wrote {picture} and {numbers}")


def _scattered(x0: Any, spread: float, key: jax.Array) -> Any:
    """A normal start about `x0`."""
    vector, unravel = ravel_pytree(x0)
    return unravel(vector + spread * jax.random.normal(key, vector.shape, vector.dtype))


def _exact(opt: Any, problem: Any, model: str | None, offset: float | None) -> dict[str, Any]:
    """Exact laws of one-dimensional problems, by detailed balance and by quadrature."""
    exact = {}
    references = {
        "optimizer": lambda: theory.birth_death(opt, problem, offset),
        "SDE": lambda: theory.density(opt.sde(problem, model or opt.default_model)),
    }
    for name, reference in references.items():
        try:
            with warnings.catch_warnings():  # which the SDE gave above
                warnings.simplefilter("ignore")
                exact[name] = reference()
        except ValueError:
            continue  # these exist in one dimension, for few optimizers
    return exact


def _moments(law: Any) -> theory.Law:
    return theory.Law(jnp.atleast_1d(law.mean), jnp.atleast_2d(law.variance), jnp.asarray(jnp.nan))
