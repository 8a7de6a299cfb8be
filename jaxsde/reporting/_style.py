"""One look for all pictures, and one for papers."""

import contextlib
import math
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from .._extras import require

# The colours of Okabe and Ito (okabe2008), which people with any kind of colour vision tell apart, and three darker ones.
_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
_WINE, _FOREST, _GREY = "#882255", "#117733", "#4D4D4D"

# The same colour for the same thing in all pictures. There are more things than colours: those that have one in common, as a
# model of an optimizer and another optimizer, never share a picture.
_THINGS = {
    "optimizer": _BLUE,
    "SDE": _VERMILLION,
    "theory": "black",
    "bound": _GREY,
    "ODE": _GREY,
    "second order": _GREEN,
    "malladi": _PURPLE,
    "injected noise": _SKY,
    "drawn signs": _ORANGE,
    "gradient": _BLUE,
    "noise": _ORANGE,
    "SGD": _SKY,
    "SignSGD": _ORANGE,
    "RMSprop": _GREEN,
    "RMSpropW": _FOREST,
    "Adam": _PURPLE,
    "AdamW": _WINE,
}
_CYCLE = _BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY, "black", _GREY

_SCREEN = {
    "font.size": 12,
    "figure.titlesize": 14,
    "axes.titlesize": 12,
    "lines.linewidth": 2.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": "small",
    "legend.edgecolor": "none",
}

# The width of a column, and of both with the gutter, of the usual two-column page, in inches.
_COLUMN, _PAGE = 3.25, 6.75


def colors(things: Iterable[str]) -> dict[str, str]:
    """The colour that each thing has in all pictures: "optimizer", "SDE", "theory", "SignSGD" and so on.

    "SignSGD, Phase 3" has SignSGD's if nothing else here has it, and what is unknown one that is free.

    **Arguments:** `things`: what one picture shows.

    **Returns:** a colour of Matplotlib for each.

    >>> colors(["optimizer", "SDE"])
    {'optimizer': '#0072B2', 'SDE': '#D55E00'}
    """
    named = list(dict.fromkeys(things))
    found = {thing: _THINGS[thing] for thing in named if thing in _THINGS}
    for thing in named:
        wanted = _THINGS.get(thing.partition(",")[0]), *_CYCLE
        free = (color for color in wanted if color and color not in found.values())
        found.setdefault(thing, next(free, _GREY))
    return {thing: found[thing] for thing in named}


def screen_style() -> dict[str, Any]:
    """The look of all pictures here, as settings of Matplotlib, for figures of your own beside them.

    Lines get colours in turn that people with any kind of colour vision tell apart (okabe2008): "C0" is an optimizer's, "C1" is
    its SDE's. [`colors`][] has those of other things, and [`paper_style`][] makes figures for papers.

    **Returns:** a dictionary for `plt.style.use`, or `plt.style.context`.

    **Raises:** `ImportError` without Matplotlib.

    >>> import matplotlib.pyplot as plt
    >>> with plt.style.context(screen_style()):
    ...     figure, ax = plt.subplots()
    >>> ax.plot([0, 1])[0].get_color() == colors(["optimizer"])["optimizer"]
    True
    """
    return _SCREEN | {"axes.prop_cycle": _matplotlib().cycler(color=_CYCLE)}


def paper_style(columns: int = 1, *, height: float | None = None) -> contextlib.AbstractContextManager[None]:
    """A context in which Matplotlib makes figures for a paper of two columns, at their final size.

    Text is 8 points, in legends 7, as in a caption; lines are thin; layout is tight; fonts are embedded as outlines that
    publishers take (`pdf.fonttype` 42). Save as PDF or SVG. Titles are yours: a picture that gets `ax` sets none, as a paper
    has captions.

    **Arguments:** `columns`: how many columns the figure is wide, 1 or 2; `height`: in inches, by default five eighths of a
    column's width, or of the two.

    **Returns:** a context manager.

    **Raises:** `ValueError` for another number of columns or a height that is not positive; `ImportError` without Matplotlib.

    >>> import matplotlib.figure
    >>> with paper_style():
    ...     ax = matplotlib.figure.Figure().subplots()
    >>> float(ax.figure.get_figwidth()), ax.xaxis.label.get_size()
    (3.25, 8.0)
    """
    if columns not in (1, 2):
        raise ValueError(f"columns must be 1 or 2, got {columns!r}")
    if height is not None and not height > 0:
        raise ValueError(f"height must be a positive number of inches, got {height!r}")
    width = _COLUMN if columns == 1 else _PAGE
    return _matplotlib().rc_context(
        {
            "figure.figsize": (width, 0.625 * width if height is None else height),
            "figure.constrained_layout.use": True,
            "font.size": 8,
            "figure.titlesize": 8,
            "axes.titlesize": 8,
            "axes.labelsize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "legend.edgecolor": "none",
            "legend.borderpad": 0.2,
            "lines.linewidth": 1.0,
            "lines.markersize": 3.0,
            "axes.linewidth": 0.6,
            "axes.grid": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": _matplotlib().cycler(color=_CYCLE),
            "pdf.fonttype": 42,
            "ps.fonttype": 42,
            "svg.fonttype": "none",
            "savefig.dpi": 300,
        }
    )


@contextlib.contextmanager
def figure(width: float, height: float, finding: str) -> Iterator[Any]:
    """A new figure of that many inches in the house's style, with what it shows as its title."""
    with _matplotlib().rc_context(screen_style()):
        made = require("matplotlib.figure", extra="plots", purpose="plotting").Figure(
            figsize=(width, height), layout="constrained"
        )
        if finding:
            # A bold letter is about so much narrower than high.
            fitting = int(72 * width / (0.62 * _SCREEN["figure.titlesize"]))
            made.suptitle(
                textwrap.fill(finding.replace(" %", "\N{NO-BREAK SPACE}%"), fitting), x=0.01, ha="left", weight="bold"
            )
        yield made


@contextlib.contextmanager
def axes(ax: Any, width: float, height: float, finding: str, setting: str) -> Iterator[Any]:
    """The axes given, as they are; or new ones, with what they show as the title, and the setting below it."""
    if ax is not None:
        yield ax
        return
    with figure(width, height, finding) as made:
        new = made.subplots()
        if setting:
            new.set_title(textwrap.fill(setting, int(13 * width)), loc="left", fontsize="small", color="0.35")
        yield new


def tidy(ax: Any) -> None:
    """Ticks whose labels do not run into each other; on logarithmic axes of less than two decades, at 1, 2 and 5,
    and at equal distances where not even three of these would be seen.

    It goes by the limits that the axes have, so it comes last.
    """
    ticker = require("matplotlib.ticker", extra="plots", purpose="plotting")
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if axis.get_scale() == "log":
            decades = abs(math.log10(high / low))
            if decades < 2:
                axis.set_major_locator(ticker.MaxNLocator(6) if decades < 0.7 else ticker.LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(ticker.NullFormatter())
        elif axis is ax.xaxis and axis.get_scale() == "linear":
            ax.locator_params(axis="x", nbins=6)


def _matplotlib() -> Any:
    return require("matplotlib", extra="plots", purpose="plotting")
