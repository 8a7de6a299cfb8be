"""An experiment's outcome as a table, a picture and a file."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._extras import require
from .._write import write_netcdf
from ..studies import Panel, Study
from ._style import axes, colors, figure, tidy
from ._table import text_table

_COLUMNS = 3


def study_table(study: Study) -> str:
    """The study's table as plain text, its notes below."""
    words = [i for i in range(len(study.header)) if all(isinstance(row[i], str) for row in study.rows)]
    rows = [tuple(_shown(cell) for cell in row) for row in study.rows]
    notes = (f"note: {note}" for note in study.notes)
    return "\n".join([study.title, text_table(study.header, rows, left=words), *notes, f"{study.finding}."])


def study_document(study: Study, command: str, picture: str) -> str:
    """The study as a page in Markdown: what `command` made it, its notes, the `picture` of that name, and the table."""
    escaped = lambda cell: cell.replace("|", "\\|")
    header = [f"| {' | '.join(map(escaped, study.header))} |", "|" + "---|" * len(study.header)]
    rows = [f"| {' | '.join(escaped(_shown(cell)) for cell in row)} |" for row in study.rows]
    notes = "\n".join(f"- {note}" for note in study.notes)
    preface = f"`{command}` writes this page; nothing in it is written by hand."
    parts = [
        f"# {study.title}",
        f"**{study.finding}.**",
        preface,
        notes,
        f"![{study.title}]({picture})",
        "\n".join([*header, *rows]),
    ]
    return "\n\n".join(parts) + "\n"


def _shown(cell: str | float) -> str:
    return cell if isinstance(cell, str) else f"{cell:.4g}"


def plot_study(study: Study) -> Any:
    """The study's panels, under its finding.

    **Returns:** a Matplotlib figure.
    """
    count = len(study.panels)
    columns = max(1, min(_COLUMNS, count))
    rows = max(1, math.ceil(count / columns))
    color = _colors(study.panels)
    with figure(max(4.2 * columns, 7.0), 3.8 * rows + 0.5, study.finding) as fig:
        grid = np.atleast_1d(fig.subplots(rows, columns)).ravel()
        for ax, panel in zip(grid, study.panels, strict=False):
            _draw(panel, ax, color)
        for ax in grid[count:]:
            ax.set_axis_off()
    return fig


def plot_panel(panel: Panel, ax: Any = None) -> Any:
    """One panel of a study.

    **Arguments:** `ax`: Matplotlib axes; by default new ones.

    **Returns:** the axes.
    """
    with axes(ax, 8, 5.5, "", "") as ax:
        _draw(panel, ax, _colors([panel]))
    return ax


def _colors(panels: Iterable[Panel]) -> dict[str, str]:
    return colors(curve.of or curve.label for panel in panels for curve in panel.curves)


def _draw(panel: Panel, ax: Any, color: Mapping[str, str]) -> None:
    lows = []
    for curve in panel.curves:
        drawn = dict(color=color[curve.of or curve.label], label=curve.label)
        if panel.bars and curve.spread is not None:
            ax.errorbar(curve.x, curve.y, curve.spread, fmt="o", mfc="none", capsize=3, **drawn)
            lows.append(curve.y)
            continue
        ax.plot(curve.x, curve.y, curve.style, **drawn)
        if curve.spread is not None:
            below, above = curve.y - curve.spread, curve.y + curve.spread
            ax.fill_between(curve.x, below, above, color=drawn["color"], alpha=0.12, lw=0)
        lows.append(curve.y)
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xscale=panel.xscale, yscale=panel.yscale)
    shown = np.concatenate([np.ravel(low) for low in lows])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    if panel.yscale == "log" and shown.size and shown.max() > 10 * shown.min():
        ax.set_ylim(bottom=shown.min() / 1.3)  # bands that reach down to zero would take all the room
    if panel.names:
        ax.set_xticks(range(len(panel.names)), panel.names, rotation=30, ha="right", fontsize="small")
    else:
        tidy(ax)
    ax.legend(fontsize="x-small")


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
    attributes = {
        "title": study.title,
        "finding": study.finding,
        "notes": "\n".join(study.notes),
        "header": json.dumps(study.header),
    }
    write_netcdf(xarray.Dataset(variables, attrs=attributes), path, overwrite=True)
