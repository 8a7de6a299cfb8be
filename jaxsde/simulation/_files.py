"""Ensembles on disk: netCDF files."""

import dataclasses
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._extras import require
from .._write import refuse_existing, write_netcdf
from ._ensemble import Ensemble
from ._layout import Taken, put_together
from ._provenance import Provenance

# What tells these files from others, and the version of their form. Files of earlier versions can be read, later ones not.
_FORMAT, _VERSION = "jaxsde ensemble", 1

_PARTS = {"ts": "time", "steps": "step", "diverged": "diverged"}

_READABLE = (
    "An ensemble of jaxsde; jaxsde.load reads it. Each observable has variables of its own, whose attribute `observable` is "
    "its name. Of moments there are, by time, `count` (of seeds), `mean`, and `deviations` (the sum over seeds of squared "
    "deviations from the mean, which over count - 1 is the variance, or of their outer products), over the coordinates of the "
    "observable, raveled; of samples the `values` of all seeds. The attribute `provenance` says, in JSON, how it was made."
)


def save(ensemble: Ensemble, path: Any, *, overwrite: bool) -> None:
    """As `Ensemble.save`."""
    xarray = require("xarray", extra="files", purpose="saving")
    if not overwrite:
        refuse_existing(pathlib.Path(path))  # before the work is done
    taken = Taken(np.shape(ensemble.ts))
    layout: dict[str, Any] = {part: taken.array(getattr(ensemble, part), name) for part, name in _PARTS.items()}
    layout["seeds"] = int(ensemble.seeds)
    layout["statistics"] = [[name, taken.statistics(name, value)] for name, value in ensemble.statistics.items()]
    variables = {}
    for name, (axes, values, field, observable) in taken.variables.items():
        if values.size == 0:
            continue  # netCDF takes an axis of length 0 for one that grows; the layout has the shape
        described = {"field": field} | ({"observable": _printable(observable)} if observable else {})
        variables[name] = (axes, values.astype(np.int8) if values.dtype == bool else values, described)
    texts = {"layout": json.dumps(layout), "provenance": json.dumps(ensemble.provenance)}
    checksum = _checksum(texts, {name: values for name, (_, values, _) in variables.items()})
    attributes = {"format": _FORMAT, "format_version": _VERSION, "description": _READABLE, **texts, "checksum": checksum}
    write_netcdf(xarray.Dataset(variables, attrs=attributes), path, overwrite=overwrite)


def load(path: str | os.PathLike[str]) -> Ensemble:
    """The ensemble in a file that [`Ensemble.save`][] wrote, with arrays equal to those that were saved, bit for bit.

    Needs the extra `files`. Nothing in a file is run, whoever wrote it. Observables that are pytrees come back as they were
    where they are made of dictionaries, lists, tuples and None; named tuples, modules and other nodes come back as a
    dictionary of their fields by name. Of float64 numbers where `jax_enable_x64` is off, the arrays are in float64, but what is
    computed from them, such as means, is rounded to float32: a warning says so.

    Other programs read these files as netCDF 4: `xarray.open_dataset(path, engine="h5netcdf")`. An attribute `description`
    says what the variables are.

    **Raises:** `FileNotFoundError` where there is no file; `ValueError` for a file that holds no ensemble, is damaged, or was
    written by a later version of jaxsde whose files this one cannot read.

    >>> import jaxsde as js
    >>> load("none.nc")
    Traceback (most recent call last):
    ...
    FileNotFoundError: [Errno 2] No such file or directory: 'none.nc'
    """
    path = pathlib.Path(path)
    attributes, arrays = _read(path)
    if attributes.get("format") != _FORMAT:
        raise ValueError(f"{path} holds no ensemble of jaxsde: it is another program's file, or another kind of file of jaxsde")
    version = attributes.get("format_version")
    if isinstance(version, (int, np.integer)) and version > _VERSION:
        raise ValueError(
            f"{path} was written by a later version of jaxsde, in version {version} of its form; this one reads files up to "
            f"version {_VERSION}: update jaxsde"
        )
    try:
        texts = {name: attributes[name] for name in ("layout", "provenance")}
        if attributes["checksum"] != _checksum(texts, arrays):
            raise ValueError("its numbers are not those that were saved")
        layout = json.loads(texts["layout"])
        arrays = {laid["array"]: _as_saved(laid, arrays) for laid in _arrays_of(layout)}
        ts, steps, diverged = (put_together(layout[part], arrays) for part in _PARTS)
        statistics = {name: put_together(laid, arrays) for name, laid in layout["statistics"]}
        ensemble = Ensemble(ts, steps, diverged, int(layout["seeds"]), statistics)
        words = json.loads(texts["provenance"])
    except Exception as error:  # a file with these marks may hold anything
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if any(array.dtype == np.float64 for array in arrays.values()) and jnp.result_type(float) != np.float64:
        warnings.warn(
            f"{path} holds float64 numbers, of which what is computed will be rounded to float32: set "
            'jax.config.update("jax_enable_x64", True) to keep all digits',
            stacklevel=2,
        )
    return dataclasses.replace(ensemble, _provenance=Provenance(words, ensemble))


def _arrays_of(layout: Any) -> Iterator[dict[str, Any]]:
    """What a layout says of each array."""
    if isinstance(layout, dict) and "array" in layout:
        yield layout
    elif isinstance(layout, (dict, list)):
        for part in layout.values() if isinstance(layout, dict) else layout:
            yield from _arrays_of(part)


def _as_saved(laid: dict[str, Any], stored: dict[str, np.ndarray]) -> jax.Array:
    """The array that `save` was given."""
    name, shape, dtype = laid["array"], tuple(laid["shape"]), np.dtype(laid["dtype"])
    values = stored[name] if 0 not in shape else np.zeros(shape, dtype)
    if dtype.kind == "b" and values.dtype == np.int8:
        values = values.astype(bool)
    if values.shape != shape or values.dtype != dtype or dtype.kind not in "biuf":
        raise ValueError(f"{name} should have shape {shape} and dtype {dtype}, but has {values.shape} and {values.dtype}")
    with jax.enable_x64(True):  # else JAX would round what has double precision
        return jnp.asarray(values)


def _checksum(texts: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the names and the contents of texts and arrays: what netCDF itself does not notice of damage."""
    digest = hashlib.sha256()
    for name, text in texts.items():
        digest.update(f"{name} {text}".encode())
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The attributes and the variables of a netCDF file."""
    xarray = require("xarray", extra="files", purpose="loading")
    require("h5netcdf", extra="files", purpose="loading")
    h5py = require("h5py", extra="files", purpose="loading")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; load takes the file of an ensemble")
    with open(path, "rb"):  # raises what says why it cannot be read
        pass
    try:
        with h5py.File(path, "r"):  # which says more of what it cannot read
            pass
        dataset = xarray.load_dataset(path, engine="h5netcdf", decode_cf=False)
        return dict(dataset.attrs), {str(name): variable.values for name, variable in dataset.variables.items()}
    except Exception as error:  # whatever comes of reading something else
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a netCDF file; it is of another kind, or damaged: {reason}") from error
