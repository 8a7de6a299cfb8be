"""The arguments of the command line, through its entry point."""

import inspect
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from common import BY_NAME, PROBLEM, WITH_SDE

import jaxsde as js
from jaxsde import _commands, _registry, cli

COMMANDS = ["compare", "stationary", "weak-error"]


def _call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["jaxsde", *arguments])
    cli.main()


@pytest.fixture
def parsed(monkeypatch):
    """Parses a command line and returns its arguments, without the work that they ask for."""

    def parse(command, *arguments):
        caught = []
        monkeypatch.setattr(_commands, cli._COMMANDS[command][1], caught.append)
        _call(monkeypatch, command, *arguments)
        return caught[0]

    return parse


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", [name for name, opt in BY_NAME.items() if opt.models])
def test_every_command_takes_every_model_of_every_optimizer(name, command, parsed):
    opt = BY_NAME[name]
    for model in opt.models:
        built, problem, _ = parsed(command, name, "--model", model).build()
        assert type(built) is type(opt)
        built.sde(problem, model)


@pytest.mark.parametrize("opt", WITH_SDE, ids=lambda opt: type(opt).__name__)
def test_an_optimizer_documents_its_models_and_refuses_others(opt):
    described = inspect.getdoc(type(opt).sde)
    if "see [`" in described:  # Adam's are AdamW's
        described = inspect.getdoc({"Adam": js.AdamW, "RMSprop": js.RMSpropW}[type(opt).__name__].sde)
    assert all(f'"{model}"' in described for model in opt.models)
    with pytest.raises(ValueError, match=f"{type(opt).__name__}'s model must be one of '{opt.models[0]}', .* got 'none'"):
        opt.sde(PROBLEM, "none")


def test_an_optimizer_of_ones_own_needs_no_list_of_models():
    class Half(js.optimizers.AbstractOptimizer):
        learning_rate: object = 0.5
        reference_rate: object = None

        def transform(self):
            return js.SGD(0.5).transform()

        def sde(self, problem, model="compagnoni"):
            self.check_model(model)
            return js.SGD(0.5).sde(problem)

    assert Half().sde(PROBLEM).start_steps == 0
    with pytest.raises(ValueError, match="Half's model must be one of 'compagnoni', got 'ode'"):
        Half().sde(PROBLEM, "ode")


@pytest.mark.parametrize("noise", _registry.NOISES)
@pytest.mark.parametrize("name", _registry.PROBLEMS)
def test_every_problem_of_the_registry_takes_every_noise_at_its_own_scale(name, noise, parsed):
    row = _registry.PROBLEMS[name]
    for problem, x0 in (
        _registry.make_problem(name, noise, df=5.0, alpha=1.8),
        parsed("compare", "sgd", "--problem", name, "--noise", noise, "--df", "5", "--alpha", "1.8").build()[1:],
    ):
        problem.validate(x0)
        assert np.isfinite(problem.loss(x0))
        assert problem.noise.scale == pytest.approx(row.noise_scale)
        for number in _registry.NOISES[noise][1]:
            assert float(getattr(problem.noise, number)) == pytest.approx({"df": 5.0, "alpha": 1.8}[number])


