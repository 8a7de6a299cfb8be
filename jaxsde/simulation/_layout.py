"""An ensemble taken apart: its arrays by name, and a layout that says how they make it up, of what JSON has.

Nothing in a layout is a name of a class to import, or code: it is read as one of the few forms below or not at all.
"""

import dataclasses
import itertools
import re
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._covariances import CovarianceStatistics
from ._histograms import HistogramStatistics, JointHistogramStatistics
from ._jackknife import JackknifeStatistics
from ._quantiles import QuantileStatistics
from ._reducers import MomentStatistics, SampleStatistics

# The statistics that files have, by the names that they have there.
_STATISTICS = {
    "moments": MomentStatistics,
    "samples": SampleStatistics,
    "jackknife": JackknifeStatistics,
    "covariances": CovarianceStatistics,
    "histogram": HistogramStatistics,
    "joint histogram": JointHistogramStatistics,
    "quantiles": QuantileStatistics,
}

_TIME = ("time",)

# The leading axes of the arrays in these fields; of all others the first is that of times.
_AXES: dict[str, tuple[str, ...]] = {
    "values": ("time", "seed"),
    "left_out": ("group", "time"),
    **dict.fromkeys(("edges", "first_edges", "second_edges", "lags", "q", "_rest", "_values"), ()),
}


class Variable(NamedTuple):
    """An array of a file, the names of its axes, and what it is."""

    axes: tuple[str, ...]
    values: np.ndarray
    field: str
    observable: str


