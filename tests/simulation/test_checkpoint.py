"""Checkpoints: a run that is cut off anywhere goes on, with the same bits, or says why it cannot."""

import contextlib
import errno
import os
import shutil
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import ONE_DEVICE

import jaxsde as js
from jaxsde import _write
from jaxsde.simulation import _checkpoint, _identity, _loop, _provenance, _together, _work

PROBLEM = js.Problem(js.Quadratic(jnp.arange(1.0, 5.0)), js.Gaussian(0.5))
ADAM = js.Adam(0.05, b1=0.9, b2=0.99)
PROCESSES = {"chain": ADAM.chain(PROBLEM), "SDE": ADAM.sde(PROBLEM)}
START, OFTEN = jnp.ones(4), 1e-9  # seconds


def run(process=PROCESSES["SDE"], x0=START, **more):
    given = dict(steps=60, seeds=100, every=20, key=jax.random.key(0), chunk=32, mesh=ONE_DEVICE) | more
    return js.simulate(process, x0, **given)


def same(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def interrupts(monkeypatch):
    """Cuts a run off whenever the host has looked in so many times, after every few steps."""
    look_in, given = _loop._Pace.look_in, {"left": 10**9, "act": None}

    def cut(pace, made, is_due):
        save = look_in(pace, made, is_due)
        pace.length, given["left"] = 7, given["left"] - 1
        if given["left"] == 0:
            (given["act"] or interrupted)()
        return save

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(_loop._Pace, "look_in", cut)
    return given


@pytest.mark.parametrize("reduce", [js.Moments(), js.Samples(), js.Jackknife(js.Moments(covariance=True), 4)], ids=str)
@pytest.mark.parametrize("kind", PROCESSES)
def test_a_run_cut_off_again_and_again_ends_with_the_same_bits(interrupts, tmp_path, kind, reduce):
    whole, cuts = run(PROCESSES[kind], reduce=reduce), 0
    while True:
        interrupts["left"] = 2 + cuts % 3
        try:
            pieces = run(PROCESSES[kind], reduce=reduce, checkpoint=tmp_path)
            break
        except js.Interrupted as stopped:
            assert stopped.checkpoint == tmp_path and str(tmp_path) in str(stopped)
            cuts += 1
    assert cuts >= 5
    same(pieces, whole)


def test_the_statistics_of_complete_seeds_come_with_an_interrupt(interrupts, tmp_path):
    interrupts["left"] = 12  # of the 9 or 10 times a chunk is looked at
    with pytest.raises(js.Interrupted, match="after 32 seeds") as stopped:
        run(checkpoint=tmp_path)
    same(stopped.value.ensemble, run(seeds=32))


def test_sigterm_is_an_interrupt_and_its_handler_comes_back(interrupts, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    interrupts |= {"left": 3, "act": lambda: os.kill(os.getpid(), signal.SIGTERM)}  # at the next look
    with pytest.raises(js.Interrupted):
        run(checkpoint=tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    same(run(checkpoint=tmp_path), run())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_when_all_is_done_is_not_lost(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with _together.heeding_signals(True):
            os.kill(os.getpid(), number)
            assert not heard
        assert heard == [number]
    finally:
        signal.signal(number, before)


def test_a_second_interrupt_from_the_keyboard_does_not_wait():
    with pytest.raises(KeyboardInterrupt), _together.heeding_signals(True):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it waited")


def test_a_finished_run_is_read_and_not_run_again(monkeypatch, tmp_path):
    whole = run(checkpoint=tmp_path)
    monkeypatch.setattr(_work.Task, "advance", None)
    same(run(checkpoint=tmp_path), whole)


@pytest.mark.parametrize(
    "more",
    [dict(seeds=200), dict(seeds=101), dict(steps=120), dict(steps=120, seeds=150), dict(steps=120, every=40)],
    ids=str,
)
@pytest.mark.parametrize("cut", [False, True], ids=["finished", "cut off"])
def test_more_steps_and_more_seeds_make_use_of_what_is_done(interrupts, monkeypatch, tmp_path, more, cut):
    whole = run(**more)
    if cut:
        interrupts["left"] = 15
        with pytest.raises(js.Interrupted):
            run(checkpoint=tmp_path)
    else:
        run(checkpoint=tmp_path)
    begun, begin = [], _work.Task.begin
    monkeypatch.setattr(_work.Task, "begin", lambda task, first: begun.append(first) or begin(task, first))
    same(run(checkpoint=tmp_path, **more), whole)
    assert 0 not in begun


def test_the_default_chunk_of_an_extension_is_that_of_the_run(tmp_path):
    run(checkpoint=tmp_path, chunk=None, seeds=50)
    same(run(checkpoint=tmp_path, chunk=None, seeds=90), run(chunk=50, seeds=90))


def test_states_too_large_to_keep_cannot_be_extended_in_time(monkeypatch, tmp_path):
    monkeypatch.setattr(_work, "_MOST_KEPT", 1000)
    run(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="steps must be 60.* were not kept"):
        run(checkpoint=tmp_path, steps=120)
    same(run(checkpoint=tmp_path, seeds=200), run(seeds=200))


OTHER = js.Problem(js.Quadratic(jnp.arange(1.0, 5.0)), js.Gaussian(0.25))
DIFFERENT = {
    "key": (dict(key=jax.random.key(1)), "key was"),
    "hyperparameter": (dict(process=js.Adam(0.05, b1=0.8, b2=0.99).sde(PROBLEM)), r"b1 was float\d+ 0.9 and is float\d+ 0.8"),
    "noise": (dict(process=ADAM.sde(OTHER)), r"scale was float\d+ 0.5 and is float\d+ 0.25"),
    "loss": (dict(process=ADAM.sde(js.Problem(lambda x: jnp.sum(x**2), js.Gaussian(0.5)))), "loss was Quadratic"),
    "model": (dict(process=ADAM.sde(PROBLEM, model="malladi")), "was"),
    "optimizer": (dict(process=js.SGD(0.05).sde(PROBLEM)), "was"),
    "start": (dict(x0=jnp.zeros(4)), "x0 was"),
    "observable": (dict(observe={"x": lambda x: 2 * x}), "observe"),
    "reducer": (dict(reduce=js.Moments(covariance=True)), "covariance was False and is True"),
    "substeps": (dict(substeps=2), r"substeps was int\d+ 1 and is int\d+ 2"),
    "chunk": (dict(chunk=16), "chunk was 32 and is 16"),
    "fewer seeds": (dict(seeds=50), "seeds were 100 and are 50"),
    "fewer steps": (dict(steps=40), "steps must be at least 60"),
    "stride": (dict(every=10), "every must be a multiple of 20, that of the checkpoint"),
    "other stride": (dict(every=60), "every must be 20"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    run(checkpoint=folder)
    return folder


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_run_is_refused_by_what_differs(monkeypatch, done, what):
    changed, message = DIFFERENT[what]
    monkeypatch.setattr(_work.Task, "advance", None)
    with pytest.raises(ValueError, match=message):
        run(checkpoint=done, **changed)


def test_another_version_of_the_numerics_is_refused(monkeypatch, done):
    versions = _provenance.versions() | {"jaxlib": "0.0.1"}
    monkeypatch.setattr(_identity, "versions", lambda: versions)
    with pytest.raises(ValueError, match=r"the version of jaxlib was .* and is 0\.0\.1"):
        run(checkpoint=done)


def test_the_same_computation_written_anew_is_the_same_run(tmp_path):
    make = lambda: js.SGD(0.1).chain(js.Problem(lambda x: jnp.sum(x**2) * jnp.asarray(2.0), js.Gaussian(0.5)))
    same(run(make(), checkpoint=tmp_path), run(make(), checkpoint=tmp_path))


def test_a_function_that_cannot_be_traced_is_known_by_its_code_and_what_it_closes_over(tmp_path):
    def chain(factor):
        def loss(x):
            jax.debug.callback(lambda _: None, x[0])
            return factor * jnp.sum(x**2)

        return js.SGD(0.1).chain(js.Problem(loss, js.Gaussian(0.5)))

    run(chain(1.0), checkpoint=tmp_path, observe={"x": lambda x: x})
    run(chain(1.0), checkpoint=tmp_path, observe={"x": lambda x: x})
    with pytest.raises(ValueError, match="factor was 1.0 and is 2.0"):
        run(chain(2.0), checkpoint=tmp_path, observe={"x": lambda x: x})


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a byte changed": lambda content: content[: len(content) // 2] + b"x" + content[len(content) // 2 + 1 :],
    "text": lambda content: b"not a checkpoint",
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(interrupts, tmp_path, how):
    interrupts["left"] = 20
    with pytest.raises(js.Interrupted):
        run(checkpoint=tmp_path, checkpoint_every=OFTEN)
    first, second = (tmp_path / name for name in _checkpoint._NAMES)
    newest = max(first, second, key=lambda path: _checkpoint._read(path.read_bytes())[0]["serial"])
    newest.write_bytes(DAMAGE[how](newest.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged"):
        again = run(checkpoint=tmp_path)
    same(again, run())


def test_no_damage_is_taken_for_a_checkpoint(done, tmp_path):
    """Bytes anywhere are changed: the file is read as it was, or not at all."""
    shutil.copytree(done, tmp_path / "run")
    (path,) = (tmp_path / "run").glob("checkpoint-*")
    whole, chance = path.read_bytes(), np.random.default_rng(0)
    about, arrays = _checkpoint._read(whole)
    refused = 0
    with contextlib.closing(_checkpoint.Checkpoint(tmp_path / "run", 60.0, {}, extensible=True)) as store:
        for _ in range(500):
            content = bytearray(whole)
            for place in chance.integers(len(whole), size=chance.integers(1, 4)):
                content[place] ^= int(chance.integers(1, 256))
            path.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found, leaves = _checkpoint._read(store._newest())
                except ValueError as error:
                    assert "no checkpoint in" in str(error)
                    refused += 1
                    continue
            assert found == about
            same(leaves, arrays)
    assert refused > 400


def test_two_damaged_checkpoints_are_an_error_and_no_silent_new_start(done, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    for name in _checkpoint._NAMES:
        (tmp_path / "run" / name).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(ValueError, match="no checkpoint in .* can be read"):
        run(checkpoint=tmp_path / "run")


@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(interrupts, monkeypatch, tmp_path, where):
    interrupts["left"] = 20
    with pytest.raises(js.Interrupted):
        run(checkpoint=tmp_path, checkpoint_every=OFTEN)

    def full(*arguments, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((_checkpoint.np, "savez") if where == "write" else (_write.os, "replace")), full)
        with pytest.raises(OSError, match="could not be written .No space left on device.*the one before it is intact"):
            run(checkpoint=tmp_path, checkpoint_every=OFTEN)
    assert {path.name for path in tmp_path.iterdir()} == {*_checkpoint._NAMES, _checkpoint._LOCK}
    same(run(checkpoint=tmp_path), run())


def test_two_runs_in_one_folder_are_refused(interrupts, tmp_path):
    def second():
        with pytest.raises(ValueError, match="another run works in"):
            run(checkpoint=tmp_path)
        raise KeyboardInterrupt

    interrupts |= {"left": 3, "act": second}
    with pytest.raises(js.Interrupted):
        run(checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (dict(checkpoint=3), TypeError, "checkpoint"),
        (dict(checkpoint="x", checkpoint_every=0), ValueError, "checkpoint_every must lie in"),
        (dict(checkpoint="x", checkpoint_every="often"), TypeError, "checkpoint_every"),
    ],
    ids=str,
)
def test_bad_arguments(more, error, message):
    with pytest.raises(error, match=message):
        run(**more)


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"):
        run(checkpoint=tmp_path / "run")


def test_a_run_within_jit_has_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="checkpoint is for runs outside of jax.jit"):
        jax.jit(lambda x: run(x0=x, checkpoint=tmp_path)["x"].mean)(jnp.ones(4))


def test_all_simulations_of_an_estimate_have_checkpoints(interrupts, monkeypatch, tmp_path):
    estimate = lambda: js.stationary(PROCESSES["chain"], jnp.ones(4), key=jax.random.key(0), seeds=64, steps=40)
    whole, cuts = estimate(), 0
    while True:
        interrupts["left"] = 4
        try:
            with js.checkpoints(tmp_path):
                law = estimate()
            break
        except js.Interrupted:
            cuts += 1
    assert cuts >= 2
    same(law.covariance, whole.covariance)
    monkeypatch.setattr(_work.Task, "advance", None)
    with js.checkpoints(tmp_path):
        same(estimate().covariance, whole.covariance)


def test_outside_of_the_main_thread_a_run_has_its_checkpoint(tmp_path):
    import threading

    thread = threading.Thread(target=lambda: run(checkpoint=tmp_path))
    thread.start()
    thread.join()
    same(run(checkpoint=tmp_path), run())


def test_a_process_waits_for_others_only_so_long(monkeypatch):
    import time

    ended = []
    monkeypatch.setattr(_together, "_PATIENCE", 0.05)
    monkeypatch.setattr(_together.os, "_exit", ended.append)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with _together.watched():
        time.sleep(0.2)
    assert ended == [1]
    with _together.watched():
        pass
    time.sleep(0.1)
    assert ended == [1]
