"""Ensembles on disk."""

import json
import os
import subprocess
import sys
from collections import OrderedDict
from typing import NamedTuple

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import xarray
from common import PROBLEM

import jaxsde as js

CHAIN = js.SGD(0.1).chain(PROBLEM)


class Pair(NamedTuple):
    second: object  # not in alphabetical order
    first: object


class Part(eqx.Module):
    weight: object
    bias: object
    name: str = eqx.field(static=True, default="static fields are no part of what is recorded")


def _run(observe=None, reduce=None, *, process=CHAIN, x0=None, **more):
    x0 = jnp.array([1.0, -1.0]) if x0 is None else x0
    run = dict(steps=20, every=5, seeds=12, key=jax.random.key(3)) | more
    return js.simulate(process, x0, observe=observe, reduce=reduce, **run)


def _assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert isinstance(y, jax.Array) and x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.nc"


@pytest.fixture
def unchecked():
    """Annotations are those of ensembles that `simulate` returns."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _there_and_back(ensemble, path):
    ensemble.save(path)
    found = js.load(path)
    assert found.provenance == ensemble.provenance
    return found


REDUCERS = {
    "moments": js.Moments(),
    "covariance": js.Moments(covariance=True),
    "samples": js.Samples(),
    "jackknife": js.Jackknife(js.Moments(), groups=4),
    "jackknife of covariances": js.Jackknife(js.Moments(covariance=True), groups=3),
    "jackknife of counts": js.Jackknife(js.Histogram([-1.0, 0.0, 1.0, 2.0]), groups=3),
}
SHAPES = {
    "x": lambda x: x,
    "loss/per step, in %": PROBLEM.loss,
    "loss_per_step__in__": lambda x: 2 * PROBLEM.loss(x),  # the name that the one above has in the file
    "time": lambda x: x[0],
    "ä": lambda x: x[0] > 0,
    "\ud800\x00": lambda x: jnp.sum(x),  # what attributes of files cannot have
    "": lambda x: jnp.sum(x),
    "nothing": lambda x: jnp.zeros((0, 3)),
    "tree": lambda x: {"b": [x, None, (x[0], {})], "a/": jnp.ones((2, 3)) * x[0], "empty": jnp.zeros(0)},
    "numbers": lambda x: {3: x, 1: x[0]},
    "ordered": lambda x: OrderedDict(z=x, a=x[0]),
}


@pytest.mark.parametrize("name, x64", [*((name, False) for name in REDUCERS), ("jackknife of covariances", True)])
def test_what_is_loaded_equals_what_was_saved_bit_for_bit(name, x64, path):
    with jax.enable_x64(x64):
        ensemble = _run(SHAPES, REDUCERS[name])
        assert ensemble.ts.dtype == (jnp.float64 if x64 else jnp.float32)
        found = _there_and_back(ensemble, path)
        _assert_equal(ensemble, found)
        assert found.seeds == 12 and list(found.statistics) == list(ensemble.statistics)
        for name in SHAPES:
            for a, b in zip(_shown(ensemble[name]), _shown(found[name]), strict=True):
                _assert_equal(a, b)


def _shown(statistics):
    if isinstance(statistics, js.simulation.JackknifeStatistics):
        return [part for side in (statistics.total, *statistics.without) for part in _shown(side)]
    return [
        getattr(statistics, name)
        for name in ("mean", "variance", "values", "counts", "count", "ts")
        if hasattr(statistics, name)
    ]


def test_nan_and_infinities_keep_their_bits(path):
    odd = np.array([0x7FC00001, 0xFF800000, 0x80000000, 0x00000001, 0x7F800000], np.uint32).view(np.float32)
    ensemble = _run({"x": lambda x: x[0]}, js.Samples())
    values = jnp.asarray(np.broadcast_to(odd[:, None], (5, 12)).copy())
    ensemble = eqx.tree_at(lambda e: e["x"].values, ensemble, values)
    _assert_equal(ensemble, _there_and_back(ensemble, path))


def test_other_dtypes_of_an_ensemble_that_was_put_together_by_hand(path, unchecked):
    n = jnp.arange(3)
    trees = {"truth": n > 1, "bytes": n.astype(jnp.uint8), "scalar": jnp.asarray(1.5), "three": jnp.ones((3, 2, 4))}
    ensemble = js.Ensemble(1.0 * n, n, 0 * n, 4, {"x": js.simulation.SampleStatistics(1.0 * n, trees)})
    found = _there_and_back(ensemble, path)
    _assert_equal(ensemble, found)
    assert found.provenance is None
    half = eqx.tree_at(lambda e: e["x"].values["scalar"], ensemble, jnp.asarray(1.5, jnp.bfloat16))
    with pytest.raises(TypeError, match="values_scalar of 'x' has dtype bfloat16"):
        half.save(path, overwrite=True)


def test_a_batch_of_ensembles(path, unchecked):
    batch = jax.vmap(lambda rate: _run(process=js.SGD(rate).chain(PROBLEM)))(jnp.array([0.1, 0.2, 0.3]))
    assert batch.ts.shape == (3, 5)
    _assert_equal(batch, _there_and_back(batch, path))


def test_named_tuples_and_modules_come_back_as_dictionaries_by_field(path):
    observe = {"pair": lambda x: Pair(x, Part(x[0], {"p": x[1]}))}
    for reduce in (js.Moments(covariance=True), js.Samples()):
        ensemble = _run(observe, reduce)
        ensemble.save(path, overwrite=True)
        before, after = (_shown(e["pair"])[0] for e in (ensemble, js.load(path)))
        assert isinstance(after, dict) and list(after) == ["second", "first"]
        _assert_equal(before.second, after["second"])
        _assert_equal(before.first.weight, after["first"]["weight"])
        _assert_equal(before.first.bias, after["first"]["bias"])


def test_double_precision_is_kept_where_jax_has_none(path):
    with jax.enable_x64(True):
        ensemble = _run()
        ensemble.save(path)
    with jax.enable_x64(False), pytest.warns(UserWarning, match="holds float64 numbers"):
        found = js.load(path)
    _assert_equal(ensemble, found)


def test_loaded_ensembles_are_computed_with_and_share_programs(path):
    count = []

    @jax.jit
    def spread(ensemble):
        count.append(1)
        return jnp.sqrt(ensemble["x"].variance)

    ensembles = [_run(key=jax.random.key(k)) for k in range(3)]
    ensembles.append(_there_and_back(ensembles[0], path))
    results = [spread(e) for e in ensembles]
    np.testing.assert_array_equal(results[0], results[3])
    assert len(count) == 1


def test_a_users_own_statistics_are_refused(path):
    class Largest(js.simulation.AbstractReducer):
        moments_only = False
        seed_multiple = 1

        def init(self, like):
            return jnp.full(like.shape, -jnp.inf)

        def update(self, stats, values, keep):
            return jnp.maximum(stats, jnp.max(values, axis=0))

        def merge(self, a, b):
            return jnp.maximum(a, b)

        def result(self, stats, ts, shape, seeds):
            return {"largest": stats}

    ensemble = _run({"x": lambda x: x}, Largest())
    with pytest.raises(TypeError, match="the statistics of 'x' are a dict, whose form in files is not known"):
        ensemble.save(path)
    assert not path.parent.joinpath("run.nc").exists()
    assert ensemble.provenance["reduce"]["class"].endswith("Largest")


def test_another_program_reads_the_file(path):
    ensemble = _run({"x/y": lambda x: x})
    ensemble.save(path)
    with xarray.open_dataset(path, engine="h5netcdf") as file:
        np.testing.assert_array_equal(file["x_y_mean"], ensemble["x/y"].mean)
        np.testing.assert_allclose(file["x_y_deviations"] / (file["x_y_count"] - 1), ensemble["x/y"].variance, rtol=1e-6)
        assert file["x_y_mean"].attrs["observable"] == "x/y" and file["x_y_mean"].dims[0] == "time"
        np.testing.assert_array_equal(file["time"], ensemble.ts)
        assert json.loads(file.attrs["provenance"])["steps"] == 20


def test_a_file_is_not_overwritten_unasked(path):
    first, second = _run(), _run(key=jax.random.key(4))
    first.save(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True.*run.nc"):
        second.save(path)
    assert path.read_bytes() == before
    second.save(str(path), overwrite=True)
    _assert_equal(js.load(str(path)), second)
    assert os.listdir(path.parent) == ["run.nc"]


def test_a_link_is_written_through(path):
    target = path.with_name("target.nc")
    _run().save(target)
    path.symlink_to(target)
    with pytest.raises(FileExistsError):
        _run().save(path)
    _run(seeds=4).save(path, overwrite=True)
    assert path.is_symlink() and js.load(target).seeds == 4


def test_where_nothing_can_be_written_there_is_an_error_and_no_file(path):
    ensemble = _run()
    with pytest.raises(FileNotFoundError, match="no such folder.*none"):
        ensemble.save(path.parent / "none" / "run.nc")
    with pytest.raises(FileExistsError):
        ensemble.save(path.parent)
    with pytest.raises(OSError, match=str(path.parent)):
        ensemble.save(path.parent, overwrite=True)
    path.write_text("a file")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ensemble.save(path / "run.nc")
    assert os.listdir(path.parent) == ["run.nc"] and path.read_text() == "a file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(path):
    path.parent.chmod(0o500)
    with pytest.raises(PermissionError, match="run.nc"):
        _run().save(path)
    path.parent.chmod(0o700)


@pytest.mark.parametrize("seeds", [4, 3000])
def test_a_full_disk_leaves_the_old_file(seeds, path):
    path.write_text("old")
    program = f"""
