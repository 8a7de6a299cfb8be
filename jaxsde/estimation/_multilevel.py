"""`multilevel`: expectations along an SDE to a given standard error, from few seeds at small steps and many at large ones."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import _checks, _random
from .._typing import Key
from ..processes import SDE
from ._control import Expectation, Functions, expectations
from ._levels import INCREMENTS, two_levels

_LEAST_LEVELS, _MOST_LEVELS = 3, 12
_MOST_SEEDS = 2**30
# Of the standard error that is asked for: the error of the solver that is left.
_BIAS = 0.5
# A pair of levels makes three solver steps where its fine one makes two.
_PAIR = 1.5


class Level(NamedTuple):
    """One of the levels of a [`Multilevel`][]."""

    substeps: int
    """Solver steps per optimizer step; those of its coarse half are half as many."""
    seeds: int
    solver_steps: float
    """All that were made at this level."""
    mean: dict[str, np.ndarray]
    """Of the functions at the first level, and of their differences to the level before at the others."""
    variance: dict[str, np.ndarray]
    """That of one seed's value, after control variates."""


class Limit(NamedTuple):
    """The expectation of a function, extrapolated to a solver step of zero."""

    mean: np.ndarray
    stderr: np.ndarray
    bias: np.ndarray
    """An estimate of the solver's error that the extrapolation leaves."""


class Multilevel(NamedTuple):
    """What [`multilevel`][] returns."""

    t: float
    values: dict[str, Limit]
    levels: tuple[Level, ...]
    gain: float
    """How many times as many solver steps plain Monte Carlo would make at the smallest step, for the same standard errors."""
    diverged: int

    def __getitem__(self, name: str) -> Limit:
        return self.values[name]


class _Sums(NamedTuple):
    """What is known of a level, function by function: how many seeds, their mean, the variance of one, and that without
    control variates."""

    seeds: int
    mean: dict[str, np.ndarray]
    variance: dict[str, np.ndarray]
    plain: dict[str, np.ndarray]
    diverged: int

    def merged(self, other: "_Sums") -> "_Sums":
        share = self.seeds / (self.seeds + other.seeds)
        pairs = zip(self[1:4], other[1:4], strict=True)
        mean, variance, crude = ({name: share * a[name] + (1 - share) * b[name] for name in a} for a, b in pairs)
        return _Sums(self.seeds + other.seeds, mean, variance, crude, self.diverged + other.diverged)


def multilevel(
    sde: SDE,
    x0: Any,
    functions: Functions,
    *,
    steps: int,
    stderr: float | Mapping[str, float],
    key: Key,
    substeps: int = 1,
    pilot: int = 1024,
    progress: bool = True,
) -> Multilevel:
    """Expectations $E\\,g(X_T)$ along an SDE itself, without its solver's error, to a given standard error.

    Multilevel Monte Carlo (giles2008): with $h_\\ell = h_0 / 2^\\ell$,
    $E\\,g(X^{h_L}) = E\\,g(X^{h_0}) + \\sum_{\\ell=1}^{L} E[g(X^{h_\\ell}) - g(X^{h_{\\ell-1}})]$. Both terms of a difference
    see the same noise, so its variance $V_\\ell$ falls with the step. The small steps are expensive and need few seeds: they
    are in proportion to $\\sqrt{V_\\ell h_\\ell}$. Control variates are used at all levels, as in [`expectations`][]. The last
    difference counts twice, which extrapolates the mean to a step of zero (talay1990). Levels are added until the error of the
    solver that is left is below half of the standard error.

    **Arguments:**

    - `sde`, `x0`, `steps`, `key`, `progress`: as in [`simulate`][]. The expectations are those at the end.
    - `functions`: of the parameters, by name, to arrays or pytrees of them.
    - `stderr`: the standard error asked for: one number, or one for each function by name.
    - `substeps`: solver steps per optimizer step at the first level.
    - `pilot`: how many seeds tell the variances at each level.

    **Returns:** [`Multilevel`][]: by name `.mean`, `.stderr` and `.bias`, of shape `(k,)` or `()`; and `.levels`, `.gain`.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit, for a standard error that would need more than 2^30
    seeds, and where so many seeds diverge at a level that it has no mean. A warning says where the solver's error stays larger
    than it should be. Where some seeds diverge, `.diverged` counts them: those that are left are not the same at all levels.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> sde = js.SignSGD(0.1).sde(problem)
    >>> run = dict(steps=10, stderr=0.01, key=jax.random.key(0), progress=False)
    >>> found = multilevel(sde, jax.numpy.ones(1), {"loss": problem.loss}, **run)
    >>> found["loss"].stderr.item() <= 0.01
    True
    """
    _checks.instance("sde", sde, SDE, "an optimizer's sde(problem)")
    _checks.eager("multilevel", sde, x0, key)
    functions = _checks.functions("functions", functions)
    steps, substeps = _checks.count("steps", steps), _checks.count("substeps", substeps)
    pilot = _checks.count("pilot", pilot, least=2)
    wanted = _wanted(stderr, functions)
    key = _random.typed_key(key)
    runs = 0

    def drawn(level: int, seeds: int) -> _Sums:
        nonlocal runs
        common: dict[str, Any] = dict(steps=steps, seeds=seeds, key=jax.random.fold_in(key, runs), progress=progress)
        runs, fine = runs + 1, substeps << level
        if level == 0:
            found = expectations(sde, x0, functions, every=steps, substeps=fine, increments=INCREMENTS, **common)
            return _sums(found.values, seeds, found.diverged)
        pair = two_levels(sde, x0, functions, substeps=fine, **common)
        return _sums({name: pair[name].difference for name in functions}, seeds, pair.diverged)

    levels = [drawn(level, pilot) for level in range(_LEAST_LEVELS)]
    while True:
        # Variances change a little as seeds are added.
        while any(more := [max(0, n - of.seeds) for n, of in zip(_seeds(levels, wanted, substeps), levels, strict=True)]):
            for i, extra in enumerate(more):
                if extra:
                    levels[i] = levels[i].merged(drawn(i, math.ceil(extra / pilot) * pilot))
        values = {name: _limit(levels, name) for name in functions}
        large = [name for name in functions if _is_large(levels, name, _BIAS * wanted[name])]
        if not large or len(levels) == _MOST_LEVELS:
            break
        levels.append(drawn(len(levels), pilot))
    if large:
        warnings.warn(
            f"the solver's error in {', '.join(large)} may be larger than half of the standard error, with "
            f"{substeps << len(levels) - 1} substeps",
            stacklevel=2,
        )
    return Multilevel(
        t=steps * float(sde.learning_rate),
        values=values,
        levels=tuple(
            Level(substeps << i, level.seeds, level.seeds * steps * _cost(i, substeps), level.mean, level.variance)
            for i, level in enumerate(levels)
        ),
        gain=_gain(levels, values, substeps),
        diverged=sum(level.diverged for level in levels),
    )


