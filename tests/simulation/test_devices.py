"""Seeds divided among devices and processes: the same numbers, bit by bit."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import ONE_DEVICE

import jaxsde as js
from jaxsde.simulation import _devices, _run, _work
from jaxsde.simulation._reducers import ByObservable

WORKER = pathlib.Path(__file__).with_name("worker.py")
PROBLEM = js.Problem(js.Quadratic(jnp.arange(1.0, 5.0)), js.Gaussian(0.5))
SDE = js.SignSGD(0.05).sde(PROBLEM)
COMMON = dict(steps=8, key=jax.random.key(0), chunk=16)


def started(*arguments, **more):
    words = [sys.executable, str(WORKER), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def finished(process, timeout=300):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def together(case, processes, devices, folder=""):
    """One run in several processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [started(case, devices // processes, folder, port, processes, i) for i in range(processes)]


@pytest.fixture(scope="module")
def alone():
    return finished(started("everything", 1))


@pytest.mark.sweep
@pytest.mark.parametrize("devices", [2, 8])
def test_any_number_of_devices_gives_the_same_bits(alone, devices):
    found = finished(started("everything", devices))
    assert found["devices"] == devices
    assert found["result"] == alone["result"]


@pytest.mark.sweep
def test_two_processes_give_the_same_bits(alone):
    for found in map(finished, together("everything", 2, 8)):
        assert found == {"devices": 8, "result": alone["result"]}


@pytest.mark.parametrize("seeds", [1, 17, 48])
def test_a_mesh_of_one_device_gives_the_bits_of_none(monkeypatch, seeds):
    split = js.simulate(SDE, jnp.ones(4), seeds=seeds, mesh=ONE_DEVICE, **COMMON)
    monkeypatch.setattr(_devices, "all_devices", lambda: None)
    whole = js.simulate(SDE, jnp.ones(4), seeds=seeds, **COMMON)
    for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_mesh_of_several_axes_is_one_of_all_its_devices():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(1, -1, 1), ("a", "b", "c"))
    run = js.simulate(SDE, jnp.ones(4), seeds=40, mesh=mesh, **COMMON)
    other = js.simulate(SDE, jnp.ones(4), seeds=40, mesh=ONE_DEVICE, **COMMON)
    np.testing.assert_array_equal(run["x"].mean, other["x"].mean)


def test_a_mesh_must_be_one():
    with pytest.raises(TypeError, match="mesh must be a jax.sharding.Mesh"):
        js.simulate(SDE, jnp.ones(4), seeds=4, mesh="all", **COMMON)


@pytest.mark.parametrize("process", [SDE, js.Adam(0.05).chain(PROBLEM)], ids=["SDE", "chain"])
def test_nothing_passes_between_devices_while_seeds_step(process):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("device",))
    reducers = ByObservable({"x": js.Moments()})
    recorder = _run.Recorder({"x": lambda x: x}, reducers, 3, jnp.asarray(40))
    parts = _devices.placed(mesh, (process.discretised(), recorder, jnp.ones(4), js._random.stream_key(jax.random.key(0))))
    task = _work.Task(*parts, steps=8, every=4, seeds=40, chunk=16, mesh=mesh)
    program = _run.advance.lower(*parts[:2], task.begin(0), jnp.asarray(8), jnp.asarray(4), mesh).as_text()
    assert "while" in program
    assert not re.search("all.reduce|all.gather|collective.permute|all.to.all|reduce.scatter", program)


def test_under_jit_the_seeds_of_a_mesh_are_divided():
    run = jax.jit(lambda x: js.simulate(SDE, x, seeds=40, mesh=ONE_DEVICE, **COMMON)["x"].mean)
    np.testing.assert_allclose(run(jnp.ones(4)), js.simulate(SDE, jnp.ones(4), seeds=40, **COMMON)["x"].mean, rtol=1e-5)


def test_what_a_checkpoint_compares_is_the_same_in_another_process():
    first, second = (started("words", 1, env=os.environ | {"PYTHONHASHSEED": seed}) for seed in ("1", "2"))
    assert finished(first)["result"] == finished(second)["result"]


@pytest.mark.sweep
def test_when_a_process_dies_the_others_say_so_and_the_run_goes_on_from_its_checkpoint(tmp_path):
    whole = finished(started("checkpoint", 1, tmp_path / "whole"))
    killed = together("dies", 2, 4, tmp_path / "run")
    errors = [process.communicate(timeout=120)[1] for process in killed]
    assert killed[1].returncode == -9
    assert killed[0].returncode != 0
    assert "another process of this run has stopped" in errors[0]
    # On another number of devices, in one process.
    assert finished(started("checkpoint", 2, tmp_path / "run"))["result"] == whole["result"]
