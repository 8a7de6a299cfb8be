"""An experiment's outcome as a table, a picture and a file."""

import json
import math
import os
from typing import Any

import numpy as np

from .._extras import require
from .._write import write_netcdf
from ..studies import Panel, Study
from ._table import text_table

_COLUMNS = 4


def study_table(study: Study) -> str:
    """The study's table as plain text, its notes below."""
    words = [i for i in range(len(study.header)) if all(isinstance(row[i], str) for row in study.rows)]
    rows = [tuple(_shown(cell) for cell in row) for row in study.rows]
    notes = (f"note: {note}" for note in study.notes)
    return "\n".join([study.title, text_table(study.header, rows, left=words), *notes])


def study_document(study: Study, command: str, picture: str) -> str:
    """The study as a page in Markdown: what `command` made it, its notes, the `picture` of that name, and the table."""
    escaped = lambda cell: cell.replace("|", "\\|")
    header = [f"| {' | '.join(map(escaped, study.header))} |", "|" + "---|" * len(study.header)]
    rows = [f"| {' | '.join(escaped(_shown(cell)) for cell in row)} |" for row in study.rows]
    notes = "\n".join(f"- {note}" for note in study.notes)
    preface = f"`{command}` writes this page; nothing in it is written by hand."
    parts = [f"# {study.title}", preface, notes, f"![{study.title}]({picture})", "\n".join([*header, *rows])]
    return "\n\n".join(parts) + "\n"


def _shown(cell: str | float) -> str:
    return cell if isinstance(cell, str) else f"{cell:.4g}"


def plot_study(study: Study) -> Any:
    """The study's panels.

    **Returns:** a Matplotlib figure.
    """
    figure = require("matplotlib.figure", extra="plots", purpose="plotting").Figure
    count = len(study.panels)
    columns = min(_COLUMNS + (count > 4 * _COLUMNS), count)
    rows = math.ceil(count / columns)
    fig = figure(figsize=(max(4.2 * columns, 6), 3.6 * rows), layout="constrained")
    grid = np.atleast_1d(fig.subplots(rows, columns)).ravel()
    for ax, panel in zip(grid, study.panels, strict=False):
        _draw(panel, ax)
    for ax in grid[count:]:
        ax.set_axis_off()
    return fig


def _draw(panel: Panel, ax: Any) -> None:
    lows = []
    for i, curve in enumerate(panel.curves):
        color = curve.color or f"C{i}"
        if panel.bars and curve.spread is not None:
            ax.errorbar(curve.x, curve.y, curve.spread, fmt="o", ms=5, mfc="none", capsize=3, color=color, label=curve.label)
            lows.append(curve.y)
            continue
        ax.plot(curve.x, curve.y, curve.style, color=color, lw=1.6, label=curve.label)
        if curve.spread is not None:
            ax.fill_between(curve.x, curve.y - curve.spread, curve.y + curve.spread, color=color, alpha=0.12, lw=0)
        lows.append(curve.y)
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xscale=panel.xscale, yscale=panel.yscale)
    ax.title.set_fontsize(10)
    if panel.xscale == "log":
        ax.tick_params(axis="x", which="minor", labelbottom=False)  # where a decade is wide they would run into each other
    shown = np.concatenate([np.ravel(low) for low in lows])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if panel.yscale == "log" and shown.size and shown.max() > 10 * shown.min():
        ax.set_ylim(bottom=shown.min() / 1.3)  # bands that reach down to zero would take all the room
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7)


def save_study(study: Study, path: str | os.PathLike[str]) -> None:
    """Writes table and curves to a netCDF file, which `xarray.open_dataset(path, engine="h5netcdf")` opens. A file of that
    name is overwritten.

    Curve j of panel i is `panel_i_curve_j` against `panel_i_x_j`, with `panel_i_spread_j` where it has a band.
    """
    xarray = require("xarray", extra="files", purpose="saving")
    variables: dict[str, Any] = {}
    for i, panel in enumerate(study.panels):
        for j, curve in enumerate(panel.curves):
            dimension = f"panel_{i}_point_{j}"
            described = {"label": curve.label, "panel": panel.title, "xlabel": panel.xlabel, "ylabel": panel.ylabel}
            variables[f"panel_{i}_x_{j}"] = (dimension, np.asarray(curve.x, float))
            variables[f"panel_{i}_curve_{j}"] = (dimension, np.asarray(curve.y, float), described)
            if curve.spread is not None:
                variables[f"panel_{i}_spread_{j}"] = (dimension, np.asarray(curve.spread, float))
    for k, name in enumerate(study.header):
        column = [row[k] for row in study.rows]
        values = [str(cell) for cell in column] if any(isinstance(cell, str) for cell in column) else column
        variables[f"table_{k}"] = (
            "row",
            np.asarray(values, dtype=str if isinstance(values[0], str) else float),
            {"name": name},
        )
    attributes = {"title": study.title, "notes": "\n".join(study.notes), "header": json.dumps(study.header)}
    write_netcdf(xarray.Dataset(variables, attrs=attributes), path, overwrite=True)