def _wanted(stderr: float | Mapping[str, float], functions: Functions) -> dict[str, float]:
    if isinstance(stderr, Mapping):
        if set(stderr) != set(functions):
            raise ValueError(
                f"stderr must have a number for each of {', '.join(functions)}; it has {', '.join(map(str, stderr))}"
            )
        wanted = dict(stderr)
    else:
        wanted = dict.fromkeys(functions, stderr)
    for value in wanted.values():
        _checks.scalar("stderr", value, low=0.0)
    return {name: float(value) for name, value in wanted.items()}


def _sums(values: Mapping[str, Expectation], seeds: int, diverged: np.ndarray) -> _Sums:
    kept = seeds - int(diverged[-1])
    last = {name: Expectation(*(entry[-1] for entry in value)) for name, value in values.items()}
    for name, value in last.items():
        if kept < 2 or not np.all(np.isfinite([value.mean, value.stderr])):
            raise ValueError(
                f"{name} has no finite mean and variance: {seeds - kept} of {seeds} seeds diverged; more substeps may help"
            )
    variance = {name: kept * value.stderr**2 for name, value in last.items()}
    plain = {name: variance[name] * value.reduction for name, value in last.items()}
    return _Sums(kept, {name: value.mean for name, value in last.items()}, variance, plain, seeds - kept)


def _cost(level: int, substeps: int) -> float:
    """Solver steps for a seed and a step of the optimizer."""
    return (substeps << level) * (_PAIR if level else 1.0)


def _weights(levels: list[_Sums]) -> np.ndarray:
    """The last difference counts twice, by which the mean is extrapolated."""
    return np.array([1.0] * (len(levels) - 1) + [2.0])


def _seeds(levels: list[_Sums], wanted: Mapping[str, float], substeps: int) -> list[int]:
    """How many seeds each level should have, for the least cost."""
    cost = np.array([_cost(i, substeps) for i in range(len(levels))])
    needed = np.zeros(len(levels))
    for name, error in wanted.items():
        deviations = np.stack([np.sqrt(level.variance[name]).ravel() for level in levels], axis=1) * _weights(levels)
        each = deviations / np.sqrt(cost) * np.sum(deviations * np.sqrt(cost), axis=1, keepdims=True) / error**2
        needed = np.maximum(needed, np.max(each, axis=0, initial=0))
    if np.max(needed) > _MOST_SEEDS:
        raise ValueError(f"the standard error asked for would need {np.max(needed):.1e} seeds, of at most 2^30")
    return [math.ceil(n) for n in needed]


def _limit(levels: list[_Sums], name: str) -> Limit:
    weights = _weights(levels)
    mean = sum(w * level.mean[name] for w, level in zip(weights, levels, strict=True))
    variance = sum(w**2 * level.variance[name] / level.seeds for w, level in zip(weights, levels, strict=True))
    return Limit(*map(np.asarray, (mean, np.sqrt(variance), _bias(levels, name))))


def _bias(levels: list[_Sums], name: str) -> Any:
    """With $E_h = E + a h + b h^2$ the last differences are $-a h - 3 b h^2$ and $-2 a h - 12 b h^2$, and the extrapolated mean
    is off by $-2 b h^2$."""
    return -(2 * levels[-1].mean[name] - levels[-2].mean[name]) / 3


def _is_large(levels: list[_Sums], name: str, allowed: float) -> bool:
    """Whether the solver's error is larger than `allowed`, and more than the noise in it can be."""
    last, before = (level.variance[name] / level.seeds for level in (levels[-1], levels[-2]))
    noise = np.sqrt(4 * last + before) / 3
    return bool(np.any(np.abs(_bias(levels, name)) > np.maximum(allowed, 2 * noise)))


def _gain(levels: list[_Sums], values: Mapping[str, Limit], substeps: int) -> float:
    spent = sum(level.seeds * _cost(i, substeps) for i, level in enumerate(levels))
    seeds = max(float(np.max(levels[0].plain[name] / value.stderr**2)) for name, value in values.items())
    return seeds * (substeps << len(levels) - 1) / spent
