"""What a run is made of, in words: processes, problems, functions and arrays as dictionaries, lists, numbers and strings."""

import dataclasses
import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .. import _random
from ..processes import SDE, Chain

# Arrays of at most so many numbers are written out. Of larger ones there is a digest, up to so many bytes each and in all, as
# they are kept alive until it is asked for; of the rest there are shape and dtype alone.
_WRITTEN_OUT, _DIGESTED, _KEPT = 64, 2**20, 2**23

# How much of a user's objects is described.
_MOST_PARTS, _LARGEST, _DEEPEST, _LONGEST_STRING = 10_000, 1000, 40, 1000


class Pending(NamedTuple):
    """An array whose numbers are read when they are asked for: reading them at once would wait for the device."""

    array: Any


class Describer:
    """Describes values. One describer serves a whole run, so that what it keeps alive is bounded."""

    def __init__(self):
        self._parts, self._room = _MOST_PARTS, _KEPT
        self._inside: set[int] = set()
        self._pending: dict[int, Pending] = {}

    def __call__(self, value: Any) -> Any:
        """What `resolved` makes JSON of."""
        self._parts -= 1
        if self._parts < 0 or len(self._inside) > _DEEPEST or id(value) in self._inside:
            return "not described"
        if isinstance(value, Tracer):
            return "traced"
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, str):
            return value[:_LONGEST_STRING]
        if isinstance(value, (float, complex, np.generic)):
            return _number(value.item() if isinstance(value, np.generic) else value)
        if isinstance(value, (jax.Array, np.ndarray)):
            return self._array(value)
        self._inside.add(id(value))
        try:
            return self._compound(value)
        finally:
            self._inside.discard(id(value))

    def _compound(self, value: Any) -> Any:
        if isinstance(value, type):
            return name_of(value)
        if isinstance(value, Chain):
            return self._chain(value)
        if isinstance(value, SDE):
            return self._of_class(value, {"model": value.model, "start_steps": value.start_steps} | self._chain(value.chain))
        if isinstance(value, (Mapping, list, tuple, set, frozenset)) and len(value) > _LARGEST:
            return self._of_class(value, {"length": len(value)})
        if isinstance(value, Mapping):
            return {str(key): self(part) for key, part in value.items()}
        if isinstance(value, tuple) and (fields := getattr(value, "_fields", None)):
            return self._of_class(value, {name: self(getattr(value, name)) for name in fields})
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self(part) for part in value]
        if isinstance(value, functools.partial):
            held = {"arguments": self(value.args), "keywords": self(dict(value.keywords))}
            return {"function": self(value.func)} | {name: parts for name, parts in held.items() if parts}
        method: Any = value  # Equinox has methods of its own
        if inspect.ismethod(value) or (isinstance(value, eqx.Module) and hasattr(value, "__self__")):
            return {"function": name_of(method.__func__), "of": self(method.__self__)}
        if dataclasses.is_dataclass(value):
            return self._of_class(value, {name: self(part) for name, part in _fields(value)})
        if callable(value) and hasattr(value, "__qualname__"):
            return self._function(value)
        return self._of_class(value, {})

    def _chain(self, chain: Chain) -> dict[str, Any]:
        known = chain.optimizer is not None
        maker = {"optimizer": self(chain.optimizer)} if known else {"make_transform": self(chain.make_transform)}
        return self._of_class(chain, {**maker, "problem": self(chain.problem), "learning_rate": self(chain.learning_rate)})

    def _of_class(self, value: Any, parts: dict[str, Any]) -> dict[str, Any]:
        return {**parts, "class": name_of(type(value))}

    def _function(self, function: Callable[..., Any]) -> Any:
        """A function's name, and what it closes over: that of a lambda or of a schedule says little."""
        inner: Any = inspect.unwrap(function)
        name, cells = name_of(inner), getattr(inner, "__closure__", None) or ()
        names = inner.__code__.co_freevars if cells else ()
        held = {}
        for variable, cell in zip(names, cells, strict=True):
            try:
                held[variable] = self(cell.cell_contents)
            except ValueError:  # a variable that is not set
                continue
        return {"function": name, "closes over": held} if held else {"function": name}

    def _array(self, array: Any) -> Any:
        known = self._pending.get(id(array))
        if known is not None:
            return known
        shape_only = {"shape": list(array.shape), "dtype": str(array.dtype)}
        if array.dtype == object or not getattr(array, "is_fully_addressable", True):
            return shape_only
        size = 0 if array.size <= _WRITTEN_OUT else array.nbytes
        if size > min(_DIGESTED, self._room):
            return shape_only
        self._room -= size
        # NumPy's arrays may be changed later. Those that wait stay alive, so that their identities are theirs.
        pending = Pending(array.copy() if isinstance(array, np.ndarray) else array)
        if not isinstance(array, np.ndarray):
            self._pending[id(array)] = pending
        return pending


def resolved(words: Any) -> Any:
    """A description as JSON can have it, with the numbers or digests of the arrays that it waited for."""
    if isinstance(words, Pending):
        return _numbers(words.array)
    if isinstance(words, dict):
        return {key: resolved(part) for key, part in words.items()}
    return [resolved(part) for part in words] if isinstance(words, list) else words


def key_in_words(key: Any) -> Any:
    """A key's numbers and its generator."""
    if isinstance(key, Tracer):
        return "traced"
    with jax.ensure_compile_time_eval():  # within a function that is traced, too
        typed = _random.typed_key(key)
        data = Pending(jax.random.key_data(typed))
    return {"data": data, "implementation": str(jax.random.key_impl(typed)), "raw": not _is_typed(key)}


def name_of(thing: Any) -> str:
    """The name of a class or a function with its module's, without private modules."""
    module = (part for part in str(getattr(thing, "__module__", "")).split(".") if part == "__main__" or part[:1] != "_")
    return ".".join([*module, getattr(thing, "__qualname__", type(thing).__qualname__)]).lstrip(".")


def _fields(value: Any) -> list[tuple[str, Any]]:
    """Those of a dataclass, but for what the package's own derive from others."""
    own = type(value).__module__.partition(".")[0] == "jaxsde"
    names = [field.name for field in dataclasses.fields(value) if not (own and field.name.startswith("_"))]
    return [(name, getattr(value, name, None)) for name in names]


def _is_typed(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _number(value: Any) -> Any:
    """A number, or its name where JSON has none for it."""
    return value if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)) else str(value)


def _numbers(array: Any) -> Any:
    words = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if isinstance(array, jax.Array) and array.is_deleted():
        return words
    if _is_typed(array):
        with jax.ensure_compile_time_eval():
            array = jax.random.key_data(array)
    values = np.asarray(array)
    if values.size > _WRITTEN_OUT:
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        return words | {"sha256": hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()}
    listed = jax.tree.map(_number, values.tolist())
    return words | {"values": listed} if values.ndim else listed
