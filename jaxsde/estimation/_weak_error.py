"""`weak_error`: how far an SDE's expectations are from its optimizer's, and from its own solver's."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import _checks, _random
from .._tree import cast, drawn, flat
from .._typing import Key
from ..optimizers import AbstractOptimizer, adjusted, roles_of
from ..problems import Problem
from ..processes import SDE
from ._control import Expectation, couple, expectations, linear_noise_law
from ._divergence import divergence
from ._levels import two_levels
from ._statistics import extrapolate

_NORMAL_QUANTILE = 1.96
# The powers that a fit chooses from.
_POWERS = np.linspace(-2.0, 8.0, 10_001)


class Order(NamedTuple):
    """A power law $e = C \\eta^p$ fitted to errors."""

    slope: float
    """$p$; nan where noise hides it."""
    half_width: float
    """Half the width of its 95 % confidence interval, from the standard errors of the errors; infinite where noise hides it."""
    constant: float
    """$C$ for the whole power nearest to $p$, from the smallest learning rate."""
    constant_stderr: float
    local: np.ndarray
    """The slopes between neighbouring learning rates. If these drift, higher powers matter. A slope between errors of
    different signs is nan."""
    local_half_width: np.ndarray
    """Half the widths of their 95 % confidence intervals, to first order in the errors' standard errors."""


class FunctionError(NamedTuple):
    """The errors of one test function $g$ at the time $T$, with a leading axis of learning rates."""

    optimizer: np.ndarray
    """$E\\,g(x_k)$."""
    sde: np.ndarray
    """$E\\,g(X_T)$, extrapolated to a solver step of zero."""
    modelling: np.ndarray
    """`sde` minus `optimizer`: the error of the model."""
    modelling_stderr: np.ndarray
    discretisation: np.ndarray
    """The solver's error with `substeps` steps per optimizer step, to first order, for three-point increments."""
    discretisation_stderr: np.ndarray
    ode: np.ndarray | None
    """$g$ along the SDE's drift alone, minus `optimizer`; None where the start is random."""
    reduction: np.ndarray
    """The factor by which control variates divided the variance of the optimizer's mean."""
    order: Order
    """Of the modelling error."""
    discretisation_order: Order


class WeakError(NamedTuple):
    """What [`weak_error`][] returns."""

    title: str
    T: float
    learning_rates: np.ndarray
    substeps: int
    seeds: int
    functions: dict[str, FunctionError]
    diverged: int

    def __getitem__(self, name: str) -> FunctionError:
        return self.functions[name]


