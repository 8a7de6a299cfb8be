"""Optimizers by Optax's factories: what their hyperparameters do, and what others do with them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import ONE_DEVICE, PROBLEM, interrupt_before_chunk

import jaxsde as js
from jaxsde.estimation._weak_error import at_rate
from jaxsde.optimizers import Roles

X0 = jnp.array([1.0, -1.0])
ONE = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))


def _signum(learning_rate, beta=0.9):
    """`optax.signum`, which came after the oldest Optax allowed."""
    return js.Signum(learning_rate, beta).transform()


@pytest.mark.parametrize(
    "factory, settings, roles",
    [
        (optax.sgd, {}, Roles(svag=True)),
        (optax.sgd, dict(momentum=0.9), Roles()),  # of a sum: nearer 1 it makes steps longer
        (optax.sign_sgd, {}, Roles(normalised=True)),
        (_signum, {}, Roles(normalised=True, averages=("beta",))),
        (optax.lion, {}, Roles(normalised=True, averages=("b1", "b2"), decays=("weight_decay",))),
        (optax.adagrad, {}, Roles(normalised=True, squares=("eps", "initial_accumulator_value"))),
        (optax.rmsprop, {}, Roles(normalised=True, averages=("decay",), squares=("eps", "initial_scale"), svag=True)),
        (optax.rmsprop, dict(momentum=0.5), Roles(normalised=True, averages=("decay",), squares=("eps", "initial_scale"))),
        (optax.optimistic_gradient_descent, dict(beta=0.5), Roles()),
    ],
)  # fmt: skip
def test_what_the_hyperparameters_do_is_found_out(factory, settings, roles):
    assert js.optimizers.roles_of(js.Optax(factory, 0.1, **settings), "this is") == roles


def test_adam_has_the_roles_of_the_packages_own():
    opt = js.Optax(optax.adam, 0.1)
    assert opt.roles == js.Adam.roles._replace(squares=("eps_root",))
    assert {"b1", "b2", "eps"} <= set(opt.numbers)  # whose defaults are data


def test_roles_serve_scaling_rules_svag_and_weak_errors():
    opt = js.Optax(optax.rmsprop, 0.01, decay=0.9, eps=1e-4)
    other = js.theory.scaled(opt, 4.0)
    assert [float(v) for v in (other.learning_rate, other.numbers["decay"])] == pytest.approx([0.02, 0.6])
    assert float(other.numbers["eps"]) == pytest.approx(1e-4 / 4)  # beside the square
    assert float(at_rate(opt, 0.02).numbers["decay"]) == pytest.approx(0.8)
    assert js.svag(opt, PROBLEM, 2).learning_rate == pytest.approx(0.01 / 4)
    with pytest.raises(ValueError, match="SVAG does not tend to an SDE of lion"):
        js.svag(js.Optax(optax.lion, 0.01), PROBLEM, 2)
    kept = js.theory.scaled(js.Optax(optax.sgd, 0.01, momentum=0.9), 4.0)
    assert float(kept.numbers["momentum"]) == pytest.approx(0.9) and float(kept.learning_rate) == pytest.approx(0.04)


def test_svag_of_optaxs_sgd_is_that_of_the_packages_own():
    run = dict(steps=8, seeds=64, key=jax.random.key(0), progress=False)
    mine, theirs = (
        js.simulate(js.svag(opt, PROBLEM, 4), X0, **run)["x"].mean for opt in (js.SGD(0.1), js.Optax(optax.sgd, 0.1))
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_roles_that_cannot_be_found_out_are_asked_for():
    with pytest.raises(ValueError, match="hyperparameters of momo do is not known: its updates cannot be tried .* roles="):
        js.theory.scaled(js.Optax(optax.contrib.momo, 0.1), 4.0)
    with pytest.raises(ValueError, match="betas is no number: say what it does with roles="):
        js.theory.scaled(js.Optax(optax.contrib.prodigy, 0.1, betas=(0.9, 0.99)), 4.0)
    with pytest.raises(ValueError, match=r"roles must be of .* numbers, \['momentum'\], got \('b1',\)"):
        js.Optax(optax.sgd, 0.1, momentum=0.9, roles=Roles(averages=("b1",)))
    mine = js.Optax(optax.sgd, 0.1, momentum=0.9, roles=Roles(averages=("momentum",)))
    assert float(js.theory.scaled(mine, 2.0).numbers["momentum"]) == pytest.approx(0.8)


class Own(js.Optax):
    """Which declares nothing."""


def test_a_subclass_inherits_no_roles():
    with pytest.raises(ValueError, match="not known for the optimizer Own, only for .*Optax"):
        js.theory.scaled(Own(optax.sgd, 0.1), 4.0)


def test_a_hyperparameter_without_a_hash_is_refused_in_words():
    with pytest.raises(TypeError, match="mask must have a hash.*functools.partial\\(adamw, mask=...\\)"):
        js.Optax(optax.adamw, 0.1, mask={"a": True})


def test_whole_numbers_for_what_is_a_number_are_data():
    assert float(js.Optax(optax.adamw, 0.1, weight_decay=1).numbers["weight_decay"]) == 1.0


def my_factory(learning_rate, b1=0.9, nesterov=False):
    return optax.sgd(learning_rate, momentum=b1, nesterov=nesterov)


OPT = js.Optax(my_factory, 0.1, b1=0.5, nesterov=True)


def test_files_say_which_factory_with_which_settings(tmp_path):
    run = dict(steps=4, seeds=8, key=jax.random.key(0), progress=False)
    for process in (OPT.chain(PROBLEM), OPT.sde(PROBLEM)):
        ensemble = js.simulate(process, X0, **run)
        path = tmp_path / f"{type(process).__name__}.nc"
        ensemble.save(path)
        loaded = js.load(path)
        np.testing.assert_array_equal(loaded["x"].mean, ensemble["x"].mean)
        words = json.loads(json.dumps(loaded.provenance, allow_nan=False))["process"]["optimizer"]
        assert words["class"] == "jaxsde.optimizers.Optax" and words["factory"]["function"].endswith("my_factory")
        assert words["numbers"] == {"b1": 0.5} and words["settings"] == [["nesterov", True]]
        assert words["learning_rate"] == pytest.approx(0.1)


def test_a_checkpoint_is_of_a_factory_and_its_settings(tmp_path, monkeypatch):
    run = dict(steps=8, seeds=32, chunk=8, key=jax.random.key(0), progress=False, mesh=ONE_DEVICE)
    whole = js.simulate(OPT.sde(PROBLEM), X0, **run)
    with monkeypatch.context() as patch:
        interrupt_before_chunk(2, patch)
        with pytest.raises(js.Interrupted):
            js.simulate(OPT.sde(PROBLEM), X0, checkpoint=tmp_path, **run)
    for other in (js.Optax(my_factory, 0.1, b1=0.5), js.Optax(my_factory, 0.1, b1=0.6, nesterov=True)):
        with pytest.raises(ValueError, match="nesterov|b1"):
            js.simulate(other.sde(PROBLEM), X0, checkpoint=tmp_path, **run)
    again = js.Optax(my_factory, 0.1, b1=0.5, nesterov=True)
    np.testing.assert_array_equal(js.simulate(again.sde(PROBLEM), X0, checkpoint=tmp_path, **run)["x"].mean, whole["x"].mean)


def test_a_comparison_is_reported_and_saved_under_the_factorys_name(tmp_path):
    result = js.compare(js.Optax(optax.sgd, 0.1), ONE, X0[:1], steps=40, seeds=80, substeps=1, progress=False)
    assert result.title.startswith("sgd on Quadratic") and result.settings["model"] == "derived"
    assert result.sde is not None and "sgd on" in js.reporting.table(result)
    assert js.reporting.verdict(result) and js.reporting.plot(result) is not None
    js.reporting.save(result, tmp_path / "a.nc")


def test_what_the_sde_depends_on_is_seen_before_it_is_simulated():
    problem = js.Problem(lambda w: jnp.sum(w**2), js.Gaussian(0.1))
    run = dict(steps=4, seeds=4, substeps=1, progress=False)
    result = js.compare(js.Optax(optax.contrib.muon, 0.1), problem, jnp.ones((3, 2)), **run)
    assert result.sde is None and any("mixes coordinates" in note for note in result.notes)


@pytest.mark.sweep
def test_a_stationary_law_and_a_weak_error():
    opt, key = js.Optax(optax.sgd, 0.1), jax.random.key(0)
    law = js.stationary(opt.chain(ONE), jnp.zeros(1), key=key, seeds=64, progress=False)
    assert float(law.covariance[0, 0]) == pytest.approx(0.1 / 1.9, abs=5 * float(law.stderr.covariance[0, 0]))
    error = js.weak_error(opt, ONE, jnp.full(1, 2.0), T=1.0, learning_rates=(0.2, 0.1), seeds=64, key=key, progress=False)
    assert error.title.startswith("sgd on") and abs(error["loss"].modelling[0]) < 0.05
