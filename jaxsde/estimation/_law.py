"""Laws of observables by the numbers of seeds in bins, for each group of seeds; and their distances from other laws."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from .. import _checks
from .._traced import shape_of
from .._tree import flat, size
from ..simulation import HistogramStatistics, JackknifeStatistics
from ._control import raveled
from ._statistics import jackknife_stderr

# The largest number of parameters whose laws are kept if nobody says what is observed.
_MOST_PARAMETERS = 64

# Of the sample that bins are made for, this share is on either side of the bins of one width. Outside of these bins, widths
# grow by the factor, so that the last edges are a thousand times as far away.
_OUTSIDE, _WITHIN, _BEYOND, _GROWTH = 0.0025, 128, 40, 1.3

# Values are on a lattice if they are multiples of a spacing to this share of it, and there are many for each point.
_ON_LATTICE, _FOR_EACH_POINT = 0.05, 8

# How often the noise of a distance is drawn, and the share of the draws that `chance` exceeds.
_DRAWS, LEVEL = 1000, 0.95


class Distance(NamedTuple):
    """A distance between two laws."""

    value: float
    stderr: float
    """The standard error; where the laws are close it says little, and `chance` more."""
    chance: float
    """What the distance of two equal laws stays below in 95 % of all runs, as its size comes of sampling alone."""


class BinnedLaw(NamedTuple):
    """The law of an observable's `k` numbers, from all seeds and several times, by counts in bins.

    Standard errors are those of a jackknife over groups of seeds, which are independent: the correlation in time does not
    matter.
    """

    edges: np.ndarray
    """The edges of the bins, shape `(k, bins + 1)`. Most bins have one width; far from the middle they grow with the
    distance."""
    group_counts: np.ndarray
    """Counts for each group of seeds: below the first edge, in the bins, above the last edge; shape `(groups, k, bins + 2)`."""
    on_points: np.ndarray
    """Of each number, whether its values are on a lattice, and each bin of the one width holds one point, in its middle;
    shape `(k,)`."""

    @property
    def counts(self) -> np.ndarray:
        """The number of values in each bin, shape `(k, bins)`."""
        return self.group_counts.sum(axis=0)[:, 1:-1]

    @property
    def below(self) -> np.ndarray:
        """The number of values below the first edge, shape `(k,)`."""
        return self.group_counts.sum(axis=0)[:, 0]

    @property
    def above(self) -> np.ndarray:
        """The number of values above the last edge, shape `(k,)`."""
        return self.group_counts.sum(axis=0)[:, -1]

    @property
    def centres(self) -> np.ndarray:
        """The middles of the bins, shape `(k, bins)`."""
        return (self.edges[:, 1:] + self.edges[:, :-1]) / 2

    @property
    def density(self) -> np.ndarray:
        """The density over each bin, shape `(k, bins)`."""
        return self._shares(self.group_counts.sum(axis=0))[:, 1:-1] / np.diff(self.edges)

    @property
    def density_stderr(self) -> np.ndarray:
        """The standard errors of the density."""
        return jackknife_stderr(self._shares(self._without)[..., 1:-1]) / np.diff(self.edges)

    @property
    def cdf(self) -> np.ndarray:
        """The probability of values below each edge, shape `(k, bins + 1)`."""
        return cumulative(self.group_counts.sum(axis=0))

    @property
    def cdf_stderr(self) -> np.ndarray:
        """The standard errors of the probabilities."""
        return jackknife_stderr(cumulative(self._without))

    @property
    def effective_samples(self) -> np.ndarray:
        """How many independent values would know the probability of the lower half as well, shape `(k,)`."""
        middle = np.argmin(np.abs(self.cdf - 0.5), axis=1)[:, None]
        share, stderr = (np.take_along_axis(a, middle, axis=1)[:, 0] for a in (self.cdf, self.cdf_stderr))
        with np.errstate(divide="ignore", invalid="ignore"):
            return share * (1 - share) / stderr**2

    def quantile(self, q: Any) -> np.ndarray:
        """The values below which the probability is `q`, shape `(*q.shape, k)`: points of a lattice, or by straight lines
        within bins; infinite where they are beyond the last edge.

        **Raises:** `ValueError` for probabilities out of range.
        """
        _checks.number("q", q, low=0.0, high=1.0, closed="low high")
        q = np.asarray(q, float)
        laws = zip(self.cdf, self.edges, self.on_points, strict=True)
        return np.stack([_inverse(*law, q) for law in laws], axis=-1)

    def quantile_stderr(self, q: Any) -> np.ndarray:
        """The standard errors of the quantiles: half the distance of those at the probabilities one standard error away
        (woodruff1952). Zero where both are one point of a lattice, nan where one is beyond the last edge."""
        at, q = self.quantile(q), np.asarray(q, float)
        errors = []
        for i, (cdf, stderr, edges, on_points) in enumerate(
            zip(self.cdf, self.cdf_stderr, self.edges, self.on_points, strict=True)
        ):
            apart = np.interp(at[..., i], edges, stderr)
            low, high = (_inverse(cdf, edges, on_points, np.clip(q + side, 0, 1)) for side in (-apart, apart))
            with np.errstate(invalid="ignore"):
                errors.append(np.where(np.isfinite(high - low), (high - low) / 2, np.nan))
        return np.stack(errors, axis=-1)

    def kolmogorov(self, other: Any, coordinate: int = 0) -> Distance:
        """The largest difference between the distribution functions, at the edges of the bins.

        **Arguments:** `other`: a law with a method or property `cdf`, as those of `theory.density` and `theory.birth_death`
        and other binned laws have, or a function that computes probabilities of values below `x`; `coordinate`: which of the
        observable's numbers.

        **Raises:** `TypeError` for another `other`, `ValueError` for a coordinate that there is not.
        """
        return _distance(lambda difference: np.max(np.abs(difference), axis=-1), *self._differences(other, coordinate))

    def wasserstein(self, other: Any, coordinate: int = 0) -> Distance:
        """The Wasserstein distance $W_1 = \\int |F - G|$ within the bins, in the units of the observable.

        **Arguments, raises:** as [`kolmogorov`][].
        """
        coordinate = self._coordinate(coordinate)
        integral = lambda difference: np.trapezoid(np.abs(difference), self.edges[coordinate], axis=-1)
        return _distance(integral, *self._differences(other, coordinate))

    @property
    def _without(self) -> np.ndarray:
        return self.group_counts.sum(axis=0) - self.group_counts

    @staticmethod
    def _shares(counts: np.ndarray) -> np.ndarray:
        return counts / counts.sum(axis=-1, keepdims=True)

    def _coordinate(self, coordinate: int) -> int:
        coordinate = _checks.count("coordinate", coordinate, least=0)
        if coordinate >= len(self.edges):
            raise ValueError(f"coordinate must be below {len(self.edges)}, the observable's size, got {coordinate}")
        return coordinate

    def _differences(self, other: Any, coordinate: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The difference of the distribution functions at the edges, and the contributions of groups to its noise, for each
        of the laws that have any."""
        coordinate = self._coordinate(coordinate)
        edges = self.edges[coordinate]
        noises = [contributions(self.group_counts[:, coordinate])]
        if isinstance(other, BinnedLaw):
            theirs = other.edges[other._coordinate(coordinate)]
            at = lambda values: np.interp(edges, theirs, values)
            exact = at(other.cdf[coordinate])
            noises.append(np.stack([at(part) for part in contributions(other.group_counts[:, coordinate])]))
        else:
            cdf = getattr(other, "cdf", other)
            if not callable(cdf):
                raise TypeError(f"other must be a law with a cdf, or a function, got {other!r}")
            exact = np.asarray(cdf(edges), float)
        return self.cdf[coordinate] - exact, noises


