"""Contestants that do the same work, timed in turn."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    """Seconds per unit of work, round by round, by contestant; and who was missing, and why."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return float(np.median(self.seconds[name]))

    def ratio(self, a: str, b: str) -> float | None:
        """The median over rounds of the time of `a` over that of `b`; None where one is missing."""
        if a not in self.seconds or b not in self.seconds:
            return None
        return float(np.median(np.array(self.seconds[a]) / np.array(self.seconds[b])))


def race(contestants: Sequence[Contestant], unit: float, rounds: int, skipped: dict[str, str] | None = None) -> Result:
    """Times all contestants in turn, round after round, each first in one of the rounds, after a run to warm up.

    `unit` is the work of one step, such as seeds times coordinates.
    """
    result = Result({c.name: [] for c in contestants}, {c.name: c.note for c in contestants}, dict(skipped or {}))
    for contestant in contestants:
        contestant.run(contestant.steps)
    for turn in range(rounds):
        shift = turn % len(contestants)
        for contestant in (*contestants[shift:], *contestants[:shift]):
            begun = time.perf_counter()
            contestant.run(contestant.steps)
            result.seconds[contestant.name].append((time.perf_counter() - begun) / (contestant.steps * unit))
    return result


def agree(contestants: Sequence[Contestant], steps: int, seeds: int, allowance: float = 0.0) -> None:
    """Checks that all do the same work: mean and variance after `steps` steps, to 6 standard errors and `allowance`.

    **Raises:** `AssertionError` that names who is off.
    """
    (mean, variance), *others = (c.run(steps) for c in contestants)
    for contestant, (its_mean, its_variance) in zip(contestants[1:], others, strict=True):
        off = np.abs(its_mean - mean) / (6 * np.sqrt((variance + its_variance) / seeds) + allowance * np.abs(mean) + 1e-7)
        spread = np.abs(its_variance - variance) / ((6 * np.sqrt(4 / seeds) + allowance) * variance + 1e-9)
        worst = max(off.max(), spread.max())
        assert worst < 1, f"{contestant.name} and {contestants[0].name} do not agree after {steps} steps: {worst:.2f}"
