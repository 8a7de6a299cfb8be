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
from .._promotion import usual_promotion
from .._start import AbstractStart
from .._traced import shape_of, traced, with_traced
from .._tree import cast, drawn, flat, is_sampler, size
from .._typing import Key
from ..optimizers import AbstractOptimizer
from ..problems import MiniBatch, Problem
from ..processes import (
    SDE,
    AbstractIncrements,
    Chain,
    Coupled,
    CoupledPosition,
    LinearNoiseApproximation,
    LinearNoiseLaw,
    StartLaw,
    over_step,
)
from ..simulation import Moments, simulate
from ._same_draw import driven_by_gradients, noise_by_the_same_draw, noise_covariance
from ._statistics import choose_better, rounding_stderr

# Beyond this many numbers in an SDE's state its covariance costs more than the seeds that it saves.
_LARGEST_STATE = 64
_START_DRAWS = 256

# A companion on mini-batches differentiates the loss over all data in each coordinate, once a step for all seeds. It is worth
# its price where that is at most what so many seeds take for their batches.
_WORTH_SEEDS = 4000

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

    With each seed runs the linear noise approximation $m + \\delta$: the noiseless trajectory and the deviation from it to
    first order, driven by the same noise. Its mean and covariance $C$ are known exactly, and so is the expectation of the
    Taylor polynomial $c = \\nabla g(m) \\cdot \\delta + \\frac12 \\delta^\\top \\nabla^2 g(m)\\,\\delta$, which is
    $\\frac12 \\mathrm{tr}(\\nabla^2 g(m)\\,C)$, computed in float64 whatever the precision of the run. The estimate is the mean
    of $g(x) - c$ plus that: unbiased, whatever the distance between the two processes, and with little variance where they
    are close. Entries whose variance the control does not reduce are plain means, and so are those where a seed has
    diverged or its control is not finite. Standard errors hold those of sampling and a few roundings of the result.

    **Arguments:**

    - `process`, `x0`, `steps`, `seeds`, `key`, `every`, `substeps`, `increments`, `progress`: as in [`simulate`][].
      Where `x0` draws a start, the noise that this adds is taken out as well if `x0` knows its mean and covariance, as
      [`GaussianStart`][] does; else the means are plain ones.
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
    _checks.eager("expectations", process, x0, key)
    functions = _checks.functions("functions", functions)
    steps, seeds, substeps = (
        _checks.count(name, value) for name, value in (("steps", steps), ("seeds", seeds), ("substeps", substeps))
    )
    key = _random.typed_key(key)
    common: dict[str, Any] = dict(steps=steps, seeds=seeds, key=key, every=every, progress=progress, reduce=Moments())
    companion = couple(process, x0, substeps, increments)
    if companion is None:
        common |= dict(substeps=substeps, increments=increments)
        run = simulate(process, x0, observe={n: eqx.Partial(raveled, f) for n, f in functions.items()}, **common)
        values = {n: plain(run[n]) for n in functions}
    else:
        run = simulate(companion, x0, observe=observables(functions), **common)
        law = linear_noise_law(companion, steps, run.steps)
        known = expected_controls(functions, law, np.asarray(run[TRAJECTORY].mean, float))
        values = {n: with_control(run[n], run[controlled(n)], known[n], seeds) for n in functions}
    example = drawn(x0, key)
    values = {name: shaped(function, example, values[name]) for name, function in functions.items()}
    return Expectations(np.asarray(run.ts, float), np.asarray(run.steps), np.asarray(run.diverged), values)


def shaped(function: Any, example: PyTree, value: Expectation) -> Expectation:
    """The expectation of a raveled value, without its last axis where the function's value is a scalar."""
    scalar = getattr(jax.eval_shape(function, example), "shape", None) == ()
    return Expectation(*(entry[:, 0] for entry in value)) if scalar else value