import resource, jax, jax.numpy as jnp, jaxsde as js
problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1))
run = dict(steps=8, every=1, seeds={seeds}, key=jax.random.key(0), reduce=js.Samples())
run = js.simulate(js.SGD(0.1).chain(problem), jnp.ones(1), **run)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    run.save({str(path)!r}, overwrite=True)
except OSError as error:
    print("refused:", error, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("refused: [Errno ") and str(path) in done.stdout and "\n" not in done.stdout.strip()
    assert "Traceback" not in done.stderr
    assert os.listdir(path.parent) == ["run.nc"] and path.read_text() == "old"


def test_files_that_are_none(path, tmp_path, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with pytest.raises(FileNotFoundError, match="run.nc"):
        js.load(path)
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder"):
        js.load(tmp_path)
    for content in (b"", b"some text\n" * 100, b"\x89HDF\r\n\x1a\n" + bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="run.nc cannot be read as a netCDF file"):
            js.load(path)
    xarray.Dataset({"x": ("time", [1.0, 2.0])}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match="run.nc holds no ensemble of jaxsde"):
        js.load(path)
    assert unraisable == []


def test_damaged_files(path):
    _run(SHAPES, js.Samples()).save(path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 600):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="run.nc cannot be read as a netCDF file"):
            js.load(path)

    def changed(change):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            change(file)

    layouts = ["{", "[]", "null", "{}", '{"ts": {"array": "no such"}}', '{"ts": {"statistics": "os.system", "fields": {}}}']
    for layout in layouts:
        changed(lambda file, layout=layout: file.attrs.__setitem__("layout", layout))
        with pytest.raises(ValueError, match="run.nc is damaged"):
            js.load(path)
    for name in ("time", "diverged", "x_values"):  # a bit

        def flip(file, name=name):
            values = file[name][()]
            values.view(np.uint8).flat[3] ^= 1
            file[name][...] = values

        changed(flip)
        with pytest.raises(ValueError, match="run.nc is damaged: ValueError: its numbers are not those that were saved"):
            js.load(path)
    for name in ("time", "x_values"):
        changed(lambda file, name=name: file.move(name, "elsewhere"))
        with pytest.raises(ValueError, match="run.nc (is damaged|cannot be read)"):
            js.load(path)

    def objects(file):
        del file["diverged"]
        file.create_dataset("diverged", data=["__import__('os')"] * 5, dtype=h5py.string_dtype())

    changed(objects)
    with pytest.raises(ValueError, match="run.nc (is damaged|cannot be read)"):
        js.load(path)


def test_a_file_of_a_later_version_says_so(path):
    _run().save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = np.int64(2)
        file.attrs["layout"] = "something new"
    with pytest.raises(ValueError, match="run.nc was written by a later version of jaxsde.*update jaxsde"):
        js.load(path)


def test_the_package_needs_no_files_to_be_imported():
    program = """
import sys, jaxsde as js
assert not {"xarray", "h5netcdf", "h5py"} & set(sys.modules)
sys.modules["xarray"] = None
import jax.numpy as jnp
n = jnp.arange(2)
for call in (lambda: js.load("x.nc"), lambda: js.Ensemble(1.0 * n, n, n, 1, {}).save("x.nc")):
    try:
        call()
    except ImportError as error:
        assert "pip install 'jaxsde[files]'" in str(error), error
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)
