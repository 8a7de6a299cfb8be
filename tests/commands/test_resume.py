"""Commands that are cut off, and the devices that they run on."""

import sys

import jax
import pytest

from jaxsde import cli
from jaxsde.simulation import _devices, _loop, _work

QUICK = ("--steps", "40", "--seeds", "64")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own_on_one_device(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_devices, "all_devices", lambda: None)


def _call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["jaxsde", *arguments])
    cli.main()


def _cut_off(monkeypatch, at):
    """Cuts the work off at the look of this number, of which a small run has two for a chunk, or three."""
    look_in, looks = _loop._Pace.look_in, [0]

    def cut(pace, made, is_due):
        looks[0] += 1
        if looks[0] == at:
            raise KeyboardInterrupt
        return look_in(pace, made, is_due)

    monkeypatch.setattr(_loop._Pace, "look_in", cut)


COMMANDS = {
    "compare": ("compare", "sgd", *QUICK, "--substeps", "1", "--force"),
    "stationary": ("stationary", "sgd", *QUICK, "--substeps", "1", "--force"),
    "weak-error": ("weak-error", "sgd", "--seeds", "64", "--substeps", "1", "--learning-rates", ".2", ".1", "--force"),
}


@pytest.mark.parametrize(
    "command", ["compare", *(pytest.param(n, marks=pytest.mark.sweep) for n in COMMANDS if n != "compare")]
)
def test_a_command_that_was_cut_off_goes_on_and_prints_the_same(command, monkeypatch, capsys, tmp_path):
    words = COMMANDS[command]
    _call(monkeypatch, *words)
    whole = capsys.readouterr().out
    with monkeypatch.context() as patch:
        _cut_off(patch, 4)
        with pytest.raises(SystemExit) as end:
            _call(monkeypatch, *words, "--checkpoint", "state")
    assert end.value.code == 130
    assert "from where the same call goes on" in capsys.readouterr().err
    _call(monkeypatch, *words, "--checkpoint", "state")
    assert capsys.readouterr().out == whole
    monkeypatch.setattr(_work.Task, "advance", None)  # all is read
    _call(monkeypatch, *words, "--checkpoint", "state")
    assert capsys.readouterr().out == whole


def test_an_interrupted_comparison_hands_over_what_it_has_and_writes_no_file(monkeypatch, capsys, tmp_path):
    from jaxsde.simulation import _simulate

    monkeypatch.setattr(_simulate, "chunk_size", lambda *_: 32)
    _cut_off(monkeypatch, 9)
    with pytest.raises(SystemExit) as end:
        _call(monkeypatch, "compare", "sgd", *QUICK, "--substeps", "1")
    printed = capsys.readouterr()
    assert end.value.code == 130
    assert "interrupted: the SDE's numbers are those of" in printed.out and "of 64 seeds" in printed.out
    assert "interrupted after" in printed.err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_verification_says_what_it_covers(monkeypatch, capsys):
    from jaxsde.studies import _verify

    check, checks = _verify.Outcome, []

    def second(*parts):
        checks.append(None)
        if len(checks) == 2:
            raise KeyboardInterrupt
        return check(*parts)

    monkeypatch.setattr(_verify, "Outcome", second)
    with pytest.raises(SystemExit):
        _call(monkeypatch, "verify", "--quick", "--only", "sgd")
    assert "interrupted; what was checked: 1 statements" in capsys.readouterr().out


@pytest.mark.parametrize("given", [(), ("0",), ("-1",), ("two",), ("1.5",)], ids=str)
def test_a_number_of_devices_that_is_none(given, monkeypatch):
    with pytest.raises(SystemExit, match="--devices must be a whole number from 1 on, or auto, got"):
        _call(monkeypatch, "compare", "sgd", "--devices", *given)


@pytest.mark.parametrize(("given", "number"), [("3", 3), ("auto", None)])
def test_devices_take_effect_before_jax_starts_and_are_no_argument_of_the_command(given, number, monkeypatch):
    taken = {}
    monkeypatch.setattr(jax.config, "update", taken.__setitem__)
    assert cli._use_devices(["sgd", "--devices", given, "--seeds", "4"]) == ["sgd", "--seeds", "4"]
    assert taken["jax_num_cpu_devices"] == number or (number is None and taken["jax_num_cpu_devices"] >= 1)
