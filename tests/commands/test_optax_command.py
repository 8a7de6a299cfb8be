"""Optimizers on the command line by Optax's factories and by a user's own, and --set."""

import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde import _commands, cli
from jaxsde._commands._setup import Setup

OWN = """
import optax

def my_transform(learning_rate, b1=0.9, nesterov=False, name="x"):
    return optax.sgd(learning_rate, momentum=b1, nesterov=nesterov)

made = optax.sgd(0.1)
"""


@pytest.fixture(autouse=True)
def in_a_folder_with_a_module(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    (tmp_path / "my_module.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("1 / 0")


def _call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["jaxsde", *arguments])
    cli.main()


@pytest.fixture
def built(monkeypatch):
    """The optimizer of a command line, without the work that it asks for."""

    def build(*arguments):
        caught = []
        monkeypatch.setattr(_commands, "run_compare", caught.append)
        _call(monkeypatch, "compare", *arguments)
        return caught[0].build()[0]

    return build


def test_optaxs_factories_by_name(built):
    for name, factory in (("optax:lion", optax.lion), ("optax:adan", optax.adan), ("optax:acprop", optax.contrib.acprop)):
        opt = built(name, "--learning-rate", ".02")
        assert isinstance(opt, js.Optax) and opt.factory is factory and float(opt.rate) == pytest.approx(0.02)
    assert built("optax.contrib:acprop").factory is optax.contrib.acprop


def test_hyperparameters_by_name(built):
    words = ("--set", "b1=.95", "nesterov=true", "--set", "name=None", "--learning-rate", "1e-3")
    opt = built("my_module:my_transform", *words)
    assert opt.called == "my_transform" and float(opt.numbers["b1"]) == pytest.approx(0.95)
    assert dict(opt.settings) == {"nesterov": True, "name": None}
    numbers = built("optax:adamw", "--set", "b1=1e-1", "weight_decay=1", "mu_dtype=bfloat16")
    assert float(numbers.numbers["weight_decay"]) == 1.0 and dict(numbers.settings) == {"mu_dtype": "bfloat16"}
    whole = built("optax:adafactor", "--set", "min_dim_size_to_factor=2")
    assert dict(whole.settings) == {"min_dim_size_to_factor": 2}


def test_set_is_for_the_registrys_optimizers_too(built):
    opt = built("adam", "--set", "b1=.8", "--b2", ".9")
    assert type(opt) is js.Adam and [float(opt.b1), float(opt.b2)] == pytest.approx([0.8, 0.9])
    assert float(built("rmsprop", "--set", "initial_scale=2").initial_scale) == 2.0


@pytest.mark.parametrize(
    "words, message",
    [
        (["lion"], "optimizer must be one of 'sgd', .*; or optax:NAME, .*; or MODULE:FACTORY, .*(did you mean optax:lion?)"),
        (["sing_sgd"], "(did you mean sign_sgd?)"),
        (["optax:adamm"], "Optax .* has no 'adamm' (did you mean optax:adam?)"),
        (["optax:"], "optimizer must be one of"),
        (["my_modul:f"], "there is no module my_modul, .* (did you mean my_module?)"),
        (["my-module:f"], "'my-module' is no name of a module: give MODULE:FACTORY"),
        (["broken:f"], "importing broken raised ZeroDivisionError"),
        (["my_module:my_transfrom"], "my_module has no 'my_transfrom' (did you mean my_module:my_transform?)"),
        (["my_module:made"], "my_module:made must be a function of learning_rate"),
        (["optax:clip"], "optax:clip takes no learning_rate"),
        (["optax:schedule_free"], "optax:schedule_free needs base_optimizer"),
        (["optax:lion", "--set", "b11=.9"], "has no hyperparameter 'b11' (did you mean b1?); it takes b1, b2,"),
        (["optax:lion", "--set", "b1"], "--set takes NAME=VALUE, as in --set b1=.95, got 'b1'"),
        (["optax:lion", "--set", "b1=.9", "b1=.8"], "--set gives b1 twice"),
        (["optax:lion", "--set", "learning_rate=.9"], "the learning rate is given as --learning-rate"),
        (["optax:lion", "--b1", ".8"], "--b1 is not for optax:lion: give its own hyperparameters as --set NAME=VALUE"),
        (["adam", "--set", "b3=.9"], "adam has no hyperparameter 'b3'; it takes b1, b2, eps"),
        (["adam", "--set", "b1=fast"], "adam: b1 must be one number, got 'fast'"),
        (["sgd", "--set", "momentum=.9"], "sgd has no hyperparameter 'momentum'; it has none but the learning rate"),
        (["optax:momo"], "optax:momo: the transform cannot be run with the gradient and the parameters alone"),
        (["optax:dpsgd", "--set", "l2_norm_clip=1.", "noise_multiplier=1.", "seed=0"], "a gradient for each example"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)  # fmt: skip
def test_what_is_wrong_is_an_error_in_a_line_at_once(words, message, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        _call(monkeypatch, "stationary", *words)
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]  # some of Optax's factories warn
    position = 0
    for part in message.split(".*"):
        assert part in line[position:], line
        position = line.index(part, position)


@pytest.mark.parametrize("name", ["optax:lion", "optax.contrib:muon", "my_module:my_transform"])
def test_names_of_files_are_words(name):
    assert Setup(name).label == name.replace(":", "-").replace(".", "-")


def test_a_comparison_from_the_command_line(monkeypatch, capsys, tmp_path):
    small = ("--steps", "40", "--seeds", "40", "--substeps", "1", "--hessian", "1")
    _call(monkeypatch, "compare", "optax:sgd", "--set", "momentum=.5", *small)
    printed = capsys.readouterr().out
    assert printed.startswith("sgd on Quadratic") and "not known for the optimizer sgd" in printed
    names = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("jaxsde"))
    assert names == ["jaxsde-optax-sgd-quadratic.nc", "jaxsde-optax-sgd-quadratic.png"]


def test_a_chain_without_an_sde_is_shown_and_says_why(monkeypatch, capsys):
    small = ("--steps", "8", "--seeds", "40", "--substeps", "1")
    _call(monkeypatch, "compare", "optax:noisy_sgd", "--set", "seed=1", *small)
    assert "no SDE: the transform draws noise of its own" in capsys.readouterr().out


def test_a_caution_is_a_line_without_code(monkeypatch, capsys):
    def warn(arguments):
        optimizer, problem, x0 = arguments.build()
        optimizer.sde_for(problem, "derived", jnp.asarray(np.ones(6)))

    monkeypatch.setattr(_commands, "run_compare", warn)
    _call(monkeypatch, "compare", "optax:rmsprop", "--set", "decay=.5")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxsde: warning: the derived SDE may be far from the optimizer")
