"""What a picture shows, as data."""

from typing import Any, NamedTuple

import numpy as np

from ..simulation import Ensemble


class Curve(NamedTuple):
    """A curve, with a band about it or without."""

    label: str
    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray | None = None
    """Half the height of the band: one standard deviation over seeds, or what the panel says."""
    style: str = "-"
    of: str | None = None
    """What it is a curve of, such as "optimizer" or "SDE", by default its label: a thing has one colour in all pictures."""


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    xlabel: str
    ylabel: str
    curves: list[Curve]
    xscale: str = "linear"
    yscale: str = "log"
    bars: bool = False
    """Whether the spreads are error bars rather than bands."""
    names: tuple[str, ...] = ()
    """What stands below the axis at 0, 1, 2 and so on, in place of numbers."""


def curve(label: str, run: Ensemble, name: str = "loss", **more: Any) -> Curve:
    """The mean over seeds of an observable against time, with its standard deviation."""
    statistics = run[name]
    mean, variance = (np.asarray(a, float) for a in (statistics.mean, statistics.variance))
    return Curve(label, np.asarray(run.ts, float), mean, np.sqrt(variance), **more)
