"""Contestants that do the same work, timed in turn."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    - `run`: `steps -> (mean, variance)` over seeds of each coordinate at the end; returns when the work is done.
    - `steps`: how many steps a timed run makes: fewer for the slow.
    - `note`: what is special about it.
    """

    name: str
    run: Callable[[int], tuple[np.ndarray, np.ndarray]]
    steps: int
    note: str = ""


@dataclass
class Result:
    """Seconds per unit of work, round by round, by contestant."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return float(np.median(self.seconds[name]))

    def ratio(self, a: str, b: str) -> float | None:
        """The median over rounds of the time of `a` over that of `b`; None where one is missing."""
        if a not in self.seconds or b not in self.seconds:
            return None
        return float(np.median(np.array(self.seconds[a]) / np.array(self.seconds[b])))


def race(contestants: Sequence[Contestant], unit: float, rounds: int) -> Result:
    """Times all contestants in turn, round after round, each first in one of the rounds, after a run to warm up.

    `unit` is the work of one step, such as seeds times coordinates.
    """
    result = Result({c.name: [] for c in contestants})
    for contestant in contestants:
        contestant.run(contestant.steps)
    for turn in range(rounds):
        shift = turn % len(contestants)
        for contestant in (*contestants[shift:], *contestants[:shift]):
            begun = time.perf_counter()
            contestant.run(contestant.steps)
            result.seconds[contestant.name].append((time.perf_counter() - begun) / (contestant.steps * unit))
    return result


def agree(contestants: Sequence[Contestant], steps: int, seeds: int) -> None:
    """Checks that all do the same work: mean of each coordinate, and variance over all of them, to 6 standard errors.

    **Raises:** `AssertionError` that names who is off.
    """
    (mean, variance), *others = (c.run(steps) for c in contestants)
    for contestant, (its_mean, its_variance) in zip(contestants[1:], others, strict=True):
        off = np.max(np.abs(its_mean - mean) / np.sqrt((variance + its_variance) / seeds))
        # The variance of a nearly normal sample has a relative variance of 2 / seeds, and coordinates are independent.
        spread = np.abs(np.mean(its_variance / variance) - 1) / np.sqrt(4 / (seeds * len(variance)))
        assert max(off, spread) < 6, f"{contestant.name} and {contestants[0].name} differ: {off:.1f}, {spread:.1f}"
