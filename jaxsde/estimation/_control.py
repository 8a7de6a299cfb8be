"""Control variates: expectations along a process with most of their sampling noise taken out, exactly."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .. import _checks, _random
from .._double import converted, double_precision, in_double
from .._linalg import einsum
from .._tree import cast, flat, is_sampler, shape_of, size
from .._typing import Key
from ..processes import SDE, Accompanied, Chain, Sighting, Tangent, TangentLaw
from ..simulation import AbstractIncrements, Moments, simulate

# Beyond this many numbers in an SDE's state its covariance costs more than the seeds that it saves.
_LARGEST_STATE = 64
_START_DRAWS = 256

# Standard errors include this many float spacings of the value, for rounding.
_ROUNDINGS = 2.5

# The noiseless trajectory in the run's precision may be off that of the exact law by this share of its size, and of the
# noise's standard deviation. Near an unstable point rounding grows, and the two part.
_ASTRAY, _ASTRAY_IN_NOISE = 1e-5, 1e-4
TRAJECTORY = "noiseless trajectory"

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
    key: Key,
    every: int | None = None,
    substeps: int = 1,
    increments: str | AbstractIncrements | None = None,
    progress: bool = True,
) -> Expectations:
    """Expectations $E\\,g(X_t)$ along a process, by control variates where the process has a linearisation.

    With each seed runs the tangent process $m + \\delta$: the noiseless trajectory and the deviation from it to first
    order, driven by the same noise. Its mean and covariance $C$ are known exactly, and so is the expectation of the
    Taylor polynomial $c = \\nabla g(m) \\cdot \\delta + \\frac12 \\delta^\\top \\nabla^2 g(m)\\,\\delta$, which is
    $\\frac12 \\mathrm{tr}(\\nabla^2 g(m)\\,C)$, computed in float64 whatever the precision of the run. The estimate is the mean
    of $g(x) - c$ plus that: unbiased, whatever the distance between the two processes, and with little variance where they
    are close. Entries whose variance the control does not reduce are plain means, and so are those where a seed has
    diverged or its control is not finite. Standard errors hold those of sampling and a few roundings of the result.

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
    key = _random.typed_key(key)
    common: dict[str, Any] = dict(steps=steps, seeds=seeds, key=key, every=every, substeps=substeps)
    common |= dict(increments=increments, progress=progress, reduce=Moments())
    companion = accompany(process, x0, substeps)
    if companion is None:
        run = simulate(process, x0, observe={n: eqx.Partial(_flat, f) for n, f in functions.items()}, **common)
        values = {n: _plain(run[n]) for n in functions}
    else:
        run = simulate(companion, x0, observe=observables(functions), **common)
        law = tangent_law(companion, steps, run.steps, substeps)
        known = expected_controls(functions, law, np.asarray(run[TRAJECTORY].mean, float))
        values = {n: _controlled(run[n], run[controlled(n)], known[n], seeds) for n in functions}
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
    per_step = substeps if isinstance(process, SDE) else 1
    first = sde.start_steps * per_step
    tangent = Tangent(sde, start, *(jnp.asarray(n, jnp.int32) for n in (first, per_step)))
    return Accompanied(process, tangent) if _works_in_double(tangent) else None


def _works_in_double(tangent: Tangent) -> bool:
    """Whether the law of the tangent process can be computed in float64. A loss that insists on float32 has no control."""
    h = jnp.ones((), flat(tangent.start).dtype)
    try:
        with double_precision():
            shape_of(_law, *converted((tangent, h)), 2, *np.ones(2, np.int32))
    except TypeError:
        return False
    return True


def _nearest_sde(make: Callable[..., SDE]) -> SDE | None:
    """The SDE that is nearest to its optimizer path by path; None where the optimizer has none on this problem."""
    for model in ({"model": "compagnoni-full"}, {}):
        try:
            return make(**model)
        except (ValueError, NotImplementedError):
            continue
    return None


def tangent_law(companion: Accompanied, steps: int, recorded: Array, substeps: int) -> TangentLaw:
    """The tangent process's law at the `recorded` optimizer steps, in float64: where a step changes a covariance by a
    thousandth of itself, float32 would lose three of its seven digits."""
    per_step = substeps if isinstance(companion.process, SDE) else 1
    records = len(recorded)
    every = steps // max(1, records - 1)
    tangent = companion.tangent
    h = companion.learning_rate.astype(flat(tangent.start).dtype) / per_step
    return in_double(_law, tangent, h, records)(*(np.asarray(n * per_step, np.int32) for n in (steps, every)))


def _law(tangent: Tangent, h: Array, records: int, stop: Array, every: Array) -> TangentLaw:
    return tangent.law(h, stop, every, records)