def couple(process: Chain | SDE, x0: Any, substeps: int = 1, increments: Any = None) -> Coupled | None:
    """The process, discretised, with its linear noise approximation beside it; None where there is none to be had."""
    if is_sampler(x0) and not isinstance(x0, AbstractStart):
        return None
    beside = _Beside(process, _as_it_is, None) if isinstance(process, SDE) else _beside(process)
    if beside is None:
        return None
    start_law, x0 = (x0, x0.mean) if isinstance(x0, AbstractStart) else (None, x0)
    x0 = process.problem.validate(x0)
    process, beside, start_law = cast((process, beside, start_law), jnp.result_type(*jax.tree.leaves(x0)))
    driven, sde = process.discretised(substeps, increments), beside.sde
    per_step = substeps if isinstance(process, SDE) else 1
    # Any deterministic state near the mean at the SDE's start will do.
    keys = jax.random.split(jax.random.key(0), _START_DRAWS if sde.start_steps else 1)
    start = _mean_start(with_traced(sde, x0), x0, keys)
    if size(start) > _LARGEST_STATE or (isinstance(process, Chain) and _too_dear(process.problem, size(start))):
        return None
    law = None if start_law is None else _start_law(with_traced(sde, x0), start_law, keys)
    companion = LinearNoiseApproximation(sde, start, jnp.asarray(per_step, jnp.int32), beside.increment_covariance, law)
    return Coupled(driven, companion, beside.as_increment) if _works_in_double(companion) else None


def _too_dear(problem: Problem, coordinates: int) -> bool:
    """Whether the companion of a chain takes more gradients of examples than it saves."""
    noise = problem.noise
    if not isinstance(noise, MiniBatch):
        return False
    return 2 * coordinates * noise.loss.count > _WORTH_SEEDS * noise.batches.batch_size


class _Beside(NamedTuple):
    """The SDE to run beside a process, linearised, and what drives it: see [`Coupled`][] and [`LinearNoiseApproximation`][]."""

    sde: SDE
    as_increment: Callable[[Array, PyTree, Any], PyTree]
    increment_covariance: Callable[[PyTree], Array] | None


def _beside(chain: Chain) -> _Beside | None:
    """The SDE to run beside a chain; None where there is none whose noise is that of the chain."""
    sde = _nearest_sde(chain)
    if sde is None:
        return None
    if sde.whiten is not None:
        return _Beside(sde, eqx.Partial(_whitened, sde.whiten), None)
    sde = driven_by_gradients(chain, _nearest_sde)
    if sde is None:
        return None
    parts = (eqx.Partial(of, chain.problem) for of in (noise_by_the_same_draw, noise_covariance))
    return _Beside(sde, *parts)


def _as_it_is(h: Array, mean: PyTree, dw: PyTree) -> PyTree:
    """The increment that drives a step of an SDE."""
    del h, mean
    return dw


def _whitened(whiten: Callable[[PyTree, PyTree], PyTree], h: Array, mean: PyTree, driver: tuple[PyTree, PyTree, Any]) -> PyTree:
    """The increment that stands for the noise of a chain's step, from the parameters and the stochastic gradient there."""
    del mean
    return over_step(h, whiten(*driver[:2]))


def _works_in_double(companion: LinearNoiseApproximation) -> bool:
    """Whether the companion's law can be computed in float64. A loss that insists on float32 has no control."""
    h = jnp.ones((), flat(companion.start).dtype)
    try:
        with double_precision():
            shape_of(_law, _traced_in_double(companion), converted(h), 2, *np.ones(2, np.int32))
    except TypeError:
        return False
    return True


def _traced_in_double(companion: LinearNoiseApproximation) -> LinearNoiseApproximation:
    """The companion in float64, with users' functions traced; for use within `double_precision`."""
    companion = converted(companion)
    return with_traced(companion, companion.sde.position(companion.start))


def _nearest_sde(chain: Chain) -> SDE | None:
    """The SDE that is nearest to an optimizer's chain path by path; None where it has none on this problem."""
    if not isinstance(chain.optimizer, AbstractOptimizer):
        return None
    for model in ({"model": "compagnoni-full"}, {}):
        try:
            return chain.optimizer.sde(chain.problem, **model)
        except (ValueError, NotImplementedError):
            continue
    return None


def linear_noise_law(coupled: Coupled, steps: int, recorded: Array) -> LinearNoiseLaw:
    """The companion's law at the `recorded` optimizer steps, in float64: where a step changes a covariance by a thousandth of
    itself, float32 would lose three of its seven digits."""
    records, companion = len(recorded), coupled.companion
    every = steps // max(1, records - 1)
    with double_precision():
        exact = _traced_in_double(companion)
    h = coupled.process.h.astype(flat(companion.start).dtype)
    return in_double(_law, exact, h, records)(*(np.asarray(n, np.int32) for n in (steps, every)))


def _law(companion: LinearNoiseApproximation, h: Array, records: int, stop: Array, every: Array) -> LinearNoiseLaw:
    return companion.law(h, stop, every, records)


