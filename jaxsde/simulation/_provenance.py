"""Where the numbers of an ensemble come from: all that it takes to make them again."""

import copy
import dataclasses
import functools
import platform
import weakref
from importlib import metadata
from typing import Any, NamedTuple

import jax
from jax.core import Tracer

from ._words import Describer, key_in_words, resolved

_PACKAGES = ("jaxsde", "jax", "jaxlib", "numpy", "optax", "diffrax", "equinox")

_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable")


class Asked(NamedTuple):
    """What `simulate` was asked for, under the names of its arguments."""

    process: Any
    x0: Any
    key: Any
    observe: Any
    reduce: Any
    steps: int
    every: int
    substeps: int


class Provenance:
    """The provenance of an ensemble, a static part of it. Its words are found when they are first asked for."""

    def __init__(self, words: dict[str, Any] | None = None, ensemble: Any = None):
        self._words = words
        # A compiled function that returns an ensemble returns, for any ensemble it is given, the static parts of the one that
        # it was compiled for. Provenance is known to be an ensemble's own by an array that only this one has.
        array = None if ensemble is None else ensemble.diverged
        self._array = weakref.ref(array) if isinstance(array, jax.Array) and not isinstance(array, Tracer) else None

    def of(self, ensemble: Any) -> dict[str, Any] | None:
        """The words, where they are those of `ensemble`."""
        if self._words is None or (self._array is not None and self._array() is not ensemble.diverged):
            return None
        self._words = resolved(self._words)
        return copy.deepcopy(self._words)

    # All are equal: static parts that differ would make functions over ensembles compile anew for each of them, and would keep
    # two ensembles from being mapped over together.
    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Provenance)

    def __hash__(self) -> int:
        return hash(Provenance)

    def __repr__(self) -> str:
        return "..."

    def __reduce__(self) -> Any:
        return Provenance, (resolved(self._words),)


def with_provenance(ensemble: Any, asked: Asked, process: Any, chunk: int) -> Any:
    """`ensemble` with the provenance of what was asked for, and of what came of it: the `process` that ran, and the `chunk`."""
    describe = Describer()
    observe = {"x": "the parameters", "loss": "the loss"} if asked.observe is None else asked.observe
    words = {
        "process": describe(asked.process),
        "x0": describe(asked.x0),
        "key": key_in_words(asked.key),
        "steps": asked.steps,
        "every": asked.every,
        "seeds": ensemble.seeds,
        "substeps": asked.substeps,
        "increments": describe(getattr(process, "increments", None)),
        "chunk": chunk,
        "observe": describe(observe),
        "reduce": describe(asked.reduce),
        "versions": versions(),
        "platform": _platform(ensemble.diverged),
        "settings": settings(),
    }
    return dataclasses.replace(ensemble, _provenance=Provenance(words, ensemble))


def _platform(result: Any) -> dict[str, Any]:
    """What computed an array, if it is known, or what would."""
    devices = jax.devices() if isinstance(result, Tracer) else list(result.devices())
    return {
        "backend": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "system": platform.system(),
        "machine": platform.machine(),
    }


@functools.cache
def versions() -> dict[str, str | None]:
    """Of Python and of the packages that a result depends on; None where one is not installed as a package."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def settings() -> dict[str, Any]:
    """JAX's settings that decide which numbers come out."""
    return {name: getattr(jax.config, name) for name in _SETTINGS}
