"""How laws come to the stationary one, as a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..estimation import Mixing
from ._style import axes, colors, tidy


def plot_mixing(found: Mapping[str, Mixing], observable: str = "x", *, coordinate: int = 0, ax: Any = None) -> Any:
    """The distance of the law at each time from the stationary law, with two standard errors and what sampling alone makes of
    it; mixing times as vertical lines.

    **Arguments:** `found`: what [`mixing`][] returns, by the names of the curves, such as `{"optimizer": ..., "SDE": ...}`;
    `observable`, `coordinate`: which of the numbers; `ax`: Matplotlib axes, to which no title is given; by default new ones.

    **Returns:** the axes.
    """
    laws = {name: mixing.laws[observable] for name, mixing in found.items()}
    times = {
        name: f"{law.mixing_time[coordinate]:.3g} ± {law.mixing_time_stderr[coordinate]:.1g}" for name, law in laws.items()
    }
    finding = f"Mixing time of {observable}[{coordinate}]: " + ", ".join(f"{time} ({name})" for name, time in times.items())
    color = colors(found)
    with axes(ax, 8, 5.5, finding, "") as ax:
        for name, mixing in found.items():
            law, drawn = laws[name], dict(color=color[name])
            distance, stderr, chance = (values[:, coordinate] for values in (law.distance, law.stderr, law.chance))
            rate = law.rates[coordinate]
            label = name if rate is None else f"{name}, falls at {rate.rate:.3g} ± {rate.stderr:.1g}"
            ax.plot(mixing.ts, distance, label=label, **drawn)
            ax.fill_between(mixing.ts, distance - 2 * stderr, distance + 2 * stderr, alpha=0.15, lw=0, **drawn)
            ax.plot(mixing.ts, chance, ":", label=f"{name}, equal laws stay below", **drawn)
            ax.axvline(law.mixing_time[coordinate], lw=1, ls="--", label=f"{name}, mixing time {times[name]}", **drawn)
        shown = [law.distance[:, coordinate] for law in laws.values()]
        ax.set_yscale("log")
        ax.set_ylim(bottom=max(min(map(np.min, shown)) / 2, 1e-30))
        ax.set(
            xlabel="time $t = k\\,\\eta$", ylabel=f"Wasserstein distance of {observable}[{coordinate}]\nfrom its stationary law"
        )
        tidy(ax)
        ax.legend()
    return ax
