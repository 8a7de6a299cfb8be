"""Statistics that several estimates need: errors by jackknife, extrapolation, slopes, and the better of two estimates."""

from typing import Any

import jax.numpy as jnp
import numpy as np

# Standard errors include this many float spacings of the value, for rounding.
_ROUNDINGS = 2.5


def jackknife_stderr(without: Any) -> Any:
    """The standard error of an estimate, from its values without each of the groups of seeds, along the first axis.

    It is $\\sqrt{\\frac{G - 1}{G} \\sum_g (\\theta_g - \\bar\\theta)^2}$ for $G$ groups (Tukey, 1958).

    >>> round(float(jackknife_stderr([5.0, 4.0, 3.0])), 4)  # of the mean of 2, 4 and 6: 2 / sqrt(3)
    1.1547
    """
    without = np.asarray(without)
    groups = len(without)
    return np.sqrt((groups - 1) / groups * np.sum((without - without.mean(axis=0)) ** 2, axis=0))


def rounding_stderr(value: Any, dtype: Any) -> np.ndarray:
    """The rounding error of a value in this precision, to be added to its standard error."""
    return np.asarray(_ROUNDINGS * float(jnp.finfo(dtype).eps) * np.abs(np.asarray(value, float)))


def extrapolate(coarse: Any, fine: Any) -> Any:
    """The value at a solver step of zero, from one at a step and one at half of it: Richardson's extrapolation, for a solver
    of weak order 1 (talay1990).

    >>> extrapolate(1.5, 1.25)
    1.0
    """
    return 2 * fine - coarse


def extrapolated_stderr(coarse: Any, fine: Any) -> Any:
    """The standard error of the extrapolated value, from those of two independent runs."""
    return np.hypot(2 * fine, coarse)


def fit_slope(x: np.ndarray, y: np.ndarray) -> float:
    """The slope of the straight line that fits `y` against `x` by least squares.

    >>> round(fit_slope(np.arange(3.0), 2 * np.arange(3.0)), 9)
    2.0
    """
    return float(np.polyfit(x, y, 1)[0])


def slope_weights(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The numbers whose product with `y` is its slope against `x` by least squares weighted with `weight`: for errors, and
    for many `y` at once.

    >>> (slope_weights(np.arange(3.0), np.ones(3)) @ (2 * np.arange(3.0))).item()
    2.0
    """
    offset = x - np.sum(weight * x) / np.sum(weight)
    return weight * offset / np.sum(weight * offset**2)


def choose_better(
    plain: Any, plain_stderr: Any, controlled: Any, controlled_stderr: Any, usable: Any = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Takes, entry by entry, the plain estimate or the one by control variates, whichever has the smaller standard error.

    **Arguments:** both estimates with their standard errors; `usable`: where the second one is unbiased.

    **Returns:** the estimate, its standard error, and by how much the control divided the variance: 1 where it was not used.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(plain_stderr > 0, (plain_stderr / controlled_stderr) ** 2, 1.0)
    helps = usable & (factor >= 1) & np.isfinite(controlled)
    return (
        np.where(helps, controlled, plain),
        np.where(helps, controlled_stderr, plain_stderr),
        np.where(helps, factor, 1.0),
    )
