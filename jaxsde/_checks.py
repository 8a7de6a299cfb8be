"""Checks of arguments: every public constructor and function fails at once, with a message that teaches."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def is_concrete(*values: Any) -> bool:
    """Whether all array leaves of `values` have known numbers (none is being traced)."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def number(name: str, value: Any, *, low: float = -np.inf, high: float = np.inf, closed: str = "") -> None:
    """Raises unless every entry of `value` lies between `low` and `high`.

    `closed` names the ends that are allowed themselves: "", "low", "high" or "low high".
    Traced values pass: their numbers are not known yet.
    """
    if not is_concrete(value):
        return
    try:
        entries = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or an array of numbers, got {value!r}") from None
    above = entries >= low if "low" in closed else entries > low
    below = entries <= high if "high" in closed else entries < high
    if not bool(np.all(above & below)):
        ends = ("[" if "low" in closed else "(") + f"{low:g}, {high:g}" + ("]" if "high" in closed else ")")
        raise ValueError(f"{name} must lie in {ends}, got {value}")


def count(name: str, value: Any, *, least: int = 1) -> int:
    """`value` as an int; raises unless it is a whole number of at least `least`."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if not whole:
        raise TypeError(f"{name} must be a whole number (an int), got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def choice(name: str, value: Any, options: tuple[str, ...]) -> str:
    """`value`; raises unless it is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value
