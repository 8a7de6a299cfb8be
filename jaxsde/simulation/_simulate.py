"""`simulate`: an ensemble of trajectories of a chain or an SDE, as statistics over seeds."""

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from .. import _checks, _random
from .._progress import progress_bar
from .._traced import shape_of, traced, with_traced
from .._tree import cast, drawn, is_sampler
from .._typing import Key
from ..processes import SDE, AbstractIncrements, AbstractProcess
from . import _devices, _run, _together
from ._checkpoint import opened
from ._chunk import chunk_size, whole
from ._ensemble import Ensemble, Interrupted
from ._identity import identity
from ._loop import Stopped, complete, completed_within_a_trace
from ._provenance import Asked, with_provenance
from ._reducers import AbstractReducer, ByObservable, Moments
from ._work import Standing, Task

# Seeds are numbered by an int32, and the last chunk is filled up.
_MOST_SEEDS = 2**30

# What is observed by default: the parameters and the loss.
_OBSERVED = ("x", "loss")


def simulate(
    process: AbstractProcess | SDE,
    x0: Any,
    *,
    steps: int,
    seeds: int,
    key: Key,
    every: int | None = None,
    observe: Mapping[str, Callable[[PyTree], PyTree]] | None = None,
    reduce: AbstractReducer | Mapping[str, AbstractReducer] | None = None,
    substeps: int = 1,
    increments: str | AbstractIncrements | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    progress: bool = True,
) -> Ensemble:
    """Simulates many seeds of a process and returns statistics over them.

    The noise of seed i at step k depends on `key`, i and k alone: a longer run begins with the shorter one, and more
    seeds contain the fewer. All is done in the precision of `x0`, float32 or float64, to which the problem's numbers
    are converted.

    **Arguments:**

    - `process`: an optimizer's `chain(problem)` or `sde(problem)`, or any [`AbstractProcess`][].
    - `x0`: the starting parameters, a pytree, or a function `key -> pytree` that draws each seed's own.
    - `steps`: the number of optimizer steps; an SDE runs to $t$ = `steps` $\\eta$.
    - `seeds`: the number of independent trajectories, at most $2^{30}$.
    - `key`: a JAX key.
    - `every`: record each that many optimizer steps; divides `steps`. By default at the start and the end only.
    - `observe`: functions of the parameters to record, by name; by default `{"x": parameters, "loss": loss}`. Values are
      recorded in the precision of `x0`: those of lower precision are widened, truths are 0 and 1, and whole numbers beyond
      $2^{24}$ are rounded in float32.
    - `reduce`: [`Moments`][] (the default), [`Samples`][], [`Histogram`][], [`Quantiles`][] or another reducer; or reducers by
      the names of observables, of which the others have their moments taken.
    - `substeps`: SDE only: how many steps of the solver make up one optimizer step, $h = \\eta$ / `substeps`.
    - `increments`: SDE only: `"two-point"`, `"three-point"`, `"gaussian"` or an [`AbstractIncrements`][]; by default
      two-point where only moments are asked for, which these serve to the same order in $h$, and else Gaussian.
    - `chunk`: how many seeds run at a time; by default as many as suit the processor's caches, and fewer where the arrays
      of so many would be large, as those of a big network are.
    - `mesh`: the devices that seeds are divided among, a `jax.sharding.Mesh` with axes of any names; by default all devices
      of all processes. A device runs a chunk of seeds at a time. With the same `chunk` the results are the same, bit by
      bit, on any number of devices and processes.
    - `checkpoint`: a folder for the state of the run, written every `checkpoint_every` seconds, when the run is interrupted
      and when it is done. The same call then goes on from there, on whatever devices, with the same results, bit by bit. A
      call with more `steps` or more `seeds` makes use of what is done.
    - `progress`: whether a run of more than two seconds shows a progress bar, on a terminal and with tqdm installed.

    **Returns:** an [`Ensemble`][]. Seeds that diverge are counted in it, not an error.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit, a checkpoint of another run among them; `OSError`
    where a checkpoint cannot be written; [`Interrupted`][], with the statistics of the seeds that are complete, where it is
    interrupted from the keyboard or, with a checkpoint, by SIGTERM.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1))
    >>> run = simulate(js.SGD(0.1).chain(problem), jnp.ones(1), steps=10, seeds=8, key=jax.random.key(0))
    >>> run["x"].mean.shape
    (2, 1)
    """
    _checks.instance("process", process, (AbstractProcess, SDE), "an optimizer's chain(problem) or sde(problem)")
    steps, seeds, substeps = (
        _checks.count(name, value) for name, value in (("steps", steps), ("seeds", seeds), ("substeps", substeps))
    )
    every = steps if every is None else _checks.count("every", every)
    if steps % every:
        raise ValueError(f"every must divide steps, got every={every} and steps={steps}")
    if steps >= 2**31:
        raise ValueError(f"steps must be below 2**31, as Optax counts them by an int32, got {steps}")
    if seeds > _MOST_SEEDS:
        raise ValueError(f"seeds must be at most {_MOST_SEEDS} (2**30), as seeds are told apart by an int32, got {seeds}")
    chunk = None if chunk is None else _checks.count("chunk", chunk)
    _checks.number("checkpoint_every", checkpoint_every, low=0.0)
    if mesh is not None:
        _checks.instance("mesh", mesh, Mesh, "a jax.sharding.Mesh")
    if checkpoint is not None:
        _checks.instance("checkpoint", checkpoint, (str, os.PathLike), "a folder's path")
    reduce = Moments() if reduce is None else reduce
    if observe is not None:
        observe = _checks.functions("observe", observe)
    reducers = _by_observable(reduce, _OBSERVED if observe is None else tuple(observe))
    reducers.check_seeds(seeds)
    _checks.instance("progress", progress, (bool, np.bool_), "True or False")

    asked = Asked(process, x0, key, observe, reduce, steps, every, substeps)
    key = _random.stream_key(key)
    example = drawn(x0, _random.start_key(_random.seed_key(key, jnp.asarray(0))))
    example = process.problem.validate(example)
    dtype = jnp.result_type(*jax.tree.leaves(example))
    process = with_traced(cast(process, dtype), example)
    process = process.discretised(substeps, increments, moments_only=reducers.moments_only)
    process.check_steps(steps)
    _check_times(process.learning_rate, steps, every, substeps, dtype)
    start = traced(x0, _random.start_key(key)) if is_sampler(x0) else example
    functions = dict(zip(_OBSERVED, (_itself, process.problem.loss), strict=True)) if observe is None else cast(observe, dtype)
    position = shape_of(_start_position, process, example, key)
    shapes = {name: _observed_shape(name, function, position) for name, function in functions.items()}
    functions = {name: traced(function, position) for name, function in functions.items()}

    recorder = _run.Recorder(functions, reducers, steps // every + 1, jnp.asarray(seeds, jnp.int32))
    host = _checks.is_concrete(process, example, key)
    mesh = _devices.all_devices() if mesh is None and host else mesh

    def seen(total: _run.Record, work: Task, seeds: int) -> Ensemble:
        ensemble = _ensemble(total, reducers, shapes, process, steps, every, seeds)
        return with_provenance(ensemble, asked, process, work.chunk)

    def task(chunk: int | None) -> Task:
        size = chunk or chunk_size(process, recorder, start, key, math.ceil(seeds / _devices.count(mesh)))
        parts = _devices.placed(mesh, (process, recorder, start, key))
        return Task(*parts, steps=steps, every=every, seeds=seeds, chunk=whole(reducers, min(size, seeds)), mesh=mesh)

    if not host:
        if checkpoint is not None:
            raise ValueError("checkpoint is for runs outside of jax.jit and jax.vmap, which the host can look into")
        work = task(chunk)
        return seen(completed_within_a_trace(work), work, seeds)
    words = functools.cache(lambda: identity(process=process, x0=start, observe=functions, reduce=reduce, key=key))
    numbers = dict(steps=steps, seeds=seeds, every=every, chunk=chunk)
    with opened(checkpoint, checkpoint_every, words, numbers) as store, _together.heeding_signals(store is not None):
        work = task(chunk if chunk or store is None else store.chunk)
        standing = Standing() if store is None else store.standing(work)
        try:
            with progress_bar(progress and _together.is_first(), work.chunks * steps, "step") as bar:
                standing = complete(work, standing, bar, store)
        except Stopped as stopped:
            done = stopped.standing
            if done.total is None and store is None:
                raise KeyboardInterrupt from None
            ensemble = None if done.total is None else seen(done.total, work, min(done.merged * work.chunk, seeds))
            raise Interrupted(ensemble, None if store is None else store.folder) from None
    assert standing.total is not None  # there is a chunk
    return seen(standing.total, work, seeds)


def _ensemble(
    total: _run.Record, reducers: ByObservable, shapes: dict[str, Any], process: Any, steps: int, every: int, seeds: int
) -> Ensemble:
    recorded = every * jnp.arange(steps // every + 1)
    ts = recorded.astype(process.learning_rate.dtype) * process.learning_rate
    # Many chunks were merged in float64.
    narrow = lambda leaf: jnp.asarray(leaf, ts.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.asarray(leaf)
    total = jax.tree.map(narrow, total)
    statistics = {name: reducers[name].result(total.statistics[name], ts, shape, seeds) for name, shape in shapes.items()}
    return Ensemble(ts, recorded, total.diverged, seeds, statistics)


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


def _by_observable(reduce: Any, names: tuple[str, ...]) -> ByObservable:
    """The reducers of observables of these names."""
    if not isinstance(reduce, Mapping):
        _checks.instance("reduce", reduce, AbstractReducer, "a reducer such as jaxsde.Moments()")
        return ByObservable({name: reduce for name in names})
    for name, reducer in reduce.items():
        if name not in names:
            raise ValueError(f"reduce has {name!r}, which is not observed: observables are {', '.join(map(repr, names))}")
        _checks.instance(f"reduce[{name!r}]", reducer, AbstractReducer, "a reducer such as jaxsde.Moments()")
    reducers: dict[str, AbstractReducer] = {name: Moments() for name in names}
    return ByObservable(reducers | dict(reduce))


def _observed_shape(name: str, function: Any, example: PyTree) -> PyTree:
    try:
        shape = shape_of(function, example)
    except Exception as error:  # whatever goes wrong in a user's function
        raise ValueError(f"observe[{name!r}] cannot be evaluated at the parameters: {type(error).__name__}: {error}") from error
    if not jax.tree.leaves(shape):
        raise ValueError(f"observe[{name!r}] must return an array or a pytree of arrays, got {shape!r}")
    for leaf in jax.tree.leaves(shape):
        if not (jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.integer)):
            raise TypeError(f"observe[{name!r}] must return real numbers, got dtype {leaf.dtype}")
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shape)


def _start_position(process: AbstractProcess, x: PyTree, key: PRNGKeyArray) -> PyTree:
    return process.position(process.init(x, key))


def _itself(x: PyTree) -> PyTree:
    return x