class Bins(NamedTuple):
    """The bins of a law."""

    edges: np.ndarray
    """Of shape `(k, bins + 1)`."""
    on_points: np.ndarray
    """Whether they hold one point of a lattice each, shape `(k,)`."""

    def law(self, counts: np.ndarray) -> BinnedLaw:
        """The law from counts for each group of seeds, shape `(groups, k, bins + 2)`."""
        return BinnedLaw(np.asarray(self.edges, float), counts, self.on_points)


def observed(observe: Any, loss: Callable, example: PyTree, most: int) -> dict[str, Callable[[PyTree], Any]]:
    """The functions whose laws are wanted, each as one of vectors: those of a user, or else the parameters and the loss.

    **Raises:** `ValueError` or `TypeError` unless these are functions by name, of at most `most` numbers each at `example`.
    """
    if observe is None:
        observe = {"x": flat, "loss": loss} if size(example) <= min(most, _MOST_PARAMETERS) else {"loss": loss}
    functions = {name: eqx.Partial(raveled, f) for name, f in _checks.functions("observe", observe, least=0).items()}
    for name, function in functions.items():
        try:
            numbers = math.prod(shape_of(function, example).shape)
        except Exception:  # whatever goes wrong in a user's function, of which `simulate` tells
            continue
        if numbers > most:
            raise ValueError(f"observe[{name!r}] has {numbers} numbers, of which laws are kept for at most {most}")
    return functions


def group_counts(statistics: JackknifeStatistics) -> np.ndarray:
    """Counts below, in and above the bins for each group of seeds, shape `(groups, times, k, bins + 2)`, of a histogram of
    vectors."""
    return _places(statistics.total)[None] - _places(statistics.left_out)


