"""`simulate`: an ensemble of trajectories of a chain or an SDE, as statistics over seeds."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .. import _checks, _random
from .._extras import optional
from .._tree import cast, is_sampler, shape_of, size
from .._typing import Key
from ..processes import SDE, Accompanied, Chain, Sighting
from . import _loop
from ._ensemble import Ensemble, Interrupted
from ._footprint import largest_array, largest_array_per_seed
from ._increments import AbstractIncrements, GaussianIncrements, ThreePointIncrements, TwoPointIncrements
from ._reducers import AbstractReducer, Jackknife, Moments
from ._steppers import (
    AbstractStepper,
    AccompaniedChainStepper,
    AccompaniedSDEStepper,
    ChainStepper,
    RestingChainStepper,
    SDEStepper,
)

# How many numbers the states of a chunk's seeds may have, unless that were fewer than so many seeds or more than so many.
# Measured on a processor: with fewer, starting the kernels of a step weighs more than what larger arrays lose to the caches.
_CHUNK_NUMBERS, _LEAST_CHUNK, _LARGEST_CHUNK = 2**20, 16, 2**14

# How many numbers any array of a chunk's program may have. A network's gradient holds a few such arrays at a time.
_CHUNK_ARRAY = 2**25

# How often the host looks in, in seconds: for the progress bar and for an interrupt from the keyboard.
_GLANCE = 0.25

# The first look is after this share of a phase, to see how fast it goes.
_FIRST_SHARE = 1 / 32

# Seeds are numbered by an int32, and the last chunk is filled up.
_MOST_SEEDS = 2**30

_INCREMENTS = {"two-point": TwoPointIncrements, "three-point": ThreePointIncrements, "gaussian": GaussianIncrements}


def simulate(
    process: Chain | SDE | Accompanied,
    x0: Any,
    *,
    steps: int,
    seeds: int,
    key: Key,
    every: int | None = None,
    observe: Mapping[str, Callable[[PyTree], PyTree]] | None = None,
    reduce: AbstractReducer | None = None,
    substeps: int = 1,
    increments: str | AbstractIncrements | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> Ensemble:
    """Simulates many seeds of a process and returns statistics over them.

    The noise of seed i at step k depends on `key`, i and k alone: a longer run begins with the shorter one, and more
    seeds contain the fewer. All is done in the precision of `x0`, float32 or float64, to which the problem's numbers
    are converted.

    **Arguments:**

    - `process`: an optimizer's `chain(problem)` or `sde(problem)`.
    - `x0`: the starting parameters, a pytree, or a function `key -> pytree` that draws each seed's own.
    - `steps`: the number of optimizer steps; an SDE runs to $t$ = `steps` $\\eta$.
    - `seeds`: the number of independent trajectories, at most $2^{30}$.
    - `key`: a JAX key.
    - `every`: record each that many optimizer steps; divides `steps`. By default at the start and the end only.
    - `observe`: functions of the parameters to record, by name; by default `{"x": parameters, "loss": loss}`. Values are
      recorded in the precision of `x0`: those of lower precision are widened, truths are 0 and 1, and whole numbers beyond
      $2^{24}$ are rounded in float32.
    - `reduce`: [`Moments`][] (the default), [`Samples`][] or another reducer.
    - `substeps`: SDE only: how many steps of the solver make up one optimizer step, $h = \\eta$ / `substeps`.
    - `increments`: SDE only: `"two-point"`, `"three-point"`, `"gaussian"` or an [`AbstractIncrements`][]; by default
      two-point where only moments are asked for, which these serve to the same order in $h$, and else Gaussian.
    - `chunk`: how many seeds run at a time; by default as many as suit the processor's caches, and fewer where the arrays
      of so many would be large, as those of a big network are.
    - `progress`: whether a run of more than two seconds shows a progress bar, on a terminal and with tqdm installed.

    **Returns:** an [`Ensemble`][]. Seeds that diverge are counted in it, not an error.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit; [`Interrupted`][], with the statistics of the
    seeds that are complete, where it is interrupted from the keyboard.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1))
    >>> run = simulate(js.SGD(0.1).chain(problem), jnp.ones(1), steps=10, seeds=8, key=jax.random.key(0))
    >>> run["x"].mean.shape
    (2, 1)
    """
    _checks.instance("process", process, (Chain, SDE, Accompanied), "an optimizer's chain(problem) or sde(problem)")
    steps, seeds, substeps = (
        _checks.count(name, value) for name, value in (("steps", steps), ("seeds", seeds), ("substeps", substeps))
    )
    every = steps if every is None else _checks.count("every", every)
    if steps % every:
        raise ValueError(f"every must divide steps, got every={every} and steps={steps}")
    inner = process.process if isinstance(process, Accompanied) else process
    if isinstance(inner, Chain) and (substeps != 1 or increments is not None):
        raise ValueError("substeps and increments belong to SDEs: an optimizer's chain makes its own steps")
    if steps * substeps >= 2**31:
        raise ValueError(f"steps * substeps must be below 2**31, got {steps * substeps}")
    if seeds > _MOST_SEEDS:
        raise ValueError(f"seeds must be at most {_MOST_SEEDS} (2**30), as seeds are told apart by an int32, got {seeds}")
    chunk = None if chunk is None else _checks.count("chunk", chunk)
    reduce = Moments() if reduce is None else reduce
    _checks.instance("reduce", reduce, AbstractReducer, "a reducer such as jaxsde.Moments()")
    if isinstance(reduce, Jackknife) and reduce.groups > seeds:
        raise ValueError(
            f"groups must be at most seeds: each of the {reduce.groups} groups needs a seed, of which there are {seeds}"
        )
    if observe is not None:
        observe = _checks.functions("observe", observe)

    key = _random.stream_key(key)
    problem = process.problem
    example = x0(_random.start_key(_random.seed_key(key, jnp.asarray(0)))) if is_sampler(x0) else x0
    example = problem.validate(example)
    dtype = jnp.result_type(*jax.tree.leaves(example))
    process = cast(process, dtype)
    _check_times(process.learning_rate, steps, every, substeps, dtype)
    observe = {"x": _itself, "loss": problem.loss} if observe is None else observe
    seen = Sighting(example, example, example) if isinstance(process, Accompanied) else example
    shapes = {name: _observed_shape(name, function, seen) for name, function in observe.items()}

    recorder = _loop.Recorder(cast(observe, dtype), reduce, steps // every + 1, jnp.asarray(seeds, jnp.int32))
    plan = _plan(process, steps, substeps, increments, reduce, every)
    start = x0 if is_sampler(x0) else example
    if chunk is None:
        chunk = _fitting(seeds, _state_size(inner, example), plan, recorder, start, key)
    chunk = _whole(reduce, min(chunk, seeds))
    total = None
    done = 0
    host = _checks.is_concrete(process, example, key)
    with _progress_bar(progress and host, math.ceil(seeds / chunk) * sum(p.stop - p.start for p in plan)) as bar:
        for first in range(0, seeds, chunk):
            ids = first + jnp.arange(chunk, dtype=jnp.int32)
            try:
                buffer = _run_chunk(plan, recorder, start, key, ids, bar if host else None)
            except KeyboardInterrupt:
                if total is None:
                    raise
                raise Interrupted(_ensemble(total, reduce, shapes, process, steps, every, done)) from None
            total = buffer if total is None else _loop.merge(reduce, total, buffer)
            done = min(first + chunk, seeds)
    assert total is not None  # seeds is at least 1
    return _ensemble(total, reduce, shapes, process, steps, every, seeds)


class _Phase(NamedTuple):
    """A stretch of a run: which stepper takes it from which of its steps to which, and how often to record."""

    stepper: AbstractStepper
    start: int
    stop: int
    every: int


def _plan(
    process: Chain | SDE | Accompanied, steps: int, substeps: int, increments: Any, reduce: AbstractReducer, every: int
) -> list[_Phase]:
    """A chain is one phase. An SDE that is singular at t = 0 has a first one of true optimizer steps."""
    tangent = None
    if isinstance(process, Accompanied):
        process, tangent = process.process, process.tangent
    if isinstance(process, Chain):
        chain = ChainStepper(process)
        if tangent is not None:
            chain = AccompaniedChainStepper(process, tangent, process.learning_rate)
        return [_Phase(chain, 0, steps, every)]
    if increments is None:
        increments = "two-point" if reduce.weak else "gaussian"
    if not isinstance(increments, AbstractIncrements):
        increments = _INCREMENTS[_checks.choice("increments", increments, tuple(_INCREMENTS))]()
    if process.start_steps > steps:
        raise ValueError(f"steps must be at least the SDE's start_steps={process.start_steps}, got {steps}")
    begin = process.start_steps
    first = jnp.asarray(begin * substeps, jnp.int32)
    stepper = SDEStepper(process, increments, process.learning_rate / substeps, jnp.asarray(substeps, jnp.int32), first)
    leading = ChainStepper(process.chain)
    if tangent is not None:
        leading, stepper = RestingChainStepper(process.chain, tangent), AccompaniedSDEStepper(stepper, tangent)
    return [
        _Phase(leading, 0, begin, every),
        _Phase(stepper, begin * substeps, steps * substeps, every * substeps),
    ]


def _run_chunk(
    plan: list[_Phase], recorder: _loop.Recorder, x0: Any, key: PRNGKeyArray, ids: jax.Array, bar: Any
) -> _loop.Record:
    """The filled buffer of a chunk of seeds. With a bar, the host waits for each piece of the work."""
    state, buffer = _loop.begin(plan[0].stepper, recorder, x0, key, ids)
    for phase in plan:
        if phase is not plan[0]:
            state = _loop.hand_over(phase.stepper, state)
        if phase.start == phase.stop:
            continue
        keys = _loop.streams(phase.stepper, key, ids)
        start, length = phase.start, phase.stop - phase.start
        length = length if bar is None else max(1, math.ceil(_FIRST_SHARE * length))
        while start < phase.stop:
            stop = min(start + length, phase.stop)
            begun = time.perf_counter()
            bounds = (jnp.asarray(n, jnp.int32) for n in (start, stop, phase.every))
            state, buffer = _loop.advance(phase.stepper, recorder, state, buffer, keys, ids, *bounds)
            if bar is not None:
                jax.block_until_ready(buffer)
                bar.update(stop - start)
                length = math.ceil((stop - start) * _GLANCE / max(time.perf_counter() - begun, 1e-6))
            start = stop
    return buffer


def _ensemble(
    total: _loop.Record, reduce: Any, shapes: dict[str, Any], process: Any, steps: int, every: int, seeds: int
) -> Ensemble:
    recorded = jnp.arange(0, steps + 1, every)
    ts = recorded * process.learning_rate
    statistics = {name: reduce.result(total.statistics[name], ts, shape, seeds) for name, shape in shapes.items()}
    return Ensemble(ts, recorded, total.diverged, seeds, statistics)


def _state_size(process: Chain | SDE, example: PyTree) -> int:
    """How many numbers a seed's state has."""
    state = _chain_state if isinstance(process, Chain) else _sde_state
    return size(shape_of(state, process, example))


