"""Control variates: expectations along a process with most of their sampling noise taken out, exactly."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, PyTree

from .. import _checks, _random
from .._tree import cast, flat, is_sampler, size
from ..processes import SDE, Accompanied, Chain, Sighting, Tangent, TangentLaw
from ..simulation import AbstractIncrements, Moments, simulate

# Beyond this many numbers in an SDE's state its covariance costs more than the seeds that it saves.
_LARGEST_STATE = 64
_START_DRAWS = 256

Functions = Mapping[str, Callable[[PyTree], PyTree]]


class Expectation(NamedTuple):
    """Means of a function of the parameters over seeds, with a leading axis of times."""

    mean: np.ndarray
    stderr: np.ndarray
    reduction: np.ndarray
    """By how much the control variate divided the variance of the mean; 1 where none was used."""


class Expectations(NamedTuple):
    """What [`expectations`][] returns."""

    ts: np.ndarray
    steps: np.ndarray
    diverged: np.ndarray
    values: dict[str, Expectation]

    def __getitem__(self, name: str) -> Expectation:
        return self.values[name]


def expectations(
    process: Chain | SDE,
    x0: Any,
    functions: Functions,
    *,
    steps: int,
    seeds: int,
    key: PRNGKeyArray,
    every: int | None = None,
    substeps: int = 1,
    increments: str | AbstractIncrements | None = None,
    progress: bool = True,
) -> Expectations:
    """Expectations $E\\,g(X_t)$ along a process, by control variates where the process has a linearisation.

    With each seed runs the tangent process $m + \\delta$: the noiseless trajectory and the deviation from it to first
    order, driven by the same noise. Its mean and covariance $C$ are known exactly, and so is the expectation of the
    Taylor polynomial $c = \\nabla g(m) \\cdot \\delta + \\frac12 \\delta^\\top \\nabla^2 g(m)\\,\\delta$, which is
    $\\frac12 \\mathrm{tr}(\\nabla^2 g(m)\\,C)$. The estimate is the mean of $g(x) - c$ plus that: unbiased, whatever the
    distance between the two processes, and with little variance where they are close. Entries whose variance the
    control does not reduce are plain means.

    **Arguments:**

    - `process`, `x0`, `steps`, `seeds`, `key`, `every`, `substeps`, `increments`, `progress`: as in [`simulate`][].
      Where `x0` is a function that draws a start, the means are plain ones.
    - `functions`: of the parameters, by name, twice differentiable, to arrays or pytrees of them.

    **Returns:** [`Expectations`][]: `.ts`, `.steps`, and by name `.mean`, `.stderr` and `.reduction` of shape
    `(n, k)` (`(n,)` for functions to scalars), the function's values raveled.

    **Raises:** as [`simulate`][].

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> chain = js.SGD(0.1).chain(problem)
    >>> run = expectations(chain, jnp.ones(1), {"loss": problem.loss}, steps=9, seeds=9, key=jax.random.key(0))
    >>> round(float(run["loss"].mean[-1]), 3)  # SGD is linear here: nine seeds are exact
    0.097
    """
    _checks.instance("process", process, (Chain, SDE), "an optimizer's chain(problem) or sde(problem)")
    functions = _checks.functions("functions", functions)
    steps, seeds, substeps = (
        _checks.count(name, value) for name, value in (("steps", steps), ("seeds", seeds), ("substeps", substeps))
    )
    key = _random.checked_key(key)
    common: dict[str, Any] = dict(steps=steps, seeds=seeds, key=key, every=every, substeps=substeps)
    common |= dict(increments=increments, progress=progress, reduce=Moments())
    companion = accompany(process, x0, substeps)
    if companion is None:
        run = simulate(process, x0, observe={n: eqx.Partial(_flat, f) for n, f in functions.items()}, **common)
        values = {n: _plain(run[n]) for n in functions}
    else:
        run = simulate(companion, x0, observe=observables(functions), **common)
        law = tangent_law(companion, steps, run.steps, substeps)
        known = expected_controls(functions, law)
        values = {n: _controlled(run[n], run[f"{n} controlled"], known[n]) for n in functions}
    example = x0(key) if is_sampler(x0) else x0
    for name, function in functions.items():
        if getattr(jax.eval_shape(function, example), "shape", None) == ():
            values[name] = Expectation(*(v[:, 0] for v in values[name]))
    return Expectations(np.asarray(run.ts, float), np.asarray(run.steps), np.asarray(run.diverged), values)


def accompany(process: Chain | SDE, x0: Any, substeps: int = 1) -> Accompanied | None:
    """The process with its tangent process beside it, or None where there is none to be had."""
    if is_sampler(x0):
        return None
    sde = process
    if isinstance(process, Chain):
        if process.make_sde is None:
            return None
        sde = _nearest_sde(process.make_sde)
        if sde is None or sde.innovation is None:
            return None
    x0 = process.problem.validate(x0)
    sde = cast(sde, jnp.result_type(*jax.tree.leaves(x0)))
    # Any deterministic state near the mean at the SDE's start will do.
    keys = jax.random.split(jax.random.key(0), _START_DRAWS if sde.start_steps else 1)
    start = _mean_start(sde, x0, keys)
    if size(start) > _LARGEST_STATE:
        return None
    first = sde.start_steps * (substeps if isinstance(process, SDE) else 1)
    return Accompanied(process, Tangent(sde, start, jnp.asarray(first, jnp.int32)))


def _nearest_sde(make: Callable[..., SDE]) -> SDE | None:
    """The SDE that is nearest to its optimizer path by path; None where the optimizer has none on this problem."""
    for model in ({"model": "compagnoni-full"}, {}):
        try:
            return make(**model)
        except (ValueError, NotImplementedError):
            continue
    return None


def tangent_law(companion: Accompanied, steps: int, recorded: Array, substeps: int) -> TangentLaw:
    """The tangent process's law at the `recorded` optimizer steps."""
    per_step = substeps if isinstance(companion.process, SDE) else 1
    records = len(recorded)
    every = steps // max(1, records - 1)
    tangent = companion.tangent
    h = companion.learning_rate.astype(flat(tangent.start).dtype) / per_step
    stop = jnp.asarray(steps * per_step, jnp.int32)
    return _law(tangent, h, stop, jnp.asarray(every * per_step, jnp.int32), records)