def weak_error(
    opt: AbstractOptimizer,
    problem: Problem,
    x0: Any,
    *,
    T: float,
    learning_rates: Sequence[float],
    key: Key,
    test_functions: Mapping[str, Callable[[PyTree], Any]] | None = None,
    seeds: int = 20_000,
    substeps: int = 4,
    model: str | None = None,
    start_time: float | None = None,
    progress: bool = True,
) -> WeakError:
    """Measures the weak error of an optimizer's SDE against the learning rate: that of the model and that of the solver.

    An SDE is a weak approximation of order $p$ if $|E\\,g(x_k) - E\\,g(X_{k\\eta})| \\le C \\eta^p$ for smooth $g$. As
    $\\eta$ changes, adaptive methods keep $\\rho = (1 - \\beta) / \\eta$, and so their time scales. Richardson's
    extrapolation, $2 E\\,g(X^{h/2}) - E\\,g(X^h)$ (talay1990), takes out the error of the solver. Both steps see the same
    noise (giles2008), three-point increments, and control variates take out most of what is left of it, as in
    [`expectations`][].

    The order alone proves nothing about the noise: the plain ODE, whose error is given as well, is also of order 1.
    Models differ in the constants.

    **Arguments:**

    - `opt`: the optimizer, with hyperparameters as they are at its own learning rate; without a schedule.
    - `problem`, `x0`: the problem and the start, a pytree or a function `key -> pytree`.
    - `T`: the time of comparison; a whole number of steps at each of the learning rates.
    - `learning_rates`: at least two, in any order.
    - `key`, `seeds`, `progress`: as in [`simulate`][].
    - `test_functions`: smooth functions of the parameters to scalars, by name; by default the loss, the squared norm,
      each coordinate's first two moments (up to three coordinates), and $\\cos$ and $\\sin$ of the sum of coordinates,
      which see the whole law.
    - `substeps`: solver steps per optimizer step, for the coarser of the two runs of the SDE.
    - `model`: the SDE's; by default the first of the optimizer's.
    - `start_time`: for RMSprop(W) and Adam(W), the time up to which the optimizer itself is run before the SDE, instead of
      for one step. Adam's SDE is singular at 0, and orders show only away from there.

    **Returns:** a [`WeakError`][]; `jaxsde.reporting.weak_error_table` prints it.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit, and for an optimizer whose class
    declares no `roles`.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> run = dict(T=1.0, learning_rates=(0.2, 0.1, 0.05), seeds=100, key=jax.random.key(0))
    >>> 0.8 < weak_error(js.SGD(0.1), problem, jnp.full(1, 2.0), **run)["loss"].order.slope < 1.2
    True
    """
    roles_of(opt, "how to keep an optimizer's time scales is")
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    if opt.reference_rate is not None:
        raise ValueError("weak_error changes the learning rate, so it takes optimizers without a schedule")
    _checks.number("learning_rates", learning_rates, low=0.0)
    rates = np.sort(np.asarray(learning_rates, float).ravel())[::-1]
    if len(rates) < 2 or len(np.unique(rates)) < len(rates):
        raise ValueError(f"learning_rates must be at least two different numbers, got {learning_rates}")
    _checks.scalar("T", T, low=0.0)
    steps = [_whole_steps("T", T, rate) for rate in rates]
    seeds, substeps = _checks.count("seeds", seeds), _checks.count("substeps", substeps)
    key = _random.typed_key(key)
    starts: list[dict[str, int]] = [{} for _ in rates]
    if start_time is not None:
        if "start_steps" not in inspect.signature(opt.sde).parameters:
            raise ValueError(f"start_time is for adaptive methods, whose SDEs are singular at 0; {opt.called}'s is not")
        _checks.scalar("start_time", start_time, low=0.0, high=T, closed="high")
        starts = [{"start_steps": _whole_steps("start_time", start_time, rate)} for rate in rates]
    example = problem.validate(drawn(x0, key))
    functions = _default_functions(problem, example)
    if test_functions is not None:
        functions = _checks.functions("test_functions", test_functions)
    for name, function in functions.items():
        if getattr(jax.eval_shape(function, example), "shape", None) != ():
            raise ValueError(f"test_functions[{name!r}] must return a scalar")

    # Make all of them before simulating: a rate without an optimizer or an SDE should raise at once.
    scaled = [at_rate(opt, rate) for rate in rates]
    model = opt.default_model if model is None else model
    sdes = [other.sde_for(problem, model, example, **more) for other, more in zip(scaled, starts, strict=True)]
    sides = []
    for i, (count, other, sde) in enumerate(zip(steps, scaled, sdes, strict=True)):
        common: dict[str, Any] = dict(steps=count, seeds=seeds, progress=progress)

        discrete = expectations(other.chain(problem), x0, functions, key=jax.random.fold_in(key, 2 * i), **common)
        levels = two_levels(sde, x0, functions, key=jax.random.fold_in(key, 2 * i + 1), substeps=2 * substeps, **common)
        for name, side in (("optimizer", discrete), ("SDE", levels)):
            if side.diverged[-1] > seeds - 2:
                lost = divergence(side.diverged, seeds, side.ts)
                raise ValueError(f"at the learning rate {rates[i]:g} {lost} of the {name}: there is no expectation to compare")
        sides.append((discrete, levels, _ode(sde, x0, count, substeps, functions)))
    for name in functions:
        if not all(np.isfinite([at[name].mean[-1], levels[name].extrapolated.mean[-1]]).all() for at, levels, _ in sides):
            raise ValueError(f"test_functions[{name!r}] is not finite for any seed at the end of a run: it has no expectation")
    errors = {name: _function_error(name, rates, sides) for name in functions}
    title = f"{opt.called} on {type(problem.loss).__name__} with {type(problem.noise).__name__} noise, {model}"
    lost = sum(int(e.diverged[-1]) for side in sides for e in side[:2])
    return WeakError(title, float(T), rates, substeps, seeds, errors, lost)


def at_rate(opt: AbstractOptimizer, rate: float) -> AbstractOptimizer:
    """Changes the learning rate and keeps the time scales $\\eta / (1 - \\beta)$ of the optimizer's averages."""
    roles_of(opt, "how hyperparameters keep their time scales at another learning rate is")
    why = f"to keep its time scale at the learning rate {rate:g}"
    return adjusted(opt, {"learning_rate": jnp.asarray(rate, opt.rate.dtype)}, forgetting=rate / opt.rate, why=why)


def _whole_steps(name: str, time: float, rate: float) -> int:
    count = round(time / rate)
    if count < 1 or abs(count * rate - time) > 1e-5 * time:
        raise ValueError(f"{name} must be a whole number of steps at each learning rate, but {name} / rate = {time / rate:.6g}")
    return count