def observables(functions: Functions) -> dict[str, Callable[[Sighting], Array]]:
    """What to record for `functions`: their values, their values minus the control, and the tangent's own trajectory."""
    plain = {name: eqx.Partial(_value, f) for name, f in functions.items()}
    fine = {controlled(name): eqx.Partial(_remainder, f) for name, f in functions.items()}
    return plain | fine | {TRAJECTORY: _trajectory}


def controlled(name: str) -> str:
    """The observable that is the function of that name minus its control."""
    return f"{name} controlled"


def expected_controls(
    functions: Functions, law: TangentLaw, trajectory: Float[np.ndarray, "n d"]
) -> dict[str, Float[np.ndarray, "n k"]]:
    """The exact expectations of the controls; nan where the run's own noiseless `trajectory` has left that of the law."""
    exact = np.stack(
        [np.concatenate([np.ravel(leaf[i]) for leaf in jax.tree.leaves(law.mean)]) for i in range(len(trajectory))]
    )
    noise = np.sqrt(np.diagonal(law.covariance, axis1=1, axis2=2))
    with np.errstate(invalid="ignore"):
        same = np.abs(trajectory - exact) <= _ASTRAY * np.max(np.abs(exact)) + _ASTRAY_IN_NOISE * noise
    together = np.all(same, axis=1, keepdims=True)
    return {name: np.where(together, _half_traces_in_double(f, law), np.nan) for name, f in functions.items()}


def _half_traces_in_double(function: Any, law: TangentLaw) -> np.ndarray:
    try:
        return in_double(_half_traces, function)(law)
    except TypeError:  # a function that insists on float32 has no control, as a loss has none
        return np.array(np.nan)


def rounded(value: Any, dtype: Any) -> np.ndarray:
    """The rounding error of a value in this precision, to be added to its standard error."""
    return np.asarray(_ROUNDINGS * float(jnp.finfo(dtype).eps) * np.abs(np.asarray(value, float)))


@eqx.filter_jit
def _mean_start(sde: SDE, x0: PyTree, keys: Array) -> PyTree:
    return jax.tree.map(lambda y: jnp.mean(y, axis=0), jax.vmap(lambda k: sde.init(x0, k)[1])(keys))


def _half_traces(function: Any, law: TangentLaw) -> Array:
    def one(mean: PyTree, covariance: Array) -> Array:
        vector, unravel = ravel_pytree(mean)
        hessian = jax.hessian(lambda v: flat(function(unravel(v))))(vector)
        return 0.5 * einsum("kij,ij->k", hessian, covariance)

    return jax.vmap(one)(law.mean, law.covariance)


def _value(function: Any, seen: Sighting) -> Array:
    return _flat(function, seen.x)


def _remainder(function: Any, seen: Sighting) -> Array:
    """g(x) minus the second-order Taylor polynomial of g about the mean at the deviation, without its constant term."""

    def slope(mean: PyTree) -> PyTree:
        return jax.jvp(function, (mean,), (seen.deviation,))[1]

    # Where the function has no derivatives, as a norm at 0, this is not finite, and the function's mean a plain one.
    first, second = jax.jvp(slope, (seen.mean,), (seen.deviation,))
    return _flat(function, seen.x) - (flat(first) + 0.5 * flat(second))


def _trajectory(seen: Sighting) -> Array:
    return flat(seen.mean)


def _flat(function: Any, x: PyTree) -> Array:
    return flat(function(x))


def _plain(statistics: Any) -> Expectation:
    mean, stderr = (np.asarray(a, float) for a in (statistics.mean, statistics.stderr))
    return Expectation(mean, np.hypot(stderr, rounded(mean, statistics.mean.dtype)), np.ones_like(mean))


def _controlled(plain: Any, fine: Any, known: np.ndarray, seeds: int) -> Expectation:
    crude = _plain(plain)
    mean = np.asarray(fine.mean, float) + known
    stderr = np.hypot(np.asarray(fine.stderr, float), rounded(mean, plain.mean.dtype))
    return Expectation(*better(crude.mean, crude.stderr, mean, stderr, usable(fine, seeds)[:, None]))


def usable(fine: Any, seeds: int) -> np.ndarray:
    """At which times the controlled values of all seeds are finite. The control's exact expectation is one over all of
    them: it is not that over the seeds that are left where some have diverged."""
    return np.asarray(fine.count) == seeds


def better(crude: Any, rough: Any, fine: Any, sharp: Any, usable: Any = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entry by entry the estimate of the smaller standard error, plain or controlled; that error; by how much the control
    divided the variance, 1 where it was not used."""
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(rough > 0, (rough / sharp) ** 2, 1.0)
    helps = usable & (factor >= 1) & np.isfinite(fine)
    return np.where(helps, fine, crude), np.where(helps, sharp, rough), np.where(helps, factor, 1.0)
