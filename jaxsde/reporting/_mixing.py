"""How laws come to the stationary one, as a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._extras import require
from ..estimation import Mixing
from ._style import COLORS


def plot_mixing(found: Mapping[str, Mixing], observable: str = "x", *, coordinate: int = 0, ax: Any = None) -> Any:
    """The distance of the law at each time from the stationary law, with two standard errors and what sampling alone makes of
    it; mixing times as vertical lines.

    **Arguments:** `found`: what [`mixing`][] returns, by the names of the curves, such as `{"optimizer": ..., "SDE": ...}`;
    `observable`, `coordinate`: which of the numbers; `ax`: Matplotlib axes; by default new ones.

    **Returns:** the axes.
    """
    if ax is None:
        figure = require("matplotlib.figure", extra="plots", purpose="plotting").Figure
        ax = figure(figsize=(8, 5), layout="constrained").subplots()
    for i, (name, mixing) in enumerate(found.items()):
        law, color = mixing.laws[observable], COLORS.get(name, f"C{i}")
        distance, stderr, chance = (values[:, coordinate] for values in (law.distance, law.stderr, law.chance))
        rate, time = law.rates[coordinate], law.mixing_time[coordinate]
        label = name if rate is None else f"{name}, falls at {rate.rate:.3g} ± {rate.stderr:.1g}"
        ax.plot(mixing.ts, distance, color=color, lw=1.6, label=label)
        ax.fill_between(mixing.ts, distance - 2 * stderr, distance + 2 * stderr, color=color, alpha=0.15, lw=0)
        ax.plot(mixing.ts, chance, ":", color=color, lw=1.2, label=f"{name}, equal laws stay below")
        ax.axvline(
            time, color=color, lw=1, ls="--", label=f"{name}, mixing time {time:.3g} ± {law.mixing_time_stderr[coordinate]:.1g}"
        )
    shown = [mixing.laws[observable].distance[:, coordinate] for mixing in found.values()]
    ax.set_yscale("log")
    ax.set_ylim(bottom=max(min(map(np.min, shown)) / 2, 1e-30))
    ax.set(xlabel="time $t = k\\,\\eta$", ylabel=f"Wasserstein distance of {observable}[{coordinate}] from its stationary law")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return ax
