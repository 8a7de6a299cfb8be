"""Pictures of quantities against the noise scale, theory drawn in."""

from typing import Any

import numpy as np

from .._extras import require
from ..verification import Sweep


def plot_sweep(sweep: Sweep, ax: Any = None) -> Any:
    """Each series of a sweep with its error bars (5 standard errors), and theory as a line.

    **Arguments:** `ax`: Matplotlib axes; by default new ones.

    **Returns:** the axes.
    """
    if ax is None:
        figure = require("matplotlib.figure", extra="plots", purpose="plotting").Figure
        ax = figure(figsize=(6, 4.5), layout="constrained").subplots()
    grid = np.geomspace(sweep.scales[0] / 1.2, sweep.scales[-1] * 1.2, 200)
    for i, (name, series) in enumerate(sweep.series.items()):
        ax.plot(grid, series.theory(grid), color=f"C{i}", lw=1.5, label=f"{name}: theory")
        ax.errorbar(
            sweep.scales, series.values, 5 * series.stderr, fmt="o", ms=6, mfc="none", color=f"C{i}", capsize=3,
            label=f"{name}: simulated optimizer, ± 5 s.e.",
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", title=sweep.title, xlabel="noise scale $\\sigma$", ylabel=sweep.ylabel)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
    return ax