def test_an_optimizer_without_models_is_run_as_a_chain_alone():
    class Alone(js.SGD):
        models = ()

        def sde(self, problem, model="compagnoni"):
            self.check_model(model)
            raise AssertionError

    with pytest.raises(ValueError, match="Alone declares no models of an SDE"):
        Alone(0.1).sde(PROBLEM)
    result = js.compare(Alone(0.1), PROBLEM, jnp.ones(2), steps=8, seeds=40, progress=False)
    assert result.sde is None and result.notes[0] == "no SDE: Alone declares no models of an SDE"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_that_the_optimizer_lacks_is_an_error_that_names_those_it_has(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        _call(monkeypatch, command, "sign_sgd", "--model", "malladi")
    models = "'compagnoni', 'second-order', 'ode', 'phase-1', 'phase-3'"
    assert caught.value.code == f"jaxsde: SignSGD's model must be one of {models}, got 'malladi'"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_that_no_optimizer_has_is_not_taken_and_help_lists_them_all(command, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        _call(monkeypatch, command, "adam", "--model", "compagnioni")
    assert caught.value.code == 2
    assert "compagnoni-full" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _call(monkeypatch, command, "--help")
    shown = capsys.readouterr().out
    for opt in WITH_SDE:
        assert all(model in shown for model in opt.models)


@pytest.mark.parametrize(
    "arguments, hessian",
    [
        ([], [1.0, 2.0]),
        (["--hessian", "3"], [3.0]),
        (["--hessian", "-1", "2", "1e-3"], [-1.0, 2.0, 1e-3]),
        (["--hessian", "1 2"], [1.0, 2.0]),
        (["--hessian", "2 .5; .5 1"], [[2.0, 0.5], [0.5, 1.0]]),
        (["--hessian", "-2 .5;.5 1"], [[-2.0, 0.5], [0.5, 1.0]]),
        (["--hessian", "2", ".5", ";", ".5", "1"], [[2.0, 0.5], [0.5, 1.0]]),
    ],
)
def test_the_hessian_is_a_diagonal_or_a_matrix(arguments, hessian, parsed):
    _, problem, x0 = parsed("compare", "sgd", *arguments).build()
    np.testing.assert_array_equal(problem.loss.hessian, jnp.asarray(hessian))
    assert x0.shape == (len(hessian),)


@pytest.mark.parametrize(
    "hessian, message",
    [
        ("1 x", r"--hessian takes the numbers of a diagonal, .*, or a matrix, .* got '1 x'"),
        ("2 .5; .5 1;", "--hessian takes"),
        ("", "--hessian takes"),
        ("2 .5; .5", "--hessian must be a square matrix: 2 rows need 2 numbers each, got '2 .5; .5'"),
        ("1 2 3; 4 5 6", "square matrix: 2 rows"),
        ("2 .5; .4 1", "hessian must be symmetric"),
    ],
)
def test_what_is_no_hessian_is_an_error_that_says_why(hessian, message, parsed):
    arguments = parsed("stationary", "sgd", "--hessian", hessian)
    with pytest.raises(ValueError, match=message):
        arguments.build()


def test_the_exact_law_beside_an_sde_is_that_of_its_model():
    problem, opt = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), js.SignSGD(0.5)
    exact = {model: _commands._stationary._exact(opt, problem, model, 0.0) for model in (None, "phase-3", "ode")}
    assert exact[None]["SDE"].variance == pytest.approx(0.2967, rel=1e-3)
    assert exact["phase-3"]["SDE"].variance == pytest.approx(0.2612, rel=1e-3)
    assert set(exact["ode"]) == {"optimizer"}  # an ODE has no density


def test_advice_for_a_network(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = (
        "--data breast_cancer --examples 120 --after 5 --draws 16 --batch 4 --to 8 --optimizer adamw --set b1=.5".split()
    )
    _call(monkeypatch, "advise", *arguments, "--out", str(tmp_path))
    shown = " ".join(capsys.readouterr().out.split())
    assert "adamw on a mlp after 5 steps on 120 examples of breast_cancer, in batches of 4" in shown
    assert "Batch. From 4 to 8: AdamW(learning_rate=0.001414, b1=0, b2=0.98," in shown
    assert (tmp_path / "jaxsde-advise-adamw-mlp-breast_cancer.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "cnn", "--data", "breast_cancer"], "cnn takes images, and those of breast_cancer are none"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--set", "bb=1"], "adamw has no hyperparameter 'bb'"),
        (["--optimizer", "sgd", "--learning-rate", "1e4", "--after", "20", "--examples", "50"], "training diverged within 20"),
    ],
)
def test_advice_that_cannot_be_given_says_why(arguments, message, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        _call(monkeypatch, "advise", *arguments, "--out", str(tmp_path))
    assert message in f"{stopped.value} {capsys.readouterr().err}"