def _chain_state(chain: Chain, x: PyTree) -> PyTree:
    return chain.init(x)


def _sde_state(sde: SDE, x: PyTree) -> PyTree:
    return sde.state_from_chain(sde.chain.init(x))


def _fitting(seeds: int, numbers: int, plan: list[_Phase], recorder: _loop.Recorder, x0: Any, key: PRNGKeyArray) -> int:
    """How many seeds to run at a time, with states of so many numbers: as many as suit the caches and fit in memory."""
    quick = _even(seeds, min(max(_CHUNK_NUMBERS // numbers, _LEAST_CHUNK), _LARGEST_CHUNK))
    # The program is traced here, as a run would, which then need not: most fit.
    ids = jnp.arange(_whole(recorder.reducer, quick), dtype=jnp.int32)
    if quick == 1 or shape_of(_largest, plan, recorder, x0, key, ids).shape[0] <= _CHUNK_ARRAY:
        return quick
    return _even(seeds, min(quick, _CHUNK_ARRAY // shape_of(_largest_per_seed, plan, recorder, x0, key).shape[0]))


def _even(seeds: int, most: int) -> int:
    """The size of chunks of about the same size, of `most` seeds at most but of one at least."""
    return math.ceil(seeds / math.ceil(seeds / max(1, most)))


def _whole(reduce: AbstractReducer, seeds: int) -> int:
    """So many seeds, filled up to a number that the reducer takes."""
    return math.ceil(seeds / reduce.multiple) * reduce.multiple


# `shape_of` remembers shapes: so these numbers are made shapes.


def _largest(plan: list[_Phase], recorder: _loop.Recorder, x0: Any, key: PRNGKeyArray, ids: jax.Array) -> jax.Array:
    """As many zeros as the largest array of a chunk's programs has numbers."""
    program = functools.partial(_run_chunk, plan, recorder, x0, key, bar=None)
    return jnp.zeros(largest_array(program, ids), jnp.int8)


def _largest_per_seed(plan: list[_Phase], recorder: _loop.Recorder, x0: Any, key: PRNGKeyArray) -> jax.Array:
    """As many zeros as each seed adds numbers to the largest array of a step or of a record."""

    def one(key: PRNGKeyArray) -> Any:
        state = _loop.start(x0, key)
        first = jnp.zeros((), jnp.int32)
        for phase in plan:
            state = phase.stepper.init(state)
            if phase.start < phase.stop:
                state = phase.stepper.run(state, first, first + 1, phase.stepper.stream(key))
        return recorder.values(plan[-1].stepper.view(state))

    return jnp.zeros(largest_array_per_seed(jax.vmap(one), key), jnp.int8)


def _check_times(learning_rate: Any, steps: int, every: int, substeps: int, dtype: Any) -> None:
    """Raises where the recorded times would not be finite and increase, in the precision `dtype` of the run."""
    _checks.scalar("learning_rate", learning_rate, low=0.0)
    if not _checks.is_concrete(learning_rate):
        return
    limits, rate = np.finfo(dtype), float(learning_rate)
    # Processors take numbers below the smallest normal one for zero.
    if rate / substeps < limits.tiny:
        raise ValueError(
            f"learning_rate must be larger in {dtype}, the precision of x0: a step of learning_rate / substeps must be at "
            f"least {limits.tiny:.3g}, got {rate:g} and substeps={substeps}"
        )
    if rate * steps > float(limits.max):
        raise ValueError(
            f"learning_rate must be smaller in {dtype}, the precision of x0: the last time, learning_rate * steps, must be at "
            f"most {limits.max:.3g}, got {rate:g} and steps={steps}"
        )
    if steps > every * 2**limits.nmant:
        raise ValueError(
            f"every must be larger: in {dtype}, the precision of x0, neighbouring times learning_rate * step are the same "
            f"after {every * 2**limits.nmant} steps, got every={every} and steps={steps}"
        )


def _observed_shape(name: str, function: Any, example: PyTree) -> PyTree:
    shape = shape_of(function, example)
    if not jax.tree.leaves(shape):
        raise ValueError(f"observe[{name!r}] must return an array or a pytree of arrays, got {shape!r}")
    for leaf in jax.tree.leaves(shape):
        if not (jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.integer)):
            raise TypeError(f"observe[{name!r}] must return real numbers, got dtype {leaf.dtype}")
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shape)


def _itself(x: PyTree) -> PyTree:
    return x


class _NoBar:
    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def update(self, amount: int) -> None:
        """Shows nothing."""


def _progress_bar(wanted: bool, total: int) -> Any:
    tqdm = optional("tqdm") if wanted else None
    if tqdm is None:
        return _NoBar()
    return tqdm.tqdm(total=total, unit="step", unit_scale=True, delay=2.0, leave=False, disable=None)