class Taken:
    """What is taken apart: variables by their names in the file."""

    def __init__(self, times: tuple[int, ...]):
        """`times`: the shape of the ensemble's times."""
        self.variables: dict[str, Variable] = {}
        self._names: dict[int, str] = {}
        # Axes have names as long as the first of all arrays is that of times. In a batch of ensembles it is not.
        self._named, self._sizes = len(times) == 1, {"time": times[0] if times else 0}
        self._arrays: list[Any] = []  # kept alive, so that their identities are theirs

    def array(self, array: Any, field: str, observable: str = "", axes: tuple[str, ...] = _TIME) -> dict[str, Any]:
        """The layout of an array, which is stored once however often it occurs."""
        if id(array) not in self._names:
            values = np.asarray(array)
            if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8 or values.dtype == np.float16:
                raise TypeError(f"{field} of {observable!r} has dtype {values.dtype}, which these files cannot have")
            name = self._free_name("_".join(part for part in (observable, field) if part))
            self.variables[name] = Variable(self._axes(name, values.shape, axes), values, field, observable)
            self._names[id(array)] = name
            self._arrays.append(array)
        name = self._names[id(array)]
        values = self.variables[name].values
        return {"array": name, "shape": list(values.shape), "dtype": values.dtype.name}

    def statistics(self, observable: str, value: Any) -> dict[str, Any]:
        """The layout of an observable's statistics, of one reducer or by the names of several."""
        if type(value) is dict and value and all(type(part) in _STATISTICS.values() for part in value.values()):
            return {"several": [[name, self._statistics(part, name, observable, _TIME)] for name, part in value.items()]}
        return self._statistics(value, "", observable, _TIME)

    def _statistics(self, value: Any, field: str, observable: str, axes: tuple[str, ...]) -> dict[str, Any]:
        kind = next((name for name, known in _STATISTICS.items() if type(value) is known), None)
        if kind is None:
            raise TypeError(
                f"the statistics of {observable!r} are a {type(value).__name__}, whose form in files is not known: those of "
                "jaxsde's own reducers can be saved. Save the arrays of a reducer of your own yourself"
            )
        parts = {}
        for of in dataclasses.fields(value):
            name = "_".join(part for part in (field, of.name.strip("_")) if part)
            below = _AXES.get(of.name, axes)
            part = getattr(value, of.name)
            known = type(part) in _STATISTICS.values()
            # The times that all share have no axis of groups.
            below = _TIME if of.name == "ts" else below
            parts[of.name] = (
                self._statistics(part, name, observable, below) if known else self._tree(part, name, observable, below)
            )
        return {"statistics": kind, "fields": parts}

    def _tree(self, tree: Any, field: str, observable: str, axes: tuple[str, ...]) -> dict[str, Any]:
        """The layout of a pytree of arrays, or of shapes and dtypes."""
        if isinstance(tree, jax.ShapeDtypeStruct):
            return {"shape": list(tree.shape), "dtype": np.dtype(tree.dtype).name}
        if isinstance(tree, (jax.Array, np.ndarray, np.generic)):
            return self.array(tree, field, observable, axes)
        within = lambda key, part: self._tree(part, f"{field}_{key}", observable, axes)
        if tree is None:
            return {"none": True}
        if type(tree) in (list, tuple):
            return {type(tree).__name__: [within(i, part) for i, part in enumerate(tree)]}
        plain = isinstance(tree, dict) and not isinstance(tree, OrderedDict)
        items = list(tree.items()) if plain else _children(tree)
        for key, _ in items:
            if not isinstance(key, (str, int, float, bool)):
                raise TypeError(f"{observable!r} has a dictionary with the key {key!r}; files can have strings and numbers")
        return {"dict" if plain else "ordered": [[key, within(key, part)] for key, part in items]}

    def _free_name(self, wanted: str) -> str:
        """A name that netCDF allows, like the wanted one, and that no variable and no axis has."""
        plain = re.sub(r"\W", "_", wanted, flags=re.ASCII)[:100]
        plain = plain if plain[:1].isalpha() else f"_{plain}"
        taken = {*self.variables, *(name for name in self._sizes if name != "time"), "seed", "group"}
        numbered = (f"{plain}_{n}" for n in itertools.count(2))
        return next(name for name in itertools.chain([plain], numbered) if name not in taken)

    def _axes(self, name: str, shape: tuple[int, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
        axes = []
        for i, size in enumerate(shape):
            axis = wanted[i] if self._named and i < len(wanted) else f"{name}_axis_{i}"
            if self._sizes.setdefault(axis, size) != size:  # of an ensemble that was put together by hand
                axis = f"{name}_axis_{i}"
                self._sizes[axis] = size
            axes.append(axis)
        return tuple(axes)


def put_together(layout: Any, arrays: dict[str, Any]) -> Any:
    """The value with this layout.

    **Raises:** whatever comes of a layout that is none.
    """
    if "statistics" in layout:
        kind: Any = _STATISTICS[layout["statistics"]]
        return kind(*(put_together(layout["fields"][field.name], arrays) for field in dataclasses.fields(kind)))
    if "several" in layout:
        return {name: put_together(part, arrays) for name, part in layout["several"]}
    if "array" in layout:
        return arrays[layout["array"]]
    if "shape" in layout:
        return jax.ShapeDtypeStruct(tuple(layout["shape"]), jnp.dtype(layout["dtype"]))
    if "none" in layout:
        return None
    [(form, parts)] = layout.items()
    if form in ("list", "tuple"):
        built = [put_together(part, arrays) for part in parts]
        return built if form == "list" else tuple(built)
    return {"dict": dict, "ordered": OrderedDict}[form]((key, put_together(part, arrays)) for key, part in parts)


def _children(tree: Any) -> list[tuple[Any, Any]]:
    """The parts of a node of a pytree by name, in the order in which JAX has them."""
    below = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    if len(below) == 1 and not below[0][0]:
        raise TypeError(f"a {type(tree).__name__} is no array and no pytree of arrays, and cannot be saved")
    named = [(getattr(key, "name", getattr(key, "key", getattr(key, "idx", i)))) for i, ((key, *_), _) in enumerate(below)]
    return [(name, part) for name, (_, part) in zip(named, below, strict=True)]