def observables(functions: Functions) -> dict[str, Callable[[CoupledPosition], Array]]:
    """What to record for `functions`: their values, their values minus the control, and the companion's own trajectory."""
    fine = {controlled(name): eqx.Partial(remainder, f) for name, f in functions.items()}
    return plain_observables(functions) | fine | {TRAJECTORY: trajectory_of}


def plain_observables(functions: Functions) -> dict[str, Callable[[CoupledPosition], Array]]:
    """What to record for the values of `functions` alone."""
    return {name: eqx.Partial(value_of, f) for name, f in functions.items()}


def controlled(name: str) -> str:
    """The observable that is the function of that name minus its control."""
    return f"{name} controlled"


def expected_controls(
    functions: Functions, law: LinearNoiseLaw, trajectory: Float[np.ndarray, "n d"]
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


def _half_traces_in_double(function: Any, law: LinearNoiseLaw) -> np.ndarray:
    try:
        # What a function holds in float32 meets the law in float64.
        with usual_promotion():
            with double_precision():
                function = traced(converted(function), jax.tree.map(lambda leaf: converted(leaf[0]), law.mean))
            return in_double(_half_traces, function)(law)
    except TypeError:  # a function that insists on float32 has no control, as a loss has none
        return np.array(np.nan)


@eqx.filter_jit
def _mean_start(sde: SDE, x0: PyTree, keys: Array) -> PyTree:
    return jax.tree.map(lambda y: jnp.mean(y, axis=0), jax.vmap(lambda k: sde.init(x0, k)[1])(keys))


@eqx.filter_jit
def _start_law(sde: SDE, law: AbstractStart, keys: Array) -> StartLaw:
    mean = sde.problem.validate(law.mean)
    vector, unravel = ravel_pytree(mean)
    response = jax.jacfwd(lambda v: flat(_mean_start(sde, unravel(v), keys)))(vector)
    return StartLaw(mean, law.covariance().astype(vector.dtype), response)


def _half_traces(function: Any, law: LinearNoiseLaw) -> Array:
    def one(mean: PyTree, covariance: Array) -> Array:
        vector, unravel = ravel_pytree(mean)
        hessian = jax.hessian(lambda v: flat(function(unravel(v))))(vector)
        return 0.5 * einsum("kij,ij->k", hessian, covariance)

    return jax.vmap(one)(law.mean, law.covariance)


def value_of(function: Any, seen: CoupledPosition) -> Array:
    return raveled(function, seen.x)


def remainder(function: Any, seen: CoupledPosition) -> Array:
    """g(x) minus the second-order Taylor polynomial of g about the mean at the deviation, without its constant term."""

    def slope(mean: PyTree) -> PyTree:
        return jax.jvp(function, (mean,), (seen.deviation,))[1]

    # Where the function has no derivatives, as a norm at 0, this is not finite, and the function's mean a plain one.
    first, second = jax.jvp(slope, (seen.mean,), (seen.deviation,))
    return raveled(function, seen.x) - (flat(first) + 0.5 * flat(second))


def trajectory_of(seen: CoupledPosition) -> Array:
    return flat(seen.mean)


def raveled(function: Any, x: PyTree) -> Array:
    """The value of a function of the parameters as a vector."""
    return flat(function(x))


def plain(statistics: Any) -> Expectation:
    mean, stderr = (np.asarray(a, float) for a in (statistics.mean, statistics.stderr))
    return Expectation(mean, np.hypot(stderr, rounding_stderr(mean, statistics.mean.dtype)), np.ones_like(mean))


def with_control(statistics: Any, fine: Any, known: np.ndarray, seeds: int) -> Expectation:
    """The mean of values, or of those less a control with its `known` expectation added, whichever has less noise."""
    crude = plain(statistics)
    mean = np.asarray(fine.mean, float) + known
    stderr = np.hypot(np.asarray(fine.stderr, float), rounding_stderr(mean, statistics.mean.dtype))
    return Expectation(*choose_better(crude.mean, crude.stderr, mean, stderr, usable(fine, seeds)[:, None]))


def usable(fine: Any, seeds: int) -> np.ndarray:
    """At which times the controlled values of all seeds are finite. The control's exact expectation is one over all of
    them: it is not that over the seeds that are left where some have diverged."""
    return np.asarray(fine.count) == seeds
