"""What a run's numbers depend on, in words that can be compared: two runs with the same words have the same numbers."""

import dataclasses
import functools
import hashlib
import re
import types
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._traced import TracedFunction
from . import _devices
from ._provenance import settings, versions

_NUMERICS = "jaxsde", "jax", "jaxlib", "optax", "diffrax", "equinox"  # whose versions decide the last digits
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_FEW = 4  # numbers that are written out
_LONGEST_PATH = 1000


def identity(**parts: Any) -> dict[str, str]:
    """Each part, and each part of a part, by its path: arrays by their values, functions by what they compute."""
    words = {path: text for name, part in parts.items() for path, text in _described(name, part)}
    words |= {f"the version of {name}": str(version) for name, version in versions().items() if name in _NUMERICS}
    device = jax.devices()[0]
    words["the platform"] = f"{device.platform}, {device.device_kind}"
    return words | {name: str(value) for name, value in settings().items()}


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs, in words, each difference once."""
    found: dict[tuple[str, str, str], None] = {}
    for path in [*now, *(path for path in before if path not in now)]:
        old, new = before.get(path, "none"), now.get(path, "none")
        if old != new:
            found[path.rpartition(".")[2], old, new] = None
    return [f"{name} was {old} and is {new}" for name, old, new in found]


def _described(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if len(path) > _LONGEST_PATH:  # a function that closes over itself
        yield path, type(value).__qualname__
    elif isinstance(value, TracedFunction):
        yield f"{path} (what it computes)", _digest(_ADDRESS.sub("", repr(value.program.key)).encode())
        yield from _described(f"{path} (what it closes over)", value.constants)
    elif isinstance(value, eqx.Module):
        yield path, type(value).__qualname__
        for field in dataclasses.fields(value):
            yield from _described(f"{path}.{field.name}", getattr(value, field.name, None))
    elif _devices.is_key(value):
        yield path, f"{jax.random.key_impl(value)} {np.asarray(jax.random.key_data(value)).tolist()}"
    elif isinstance(value, (jax.Array, np.ndarray, np.generic)):
        yield path, _array(np.asarray(value))
    elif isinstance(value, dict):
        yield path, f"{type(value).__name__} of {', '.join(map(str, value))}"
        for name, part in value.items():
            yield from _described(f"{path}[{name!r}]", part)
    elif isinstance(value, (list, tuple)):
        yield path, f"{type(value).__name__} of {len(value)}"
        for number, part in enumerate(value):
            yield from _described(f"{path}[{number}]", part)
    elif isinstance(value, types.FunctionType):  # one that could not be traced, or one of a package
        code = value.__code__
        yield path, f"{value.__module__}.{value.__qualname__} {_digest(code.co_code + repr(code.co_names).encode())}"
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            yield from _described(f"{path}.{name}", cell.cell_contents)
    elif isinstance(value, functools.partial):
        yield from _described(path, (value.func, value.args, value.keywords))
    else:
        yield path, _ADDRESS.sub("", repr(value))


def _array(array: np.ndarray) -> str:
    if array.size <= _FEW:
        return f"{array.dtype} {', '.join(map(str, array.ravel()))}"
    return f"{array.dtype}{list(array.shape)} with the digest {_digest(np.ascontiguousarray(array).tobytes())}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
