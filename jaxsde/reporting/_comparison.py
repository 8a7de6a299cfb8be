"""A comparison as a table, a picture and a file."""

import json
import os
import re
import textwrap
from typing import Any

import numpy as np

from .._extras import require
from .._write import write_netcdf
from ..estimation import Comparison, Curves, Estimate, Row, Side
from ._style import axes, colors, tidy
from ._table import WIDTH, text_table
from ._words import verdict

_HEADER = ("quantity", "optimizer", "SDE", "off %", "/s.e.", "theory", "off %", "/s.e.")
_LEGEND = "off: from the optimizer, in per cent of its value and in standard errors of the difference"
_SCALES = "(means in per cent of their root mean square, covariances [i, j] of the root of [i, i] times [j, j])"

# Quantities whose names would take too many columns.
_SHORT = {
    "stationary covariance": "stationary cov.",
    "norm of the mean": "norm of mean",
    "convergence rate of the loss": "rate of convergence",
}


def table(comparison: Comparison) -> str:
    """The comparison as a plain-text table of at most 100 columns, deviations being from the optimizer; notes below.

    They are in per cent of the optimizer's value, but for means and covariances across coordinates, which may be zero: those
    are in per cent of the root mean square, and of the root of the two variances' product, the most that a covariance can be.
    Numbers have four digits, or as many fewer as the columns have room for.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> result = js.compare(js.SGD(0.1), problem, jnp.ones(1), steps=40, seeds=80, substeps=1)
    >>> "stationary loss" in table(result)
    True
    """
    candidates = (text_table(_HEADER, [_cells(row, digits) for row in comparison.rows]) for digits in (4, 3, 2, 1))
    fitting = (text for text in candidates if max(map(len, text.split("\n"))) <= WIDTH)
    body = next(fitting, None) or text_table(_HEADER, [_cells(row, 1) for row in comparison.rows])
    notes = (textwrap.fill(f"note: {note}", WIDTH, subsequent_indent="  ") for note in comparison.notes)
    legend = [_LEGEND, _SCALES] if any(row.scale is not None for row in comparison.rows) else [_LEGEND]
    return "\n".join([comparison.title, *legend, body, *notes])


def plot(comparison: Comparison, ax: Any = None) -> Any:
    """Loss against time: the optimizer's and the SDE's mean with the spread over seeds, theory's curve and bound.

    **Arguments:** `ax`: Matplotlib axes, to which no title is given; by default new ones, whose title is the first sentence
    of [`verdict`][].

    **Returns:** the axes.
    """
    ts, lowest, color = comparison.ts, np.inf, colors(("optimizer", "SDE", "theory", "bound"))
    with axes(ax, 8, 5.5, verdict(comparison)[0], comparison.title) as ax:
        handles = {}
        for name, side, style in (("optimizer", comparison.optimizer, "-"), ("SDE", comparison.sde, "--")):
            if side is None:
                continue
            mean, std = side.curves.loss, side.loss_std
            label = f"{name}, mean ± std, {side.seeds:,} seeds"
            [line] = ax.plot(ts, mean, style, color=color[name], label=label)
            band = ax.fill_between(ts, mean - std, mean + std, color=color[name], alpha=0.15, lw=0)
            handles[label] = line, band
            lowest = min(lowest, float(np.min(mean[np.isfinite(mean)], initial=np.inf)))
        if comparison.theory is not None:
            [handles["theory"]] = ax.plot(ts, comparison.theory.loss, ":", color=color["theory"], label="theory")
        if comparison.bound is not None:
            label = "theory, upper bound"
            [handles[label]] = ax.plot(ts, comparison.bound, "-.", color=color["bound"], label=label)
        if 0 < lowest < np.inf:
            ax.set_yscale("log")
            ax.set_ylim(bottom=lowest / 3)
        tidy(ax)
        ax.set(xlabel="time $t = k\\,\\eta$", ylabel="loss")
        ax.legend(handles.values(), handles.keys())
    return ax


def save(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Writes all numbers to a netCDF file, which `xarray.open_dataset(path, engine="h5netcdf")` opens. A file of that name is
    overwritten."""
    xarray = require("xarray", extra="files", purpose="saving")
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
    write_netcdf(xarray.Dataset(variables, coordinates, attributes), path, overwrite=True)


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


def _cells(row: Row, digits: int) -> tuple[str, ...]:
    optimizer, sde = _estimate(row.optimizer, digits), _estimate(row.sde, digits)
    theory = "-" if row.theory is None else _number(row.theory, digits)
    return (_named(row.quantity), optimizer, sde, *_deviation(row, row.sde), theory, *_deviation(row, row.theory))


def _named(quantity: str) -> str:
    for name, short in _SHORT.items():
        quantity = quantity.replace(name, short)
    return _compact(quantity)


def _number(value: float, digits: int) -> str:
    """The shorter of the two ways to write it."""
    return min(_compact(f"{value:.{digits}g}"), _compact(f"{value:.{digits - 1}e}"), key=len)


def _compact(text: str) -> str:
    """Exponents without plus signs and leading zeros."""
    return re.sub(r"(?<=\d)e([+-])0*(?=\d)", lambda found: "e" + found[1].replace("+", ""), text)


def _estimate(estimate: Estimate | None, digits: int) -> str:
    return "-" if estimate is None else f"{_number(estimate.value, digits)} ± {_number(estimate.stderr, 1)}"


def _deviation(row: Row, other: Estimate | float | None) -> tuple[str, str]:
    deviation = row.deviation(other)
    if deviation is None or np.isnan(deviation[0]):
        return "-", "-"
    return _signed(deviation[0]), _signed(deviation[1])


def _signed(value: float) -> str:
    """A deviation in at most five characters."""
    if np.isnan(value):
        return "-"
    one_decimal, whole = f"{value:+.1f}", f"{value:+.0f}"
    return one_decimal if len(one_decimal) <= 5 else whole if len(whole) <= 5 else "large"