def _default_functions(problem: Problem, example: PyTree) -> dict[str, Callable[[PyTree], Any]]:
    functions: dict[str, Callable[[PyTree], Any]] = {"loss": problem.loss, "norm^2": _norm}
    for i in range(min(3, flat(example).shape[0])):
        functions |= {f"x[{i}]": eqx.Partial(_coordinate, i, 1), f"x[{i}]^2": eqx.Partial(_coordinate, i, 2)}
    return functions | {"cos": _cosine, "sin": _sine}


def _norm(x: PyTree) -> Any:
    return jnp.sum(flat(x) ** 2)


def _coordinate(i: int, power: int, x: PyTree) -> Any:
    return flat(x)[i] ** power


def _cosine(x: PyTree) -> Any:
    return jnp.cos(jnp.sum(flat(x)))


def _sine(x: PyTree) -> Any:
    return jnp.sin(jnp.sum(flat(x)))


def _ode(sde: SDE, x0: Any, steps: int, substeps: int, functions: Mapping[str, Any]) -> dict[str, float] | None:
    """Evaluates the test functions along the drift alone, extrapolated to a step of zero."""
    values = []
    for refined in (4 * substeps, 8 * substeps):
        companion = couple(sde, x0, refined)
        if companion is None:
            return None
        mean = linear_noise_law(companion, steps, jnp.arange(2) * steps).mean
        dtype = flat(companion.companion.start).dtype
        end = jax.tree.map(lambda m, dtype=dtype: jnp.asarray(m[-1], dtype), mean)
        functions = cast(dict(functions), dtype)
        values.append({name: float(f(end)) for name, f in functions.items()})
    return {name: extrapolate(values[0][name], values[1][name]) for name in functions}


def _function_error(name: str, rates: np.ndarray, sides: list[Any]) -> FunctionError:
    def column(of_rates: list[Expectation]) -> Expectation:
        return Expectation(*(np.array([float(entry[-1]) for entry in entries]) for entries in zip(*of_rates, strict=True)))

    chain = column([optimizer[name] for optimizer, _, _ in sides])
    sde = column([levels[name].extrapolated for _, levels, _ in sides])
    difference = column([levels[name].difference for _, levels, _ in sides])
    modelling, modelling_error = sde.mean - chain.mean, np.hypot(sde.stderr, chain.stderr)
    solver, solver_error = -2 * difference.mean, 2 * difference.stderr  # of the coarse level, to first order
    ode = None if sides[0][2] is None else np.array([ode[name] for _, _, ode in sides]) - chain.mean
    return FunctionError(
        chain.mean, sde.mean, modelling, modelling_error, solver, solver_error, ode, chain.reduction,
        fit_order(rates, modelling, modelling_error), fit_order(rates, solver, solver_error),
    )  # fmt: skip


def fit_order(rates: np.ndarray, errors: np.ndarray, stderr: np.ndarray) -> Order:
    """Fits $e = C \\eta^p$ to errors of either sign, all of them, by least squares weighted with their standard errors.

    The fit is to the errors and not to their logarithms. Errors that noise hides then weigh little, and none has to be left
    out; to leave out the small ones would bias the slope. The interval of the slope is where the sum of squares is within
    3.84 of its least (the profile likelihood of normal errors). If that is unbounded, there is no slope.
    """
    deviation = np.maximum(stderr, 1e-12 * np.max(np.abs(errors), initial=1e-300))
    x = np.log(rates / rates[-1])
    e = errors / deviation
    basis = np.exp(np.outer(_POWERS, x)) / deviation
    # The sum of squares that is left for each power with its best constant.
    explained = (basis @ e) ** 2 / np.sum(basis**2, axis=1)
    left = np.sum(e**2) - explained
    best = int(np.argmin(left))
    inside = np.flatnonzero(left <= left[best] + _NORMAL_QUANTILE**2)
    seen = 0 < inside[0] and inside[-1] < len(_POWERS) - 1
    slope = float(_POWERS[best]) if seen else np.nan
    # As wide as the grid of powers is fine, at least.
    half_width = float(_POWERS[inside[-1] + 1] - _POWERS[inside[0] - 1]) / 2 if seen else np.inf
    scale = rates[-1] ** max(1, round(slope)) if seen else np.nan
    constant, constant_error = errors[-1] / scale, stderr[-1] / scale
    with np.errstate(divide="ignore", invalid="ignore"):
        local = np.diff(np.log(np.abs(errors))) / np.diff(x)
        spread = _NORMAL_QUANTILE * np.hypot(*(stderr / np.abs(errors))[np.arange(2)[:, None] + np.arange(len(x) - 1)])
        local_half_width = spread / np.abs(np.diff(x))
    local[np.sign(errors[1:]) != np.sign(errors[:-1])] = np.nan
    return Order(slope, half_width, float(constant), float(constant_error), local, local_half_width)
