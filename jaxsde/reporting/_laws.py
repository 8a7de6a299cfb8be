"""Whole stationary laws as tables, a picture and a file."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .._extras import require
from .._write import write_netcdf
from ..estimation import BinnedLaw, Distance, Stationary
from ..theory import Density, LatticeLaw
from ._style import colors, figure, tidy
from ._table import text_table

_PROBABILITIES = (0.001, 0.05, 0.5, 0.95, 0.999)
_LISTED = 2
_LEGEND = (
    "Kolmogorov: the largest difference of the distribution functions; Wasserstein: the area between\n"
    "them; chance: what 95 % of all runs with equal laws stay below"
)

# Tails are shown on a scale of their own where they are so many times as wide as the middle half of the law.
_HEAVY = 30


def laws_table(laws: Mapping[str, Stationary], exact: Mapping[str, Any] | None = None) -> str:
    """Quantiles of the laws with standard errors, and the laws' distances from the exact ones and from one another.

    **Arguments:** `laws`: stationary laws by the names of their columns; `exact`: exact laws of the first coordinate of `"x"`,
    from `theory.birth_death` and `theory.density`, by the same names.
    """
    exact = exact or {}
    rows: list[tuple[str, ...]] = []
    for observable, place, parts in _numbers(laws):
        label = _label(observable, place, next(iter(parts.values())))
        known = exact if (observable, place) == ("x", 0) else {}
        for q in _PROBABILITIES:
            cells = [_with_error(law.quantile(q)[place], law.quantile_stderr(q)[place]) for law in parts.values()]
            theirs = [f"{float(known[name].quantile(q)):.4g}" if name in known else "" for name in exact]
            rows.append((f"{label}, {100 * q:g} %", *cells, *theirs))
    header = ("quantile", *laws, *(f"exact {name}" for name in exact))
    distances = [(what, *_shown(k), *_shown(w)) for what, k, w in _distances(laws, exact)]
    text = [text_table(header, rows)]
    if distances:
        text += [_LEGEND, text_table(("distance", "Kolmogorov", "chance", "Wasserstein", "chance"), distances)]
    return "\n".join(text)


def plot_laws(
    laws: Mapping[str, Stationary], exact: Mapping[str, Any] | None = None, *, title: str = "", coordinate: int = 0
) -> Any:
    """The densities of an optimizer's and an SDE's stationary laws: on the left on a plain scale, on the right on a
    logarithmic one, which shows the tails. A row for each observable.

    **Arguments:** `laws`, `exact`: as for [`laws_table`][]; `title`: by default the distance that was found, see
    [`laws_verdict`][]; `coordinate`: which of the numbers of each observable, as far as it has so many.

    **Returns:** a Matplotlib figure.
    """
    names = list(next(iter(laws.values())).laws)
    with figure(11, 4.0 * len(names) + 0.4, title or laws_verdict(laws, exact)) as fig:
        for pair, name in zip(fig.subplots(len(names), 2, squeeze=False), names, strict=True):
            parts = {side: law.laws[name] for side, law in laws.items() if name in law.laws}
            place = min(coordinate, min(len(part.edges) for part in parts.values()) - 1)
            known = exact if exact and (name, place) == ("x", 0) else {}
            for tails, ax in zip((False, True), pair, strict=True):
                _draw(ax, parts, known, place, tails)
                ax.set(xlabel=_label(name, place, next(iter(parts.values()))), ylabel="density")
            pair[0].legend()
    return fig


def laws_verdict(laws: Mapping[str, Stationary], exact: Mapping[str, Any] | None = None) -> str:
    """The largest distance between the laws, and whether it is more than chance; empty where there is one law alone.

    **Arguments:** as for [`laws_table`][].
    """
    found = [(what, kolmogorov) for what, kolmogorov, _ in _distances(laws, exact or {})]
    if not found:
        return ""
    # How far beyond chance a distance is says more than its size.
    what, worst = max(found, key=lambda item: item[1].value / item[1].chance if item[1].chance else np.inf)
    if worst.value <= worst.chance:
        return f"The laws differ by no more than chance: Kolmogorov distances are below {max(d.chance for _, d in found):.2g}"
    return f"{what}: the Kolmogorov distance is {worst.value:.2g} ± {worst.stderr:.1g}, chance {worst.chance:.2g}"


def save_laws(laws: Mapping[str, Stationary], path: str | os.PathLike[str]) -> None:
    """Writes moments and laws to a netCDF file, which `xarray.open_dataset(path, engine="h5netcdf")` opens. A file of that
    name is overwritten."""
    xarray = require("xarray", extra="files", purpose="saving")
    variables: dict[str, Any] = {}
    for side, law in laws.items():
        name = side.lower()
        for field, axes in (("mean", ("coordinate",)), ("covariance", ("coordinate", "coordinate_")), ("loss", ())):
            if getattr(law, field) is not None:
                variables[f"{name}_{field}"] = (axes, np.asarray(getattr(law, field)))
                variables[f"{name}_{field}_stderr"] = (axes, np.asarray(getattr(law.stderr, field)))
        for observable, part in law.laws.items():
            prefix = f"{name}_{observable}"
            bins, edges = ((f"{prefix}_number", f"{prefix}_{axis}") for axis in ("bin", "edge"))
            variables[f"{prefix}_edges"] = (edges, part.edges)
            for field, axes in (
                ("counts", bins),
                ("density", bins),
                ("density_stderr", bins),
                ("cdf", edges),
                ("cdf_stderr", edges),
            ):
                variables[f"{prefix}_{field}"] = (axes, np.asarray(getattr(part, field)))
            for field in ("below", "above"):
                variables[f"{prefix}_{field}"] = (bins[:1], getattr(part, field))
    write_netcdf(xarray.Dataset(variables), path, overwrite=True)


def _numbers(laws: Mapping[str, Stationary]) -> Iterator[tuple[str, int, dict[str, BinnedLaw]]]:
    """The first numbers of each observable: its name, the number's place, and its law on each side."""
    for observable in next(iter(laws.values())).laws:
        parts = {name: law.laws[observable] for name, law in laws.items() if observable in law.laws}
        for place in range(min(_LISTED, *(len(part.edges) for part in parts.values()))):
            yield observable, place, parts