@eqx.filter_jit
def _law(tangent: Tangent, h: Array, stop: Array, every: Array, records: int) -> TangentLaw:
    return tangent.law(h, stop, every, records)


def observables(functions: Functions) -> dict[str, Callable[[Sighting], Array]]:
    """What to record for `functions`: their values, and their values minus the control."""
    plain = {name: eqx.Partial(_value, f) for name, f in functions.items()}
    return plain | {f"{name} controlled": eqx.Partial(_remainder, f) for name, f in functions.items()}


def expected_controls(functions: Functions, law: TangentLaw) -> dict[str, np.ndarray]:
    """The exact expectations of the controls, shape `(n, k)`."""

    functions = cast(dict(functions), flat(law.mean).dtype)  # as `simulate` does
    return {name: np.asarray(_half_traces(f, law), float) for name, f in functions.items()}


@eqx.filter_jit
def _mean_start(sde: SDE, x0: PyTree, keys: Array) -> PyTree:
    return jax.tree.map(lambda y: jnp.mean(y, axis=0), jax.vmap(lambda k: sde.init(x0, k)[1])(keys))


@eqx.filter_jit
def _half_traces(function: Any, law: TangentLaw) -> Array:
    def one(mean: PyTree, covariance: Array) -> Array:
        vector, unravel = ravel_pytree(mean)
        hessian = jax.hessian(lambda v: flat(function(unravel(v))))(vector)
        return _or_nothing(0.5 * jnp.einsum("kij,ij->k", hessian, covariance))

    return jax.vmap(one)(law.mean, law.covariance)


def _value(function: Any, seen: Sighting) -> Array:
    return _flat(function, seen.x)


def _remainder(function: Any, seen: Sighting) -> Array:
    """g(x) minus the second-order Taylor polynomial of g about the mean at the deviation, without its constant term."""

    def slope(mean: PyTree) -> PyTree:
        return jax.jvp(function, (mean,), (seen.deviation,))[1]

    first, second = jax.jvp(slope, (seen.mean,), (seen.deviation,))
    return _flat(function, seen.x) - _or_nothing(flat(first) + 0.5 * flat(second))


def _or_nothing(control: Array) -> Array:
    # A function that is not differentiable at the mean, as a norm at 0, has no control there; its mean is a plain one.
    return jnp.where(jnp.isfinite(control), control, 0)


def _flat(function: Any, x: PyTree) -> Array:
    return flat(function(x))


def _plain(statistics: Any) -> Expectation:
    mean, stderr = (np.asarray(a, float) for a in (statistics.mean, statistics.stderr))
    return Expectation(mean, stderr, np.ones_like(mean))


def _controlled(plain: Any, controlled: Any, known: np.ndarray) -> Expectation:
    crude, fine = _plain(plain), _plain(controlled)
    with np.errstate(divide="ignore", invalid="ignore"):
        reduction = np.where(crude.stderr > 0, (crude.stderr / fine.stderr) ** 2, 1.0)
    helps = reduction >= 1
    return Expectation(
        np.where(helps, fine.mean + known, crude.mean),
        np.where(helps, fine.stderr, crude.stderr),
        np.where(helps, reduction, 1.0),
    )
