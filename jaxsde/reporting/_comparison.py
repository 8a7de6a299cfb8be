"""A comparison as a table, a picture and a file."""

import json
from typing import Any

import numpy as np

from .._extras import require
from ..estimation import Comparison, Curves, Estimate, Row, Side

_HEADER = ("quantity", "optimizer", "SDE", "theory", "SDE dev %", "dev/s.e.", "theory dev %", "dev/s.e.")


def table(comparison: Comparison) -> str:
    """The comparison as a plain-text table, deviations being from the optimizer; notes below.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> result = js.compare(js.SGD(0.1), problem, jnp.ones(1), steps=40, seeds=80, substeps=1)
    >>> "stationary loss" in table(result)
    True
    """
    lines = [_HEADER, *(_cells(row) for row in comparison.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
    text = [comparison.title]
    for line in lines:
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        text.append("  ".join([line[0].ljust(widths[0]), *rest]))
    text.insert(2, "-" * len(text[1]))
    return "\n".join([*text, *(f"note: {note}" for note in comparison.notes)])


def plot(comparison: Comparison, ax: Any = None) -> Any:
    """Loss against time: the optimizer's and the SDE's mean with the spread over seeds, theory's curve and bound.

    **Arguments:** `ax`: Matplotlib axes; by default new ones.

    **Returns:** the axes.
    """
    if ax is None:
        figure = require("matplotlib.figure", extra="plots", purpose="plotting").Figure
        ax = figure(figsize=(8, 5), layout="constrained").subplots()
    ts, lowest = comparison.ts, np.inf
    for name, side, color, style in (
        ("optimizer", comparison.optimizer, "C0", "-"),
        ("SDE", comparison.sde, "C1", "--"),
    ):
        if side is None:
            continue
        mean, std = side.curves.loss, side.loss_std
        ax.plot(ts, mean, style, color=color, lw=2, label=f"{name}, mean of {side.seeds:,} seeds")
        ax.fill_between(ts, mean - std, mean + std, color=color, alpha=0.15, lw=0, label=f"{name}, ± 1 std over seeds")
        lowest = min(lowest, float(np.min(mean[np.isfinite(mean)], initial=np.inf)))
    if comparison.theory is not None:
        ax.plot(ts, comparison.theory.loss, "k:", lw=2, label="theory")
    if comparison.bound is not None:
        ax.plot(ts, comparison.bound, color="0.5", lw=1, label="theory, upper bound")
    if 0 < lowest < np.inf:
        ax.set_yscale("log")
        ax.set_ylim(bottom=lowest / 3)
    ax.set(title=comparison.title, xlabel="time $t = k\\,\\eta$", ylabel="loss")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def save(comparison: Comparison, path: str) -> None:
    """Writes all numbers to a netCDF file, which `xarray.open_dataset(path, engine="h5netcdf")` opens."""
    xarray = require("xarray", extra="files", purpose="saving")
    require("h5netcdf", extra="files", purpose="saving")
    variables: dict[str, Any] = {}
    for name, side in (("optimizer", comparison.optimizer), ("sde", comparison.sde)):
        if side is not None:
            variables |= _side_variables(name, side)
    if comparison.theory is not None:
        variables |= _curve_variables("theory", comparison.theory)
    if comparison.bound is not None:
        variables["theory_loss_bound"] = ("time", comparison.bound)
    nothing = Estimate(np.nan, np.nan)
    rows = comparison.rows
    variables["table_optimizer"] = ("quantity", [row.optimizer.value for row in rows])
    variables["table_optimizer_stderr"] = ("quantity", [row.optimizer.stderr for row in rows])
    variables["table_sde"] = ("quantity", [(row.sde or nothing).value for row in rows])
    variables["table_sde_stderr"] = ("quantity", [(row.sde or nothing).stderr for row in rows])
    variables["table_theory"] = ("quantity", [np.nan if row.theory is None else row.theory for row in rows])
    coordinates = {"time": comparison.ts, "quantity": [row.quantity for row in rows]}
    attributes = {"title": comparison.title, "notes": "\n".join(comparison.notes)}
    attributes["settings"] = json.dumps(comparison.settings)
    xarray.Dataset(variables, coordinates, attributes).to_netcdf(path, engine="h5netcdf")


def _side_variables(name: str, side: Side) -> dict[str, Any]:
    return {
        **_curve_variables(name, side.curves),
        f"{name}_loss_std": ("time", side.loss_std),
        f"{name}_loss_stderr": ("time", side.loss_stderr),
        f"{name}_diverged": ("time", side.diverged),
    }


def _curve_variables(name: str, curves: Curves) -> dict[str, Any]:
    variables: dict[str, Any] = {f"{name}_loss": ("time", curves.loss)}
    if curves.mean is not None:
        variables[f"{name}_mean"] = (("time", "coordinate"), curves.mean)
        variables[f"{name}_covariance"] = (("time", "coordinate", "coordinate_"), curves.covariance)
    return variables


def _cells(row: Row) -> tuple[str, ...]:
    estimates = (_shown(row.optimizer), _shown(row.sde), "-" if row.theory is None else f"{row.theory:.4g}")
    return (row.quantity, *estimates, *_deviation(row, row.sde), *_deviation(row, row.theory))


def _shown(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.4g} ± {estimate.stderr:.1g}"


def _deviation(row: Row, other: Estimate | float | None) -> tuple[str, str]:
    deviation = row.deviation(other)
    if deviation is None:
        return "-", "-"
    percent, sigmas = deviation
    if np.isnan(percent):
        return "-", "-"
    return (f"{percent:+.1f}" if abs(percent) < 1e4 else "large"), f"{sigmas:+.1f}"