def _distances(laws: Mapping[str, Stationary], exact: Mapping[str, Any]) -> Iterator[tuple[str, Distance, Distance]]:
    for observable, place, parts in _numbers(laws):
        label = _label(observable, place, next(iter(parts.values())))
        pairs = []
        if (observable, place) == ("x", 0):
            pairs += [(f"{name} from its exact law", parts[name], exact[name], 0) for name in exact if name in parts]
        (first, one), *others = parts.items()
        pairs += [(f"{name} from {first}", part, one, place) for name, part in others]
        for what, law, other, at in pairs:
            yield f"{label}: {what}", law.kolmogorov(other, at), law.wasserstein(other, at)


def _label(observable: str, place: int, law: BinnedLaw) -> str:
    return observable if len(law.edges) == 1 and observable != "x" else f"{observable}[{place}]"


def _with_error(value: float, stderr: float) -> str:
    return f"{value:.4g} ± {stderr:.1g}"


def _shown(distance: Distance) -> tuple[str, str]:
    return f"{distance.value:.3g} ± {distance.stderr:.1g}", f"{distance.chance:.2g}"


def _draw(ax: Any, parts: Mapping[str, BinnedLaw], exact: Mapping[str, Any], place: int, tails: bool) -> None:
    low, high = _range(parts.values(), place, tails)
    shown = []
    color = colors([*parts, *exact])
    for name, law in parts.items():
        edges, density = law.edges[place], law.density[place]
        ax.stairs(density, edges, color=color[name], ls="--" if name == "SDE" else "-", label=f"{name}, simulated")
        inside = (edges[1:] > low) & (edges[:-1] < high) & (density > 0)
        shown.append(density[inside])
    for name, law in exact.items():
        points, density = _points(law)
        if isinstance(law, LatticeLaw):
            ax.plot(points, density, "o", color=color[name], ms=3.5, mfc="none", label=f"{name}, exact")
        else:
            ax.plot(points, density, ":", color="black", label=f"{name}, exact")
    if tails:
        ax.set_yscale("log")
        middle = _range(parts.values(), place, False)
        width = max(abs(middle[0]), abs(middle[1]))
        if max(abs(low), abs(high)) > _HEAVY * width:
            ax.set_xscale("symlog", linthresh=width)
        heights = np.concatenate(shown)
        if heights.size:
            ax.set_ylim(heights.min() / 2, 2 * heights.max())
    ax.set_xlim(low, high)
    tidy(ax)


def _range(laws: Any, place: int, tails: bool) -> tuple[float, float]:
    """What is shown: all bins with values for the tails, else all but a thousandth of the law on either side."""
    ends = []
    for law in laws:
        edges, cdf, filled = law.edges[place], law.cdf[place], np.flatnonzero(law.counts[place])
        if not filled.size:
            continue
        if tails:
            ends.append((edges[filled[0]], edges[filled[-1] + 1]))
        else:
            first, last = np.searchsorted(cdf, [0.001, 0.999])
            ends.append((edges[max(first - 1, filled[0])], edges[min(last, filled[-1] + 1)]))
    lows, highs = zip(*ends, strict=True) if ends else ((0.0,), (1.0,))
    return float(min(lows)), float(max(highs))


def _points(law: Density | LatticeLaw) -> tuple[np.ndarray, np.ndarray]:
    """Where an exact law is drawn, and the density there: on a lattice, probabilities over the spacing."""
    if isinstance(law, LatticeLaw):
        return law.points, law.probabilities / np.median(np.diff(law.points))
    return law.points, law.values
