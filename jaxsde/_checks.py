"""Checks of arguments: every public constructor and function fails at once, with a message that teaches."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_NUMBERS = "a number or an array of numbers"
_LINE = 200  # characters of a value that a message shows at most
OF_A_TRANSFORM = (
    "Of an Optax transform pass the factory and its arguments, as in jaxsde.Optax(optax.adam, 0.01, b1=0.9), or wrap it, as in "
    "jaxsde.Optax(lambda learning_rate: optax.chain(...), 0.01)"
)


class NotAnOption(ValueError):
    """An unknown option. A `ValueError` of its own, so that `compare` raises it and does not note that there is no SDE."""


class Misuse(ValueError):
    """Words of a command line that it does not take. The command ends with status 2, as with other such words."""


def is_concrete(*values: Any) -> bool:
    """Whether all array leaves of `values` have known numbers (none is being traced)."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def number(
    name: str, value: Any, *, low: float = -np.inf, high: float = np.inf, closed: str = "", what: str = _NUMBERS
) -> None:
    """Raises unless every entry of `value` lies between `low` and `high`.

    `closed` names the ends that are allowed themselves: "", "low", "high" or "low high".
    Traced values pass: their numbers are not known yet.
    """
    if not is_concrete(value):
        return
    entries = as_float64(name, value, what)
    above = entries >= low if "low" in closed else entries > low
    below = entries <= high if "high" in closed else entries < high
    if not bool(np.all(above & below)):
        ends = ("[" if "low" in closed else "(") + f"{low:g}, {high:g}" + ("]" if "high" in closed else ")")
        raise ValueError(f"{name} must lie in {ends}, got {value}")


def scalar(name: str, value: Any, **limits: Any) -> None:
    """Raises unless `value` is one number, within the `limits` of `number`. Of a traced value the shape is known."""
    number(name, value, what="one number", **limits)
    shape = value.shape if hasattr(value, "shape") else np.shape(value)
    if shape != ():
        raise ValueError(f"{name} must be one number, got shape {shape}: {value}")


def as_float64(name: str, value: Any, what: str = _NUMBERS) -> np.ndarray:
    """The numbers of `value` in float64; raises for what are none: strings, booleans and complex numbers, which NumPy would
    convert."""
    try:
        entries = np.asarray(value)
    except (TypeError, ValueError):
        entries = np.empty(0, object)
    if not (jnp.issubdtype(entries.dtype, jnp.floating) or np.issubdtype(entries.dtype, np.integer)):
        raise TypeError(f"{name} must be {what}, got {value!r}")
    return entries.astype(float)


def whole_as_float(value: Any) -> Any:
    """A whole number of Python's as a float, of which JAX takes larger ones; all else as it is."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """`value` as an int; raises unless it is a whole number from `least` to `most`."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if not whole:
        raise TypeError(f"{name} must be a whole number (an int), got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return int(value)


def names(function: str, parameters: Iterable[inspect.Parameter], given: Iterable[str], hint: str = "") -> None:
    """Raises `TypeError` where a name of those `given` is not that of an argument of `function`, which has these parameters."""
    parameters = list(parameters)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    taken = [p.name for p in parameters]
    if unknown := [name for name in given if name not in taken]:
        raise TypeError(f"{function} takes no {', '.join(unknown)}; it takes {', '.join(taken) or 'nothing'}{hint}")


def choice(name: str, value: Any, options: tuple[str, ...]) -> str:
    """`value`; raises unless it is one of `options`."""
    if not isinstance(value, str) or value not in options:
        raise NotAnOption(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Raises unless `value` is an instance of `kind`, which `what` describes with an example."""
    if not isinstance(value, kind):
        hint = f". {OF_A_TRANSFORM}" if is_transform(value) else ""
        raise TypeError(f"{name} must be {what}, got {described(value)}{hint}")


def described(value: Any) -> str:
    """`value` in a line: what Python writes for it, or its type's name where that is long."""
    if is_transform(value):
        return "an Optax transform"
    if isinstance(value, Tracer):
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= _LINE and "\n" not in text else f"an object of the type {type(value).__name__}"


def is_transform(value: Any) -> bool:
    """Whether `value` is a transform of Optax's."""
    return isinstance(value, tuple) and hasattr(value, "init") and hasattr(value, "update")


def eager(name: str, *values: Any) -> None:
    """Raises where `values` are being traced, for the function `name`, which decides by numbers as it goes."""
    try:
        known = is_concrete(*values)
    except (TypeError, ValueError):  # no pytrees, as others say in words
        return
    if not known:
        raise TypeError(
            f"{name} decides by numbers as it goes, so it does not run inside jax.jit, jax.vmap or jax.grad: call it in a "
            "loop of Python, or map jaxsde.simulate, which runs inside them"
        )


def functions(name: str, value: Any, *, least: int = 1) -> dict[str, Callable[..., Any]]:
    """`value` as a dictionary; raises unless it holds functions by name, at least so many."""
    example = 'such as {"loss": problem.loss}'
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dictionary of functions of the parameters by name, {example}, got {value!r}")
    if len(value) < least:
        raise ValueError(f"{name} must hold at least one function, {example}, got {value!r}")
    for key, function in value.items():
        if not isinstance(key, str):
            raise TypeError(f"the names in {name} must be strings, got {key!r}")
        if not callable(function):
            raise TypeError(f"{name}[{key!r}] must be a function of the parameters, got {function!r}")
    return dict(value)


def precision(name: str, dtype: Any) -> None:
    """Raises for floating-point numbers of less than single precision."""
    if jnp.finfo(dtype).bits < 32:
        raise TypeError(
            f"{name} has the dtype {jnp.dtype(dtype).name}, in which hyperparameters round (0.999 to 1) and sums over seeds "
            "lose their digits: use float32, or float64"
        )