def _places(statistics: HistogramStatistics) -> np.ndarray:
    parts = statistics.below[..., None], statistics.counts, statistics.above[..., None]
    return np.concatenate([np.asarray(part, np.int64) for part in parts], axis=-1)


def cumulative(counts: np.ndarray) -> np.ndarray:
    """The share of the counts below each edge, along the last axis."""
    return np.cumsum(counts, axis=-1)[..., :-1] / counts.sum(axis=-1, keepdims=True)


def contributions(counts: np.ndarray) -> np.ndarray:
    """What sums, with random signs, to the noise of a distribution function: of each group one part, with mean zero. Counts
    have the axis of groups first."""
    below, sizes = np.cumsum(counts, axis=-1)[..., :-1], counts.sum(axis=-1, keepdims=True)
    scale = np.sqrt(len(counts) / (len(counts) - 1))
    return scale * (below - sizes * cumulative(counts.sum(axis=0))) / sizes.sum(axis=0)


def multiplied(random: np.random.Generator, draws: int, parts: np.ndarray) -> np.ndarray:
    """Sums of the parts along the first axis with random signs: a multiplier bootstrap."""
    return np.tensordot(random.choice([-1.0, 1.0], (draws, len(parts))), parts, 1)


def bins_for(samples: np.ndarray) -> Bins:
    """Bins for a law of which there is a sample, shape `(n, k)`.

    If the values are on a lattice, as the parameters of SignSGD are, all edges are in the middle between two of its points.
    """
    columns = (np.sort(column[np.isfinite(column)]) if np.any(np.isfinite(column)) else np.zeros(1) for column in samples.T)
    edges, on_points = zip(*(_edges(column.astype(float), np.finfo(samples.dtype)) for column in columns), strict=True)
    return Bins(np.stack(edges).astype(samples.dtype), np.asarray(on_points))


def _edges(values: np.ndarray, precision: np.finfo) -> tuple[np.ndarray, bool]:
    low, high = np.quantile(values, [_OUTSIDE, 1 - _OUTSIDE], method="inverted_cdf")
    # Where values hardly differ, their precision must still tell edges apart.
    least = 2 * _WITHIN * max(float(precision.eps) * max(abs(low), abs(high)), float(precision.tiny))
    spacing = _spacing(values[(low <= values) & (values <= high)])
    if spacing > least / _WITHIN:
        unit = spacing * max(1, np.ceil((high - low) / spacing / _WITHIN))
        first = low + spacing * (0.5 - np.ceil((_WITHIN * unit - (high - low)) / (2 * spacing)))
    else:
        unit = max(high - low, least) / _WITHIN
        # Where the law begins abruptly, as that of a loss does at the minimum, bins begin.
        first = values[0] if low - values[0] < unit else low
        # Edges are not to be on points of a lattice that there may be.
        unit *= 1 + 0.01 / np.e
    beyond = np.cumsum(np.ceil(_GROWTH ** np.arange(1, _BEYOND + 1)))
    edges = first + unit * np.concatenate([-beyond[::-1], np.arange(_WITHIN + 1), _WITHIN + beyond])
    return edges, bool(unit == spacing)


def _spacing(values: np.ndarray) -> float:
    """The spacing of the lattice on which the sorted values are; 0 if they are on none."""
    gaps, spread = np.diff(values), values[-1] - values[0]
    apart = gaps[gaps > 1e-4 * spread]
    if apart.size < 2 or _FOR_EACH_POINT * apart.size > values.size:
        return 0.0
    spacing = spread / np.round(spread / np.min(apart))
    points = (values - values[0]) / spacing
    return spacing if np.all(np.abs(points - np.round(points)) < _ON_LATTICE) else 0.0


def _inverse(cdf: np.ndarray, edges: np.ndarray, on_points: bool | np.bool_, q: Any) -> np.ndarray:
    at = np.interp(q, cdf, edges)
    if on_points:
        place = np.clip(np.searchsorted(cdf, q * (1 - 1e-12)), 1, len(edges) - 1)
        widths = np.diff(edges)
        single = widths[place - 1] < 1.5 * np.min(widths)
        at = np.where(single, (edges[place] + edges[place - 1]) / 2, at)
    return np.where(q < cdf[0], -np.inf, np.where(q > cdf[-1], np.inf, at))


def _distance(size: Callable[[np.ndarray], np.ndarray], difference: np.ndarray, noises: list[np.ndarray]) -> Distance:
    """The size of the difference; its noise by random signs for the groups' contributions."""
    random = np.random.default_rng(0)
    noise = np.sum([multiplied(random, _DRAWS, parts) for parts in noises], axis=0)
    return Distance(float(size(difference)), float(np.std(size(difference + noise))), float(np.quantile(size(noise), LEVEL)))
