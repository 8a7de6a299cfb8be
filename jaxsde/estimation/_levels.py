"""Expectations along an SDE at two solver steps at once, one half of the other, driven by the same noise."""

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array

from .._tree import drawn
from .._typing import Key
from ..processes import SDE, TwoLevels, TwoLevelsPosition
from ..simulation import Moments, simulate
from ._control import (
    TRAJECTORY,
    Expectation,
    Functions,
    couple,
    expected_controls,
    linear_noise_law,
    plain,
    raveled,
    remainder,
    shaped,
    trajectory_of,
    value_of,
    with_control,
)
from ._statistics import extrapolate, rounding_stderr

# Sums of these have the fourth moment of a normal number; those of two-point increments do not.
INCREMENTS = "three-point"


class AtTwoLevels(NamedTuple):
    """Of one function: the mean of its difference, fine minus coarse, and of its extrapolation to a step of zero."""

    difference: Expectation
    extrapolated: Expectation


class TwoLevelExpectations(NamedTuple):
    """What [`two_levels`][] returns."""

    ts: np.ndarray
    diverged: np.ndarray
    values: dict[str, AtTwoLevels]

    def __getitem__(self, name: str) -> AtTwoLevels:
        return self.values[name]


def two_levels(
    sde: SDE, x0: Any, functions: Functions, *, steps: int, seeds: int, key: Key, substeps: int, progress: bool
) -> TwoLevelExpectations:
    """Expectations at the end of an SDE with `substeps` solver steps for each of the optimizer's, and with half as many.

    Both see the same noise, so their difference has little variance, and the extrapolated value, which takes the fine one
    twice, no more than one of them. Control variates, as those of [`expectations`][], are taken out at both levels.
    """
    fine, coarse = (couple(sde, x0, count, INCREMENTS) for count in (substeps, substeps // 2))
    common: dict[str, Any] = dict(steps=steps, seeds=seeds, key=key, every=steps, progress=progress, reduce=Moments())
    if fine is None or coarse is None:
        pair = TwoLevels(sde.discretised(substeps, INCREMENTS))
        run = simulate(pair, x0, observe=_observables(functions, raveled), **common)
        found = {name: plain(run[name]) for of in functions for name in _names(of)}
    else:
        pair = TwoLevels(sde.discretised(substeps, INCREMENTS), fine.companion)
        less_control = {_controlled(name): seen for name, seen in _observables(functions, remainder).items()}
        run = simulate(pair, x0, observe=_observables(functions, value_of) | less_control | _TRAJECTORIES, **common)
        known = [
            expected_controls(functions, linear_noise_law(side, steps, run.steps), np.asarray(run[name].mean, float))
            for side, name in zip((fine, coarse), _TRAJECTORIES, strict=True)
        ]
        found = {
            name: with_control(run[name], run[_controlled(name)], combine(known[0][of], known[1][of]), seeds)
            for of in functions
            for name, combine in zip(_names(of), _COMBINATIONS, strict=True)
        }
    example = drawn(x0, key)
    values = {}
    for of, function in functions.items():
        difference, extrapolated = (found[name] for name in _names(of))
        rounding = rounding_stderr(extrapolated.mean, run[_names(of)[0]].mean.dtype)
        both = (_with_error(e, size * rounding) for e, size in ((difference, 2**0.5), (extrapolated, 5**0.5)))
        values[of] = AtTwoLevels(*(shaped(function, example, e) for e in both))
    return TwoLevelExpectations(np.asarray(run.ts, float), np.asarray(run.diverged), values)


def _with_error(value: Expectation, rounding: np.ndarray) -> Expectation:
    """The expectation with the rounding of the two values that it combines in its standard error."""
    return value._replace(stderr=np.hypot(value.stderr, rounding))


def _subtract(fine: Any, coarse: Any) -> Any:
    return fine - coarse


def _extrapolate(fine: Any, coarse: Any) -> Any:
    return extrapolate(coarse, fine)


_COMBINATIONS = _subtract, _extrapolate


def _names(of: str) -> tuple[str, str]:
    return f"{of}, difference", f"{of}, extrapolated"


def _controlled(name: str) -> str:
    return f"{name}, controlled"


def _observables(functions: Functions, of: Any) -> dict[str, Any]:
    """The combinations of both levels' values `of(function, what is seen there)`."""
    return {
        name: eqx.Partial(_combined, combine, of, function)
        for key, function in functions.items()
        for name, combine in zip(_names(key), _COMBINATIONS, strict=True)
    }


def _combined(combine: Any, of: Any, function: Any, seen: TwoLevelsPosition) -> Array:
    return combine(of(function, seen.fine), of(function, seen.coarse))


def _fine_trajectory(seen: TwoLevelsPosition) -> Array:
    return trajectory_of(seen.fine)


def _coarse_trajectory(seen: TwoLevelsPosition) -> Array:
    return trajectory_of(seen.coarse)


_TRAJECTORIES = {f"{TRAJECTORY}, fine": _fine_trajectory, f"{TRAJECTORY}, coarse": _coarse_trajectory}
