"""The main job: optimizer, SDE and theory side by side, as a function and as a command."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from common import BY_NAME, PROBLEM, WITH_THEORY

import jaxsde as js


@pytest.mark.parametrize("opt", WITH_THEORY, ids=lambda opt: type(opt).__name__)
@pytest.mark.sweep
def test_the_sde_follows_the_optimizer_and_theory_the_stationary_law(opt):
    # The SDE's own error is of the order of the learning rate: at most 3 % for these quantities at 0.01.
    result = js.compare(opt, PROBLEM, jnp.ones(2), steps=1200, seeds=10_000, substeps=8, key=jax.random.key(1))
    unbounded = isinstance(opt, js.Momentum)
    assert result.notes == (["no bound: there is no bound for Momentum"] if unbounded else [])
    seen = 0
    for row in result.rows:
        assert row.sde is not None and row.theory is not None
        if not row.quantity.startswith(("loss", "stationary", "convergence")):
            continue
        seen += 1
        stderr = np.hypot(row.optimizer.stderr, row.sde.stderr)
        size = 0.03 * abs(row.optimizer.value)
        assert abs(row.sde.value - row.optimizer.value) < 5 * stderr + size, row
        if row.quantity.startswith("stationary"):
            assert abs(row.theory - row.optimizer.value) < 5 * row.optimizer.stderr + size, row
    assert seen == (7 if unbounded else 8)  # with momentum the loss falls within too few records for a rate
    bound = result.bound
    assert (bound is None) == unbounded
    excess = result.optimizer.curves.loss - 5 * result.optimizer.loss_stderr
    assert bound is None or np.all(excess[1:] < bound[1:])
    assert max(map(len, js.reporting.table(result).split("\n"))) <= 100
    assert js.reporting.verdict(result)[0].startswith("The SDE follows the optimizer's loss")


def _halved(opt):
    """The optimizer at half the learning rate, its averages lasting as long in time."""
    changes = {"learning_rate": 0.005}
    changes |= {name: 1 - (1 - getattr(opt, name)) / 2 for name in ("decay", "b1", "b2") if hasattr(opt, name)}
    changes |= {name: getattr(opt, name) for name in ("initial_scale", "weight_decay") if hasattr(opt, name)}
    return type(opt)(**changes)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["sgd", "sign_sgd", "rmspropw", "adamw"])
def test_the_deviation_from_the_optimizer_is_linear_in_the_learning_rate(name):
    opt = BY_NAME[name]
    # Every row of the table, those along the way included. Says nothing of the noise's size, whose effect is linear too:
    # that is for the stationary laws above and in test_physics.
    common = dict(seeds=20_000, substeps=8, progress=False)
    whole = js.compare(opt, PROBLEM, jnp.ones(2), steps=800, every=10, key=jax.random.key(2), **common)
    half = js.compare(_halved(opt), PROBLEM, jnp.ones(2), steps=1600, every=20, key=jax.random.key(3), **common)
    assert [row.quantity for row in whole.rows] == [row.quantity for row in half.rows]

    def deviation(row):
        return row.sde.value - row.optimizer.value, np.hypot(row.sde.stderr, row.optimizer.stderr)

    for coarse, fine in zip(whole.rows, half.rows, strict=True):
        (error, stderr), (smaller, smaller_stderr) = deviation(coarse), deviation(fine)
        assert abs(error - 2 * smaller) < 5 * np.hypot(stderr, 2 * smaller_stderr), (coarse, fine)


def test_what_may_be_zero_is_off_in_per_cent_of_how_large_it_could_be():
    """Means about 0 and covariances of independent coordinates: in per cent of themselves noise alone puts them anywhere."""
    problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))
    result = js.compare(js.SGD(0.05), problem, jnp.array([1.0, 0.0]), steps=400, seeds=400, substeps=1, progress=False)
    rows = {row.quantity: row for row in result.rows}

    def off(name):
        return rows[name].sde.value - rows[name].optimizer.value, rows[name].deviation(rows[name].sde)[0] / 100

    first, second = (rows[f"stationary covariance [{i}, {i}]"].optimizer.value for i in (0, 1))
    difference, share = off("stationary covariance [0, 1]")
    assert share == pytest.approx(difference / np.sqrt(first * second)) and abs(share) < 0.1
    mean, variance = (rows[f"{name} x[1], t = 5"].optimizer.value for name in ("mean", "variance"))
    difference, share = off("mean x[1], t = 5")
    assert share == pytest.approx(difference / np.sqrt(mean**2 + variance)) and abs(share) < 0.5
    difference, share = off("stationary covariance [1, 1]")
    assert share == pytest.approx(difference / second)
    assert "\n(means in per cent of their root mean square" in js.reporting.table(result)


def test_of_many_coordinates_the_norm_of_the_mean_is_off_in_per_cent_of_the_whole_law():
    problem = js.Problem(js.Quadratic(jnp.ones(5)), js.Gaussian(1.0))
    result = js.compare(js.SGD(0.05), problem, jnp.zeros(5), steps=400, seeds=80, substeps=1, progress=False)
    row, spread = (next(row for row in result.rows if row.quantity.startswith(name)) for name in ("norm", "total"))
    assert row.scale == pytest.approx(np.sqrt(row.optimizer.value**2 + spread.optimizer.value))


def test_the_ode_is_told_from_the_sde():
    result = js.compare(BY_NAME["sign_sgd"], PROBLEM, jnp.ones(2), steps=1500, seeds=800, substeps=1, model="ode")
    row = next(row for row in result.rows if row.quantity == "stationary loss")
    assert row.sde is not None and row.sde.value < 0.1 * row.optimizer.value


def test_many_coordinates_are_summed_up_and_missing_theory_is_named(tmp_path):
    problem = js.Problem(lambda x: jnp.sum(x**4), js.Gaussian(0.1))
    result = js.compare(js.SGD(0.01), problem, jnp.ones(5), steps=40, seeds=80)
    assert any(row.quantity.startswith("total variance") for row in result.rows)
    assert result.theory is None and "no theory" in result.notes[0]
    heavy = js.compare(js.SGD(0.01), js.Problem(js.Quadratic([1.0]), js.StudentT(1.0, 0.1)), jnp.ones(1), steps=40, seeds=80)
    assert heavy.sde is None and "df" in js.reporting.table(heavy)


def test_the_command_writes_a_table_a_picture_and_a_file(tmp_path):
    command = [sys.executable, "-c", "from jaxsde.cli import main; main()", "compare", "adamw", "--out", str(tmp_path)]
    run = ("--steps", "100", "--seeds", "200", "--substeps", "1", "--hessian", "1 0; 0 2", "--model", "compagnoni-full")
    done = subprocess.run([*command, *run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stationary loss" in done.stdout
    printed, said = done.stdout.split("wrote ")
    assert max(map(len, printed.split("\n"))) <= 100
    said = " ".join(said.split())
    assert "the optimizer's loss" in said and "Its variances are" in said
    assert (tmp_path / "jaxsde-adamw-quadratic.png").stat().st_size > 10_000
    with xarray.open_dataset(tmp_path / "jaxsde-adamw-quadratic.nc", engine="h5netcdf") as data:
        assert data.optimizer_loss.shape == data.sde_loss.shape == data.theory_loss.shape == (101,)
        assert float(data.optimizer_loss[0]) == pytest.approx(1.5)
    bad = subprocess.run([*command, "--learning-rate", "-1"], capture_output=True, text=True)
    assert bad.returncode == 1 and bad.stderr.startswith("jaxsde: learning_rate")


@pytest.mark.parametrize("every", [None, 20, 25])
def test_stationary_rows_are_over_even_and_odd_steps(every):
    """Whether or not the recorded steps are all even; at even steps alone SignSGD's variance is a fourth of this."""
    problem, opt = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1)), js.SignSGD(0.2)
    result = js.compare(opt, problem, jnp.zeros(1), steps=1000, every=every, seeds=2000, substeps=1, key=jax.random.key(5))
    row = next(row for row in result.rows if row.quantity == "stationary covariance [0, 0]")
    assert abs(row.optimizer.value - js.theory.birth_death(opt, problem, 0.0).variance) < 5 * row.optimizer.stderr
    assert result.ts.size == (201 if every is None else 1000 // every + 1)
    assert result.optimizer.curves.loss.shape == result.optimizer.diverged.shape == result.ts.shape


@pytest.mark.parametrize(("steps", "every"), [(1009, None), (1009, 1009), (1500, 1500), (4099, None)])
@pytest.mark.sweep
def test_the_start_is_no_part_of_the_stationary_law(steps, every):
    """Whatever divisors the number of steps has, and whatever is recorded of them for the user."""
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    result = js.compare(js.SGD(0.1), problem, jnp.full(1, 10.0), steps=steps, every=every, seeds=400, substeps=1)
    row = next((row for row in result.rows if row.quantity == "stationary loss"), None)
    if row is None:
        assert any("too few" in note for note in result.notes)
        return
    assert abs(row.optimizer.value - 0.1 / (2 * 1.9)) < 6 * row.optimizer.stderr


def test_even_steps_alone_are_named():
    problem, opt = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1)), js.SignSGD(0.2)
    result = js.compare(opt, problem, jnp.zeros(1), steps=8192, every=1024, seeds=40, substeps=1)
    assert any("only even steps" in note for note in result.notes)


def test_a_comparison_of_diverged_seeds_is_nan_and_says_so(tmp_path):
    problem = js.Problem(lambda x: -jnp.sum(x**4), js.Gaussian(1.0))
    result = js.compare(js.SGD(0.5), problem, jnp.ones(1, jnp.float32), steps=40, seeds=80, substeps=1)
    assert any("80 of 80 seeds diverged by t = " in note and "none is left" in note for note in result.notes)
    late = [row for row in result.rows if row.quantity.startswith(("stationary", "loss"))]
    assert late and all(np.isnan(row.optimizer.value) for row in late)
    assert "nan" in js.reporting.table(result) and "large" not in js.reporting.table(result)
    js.reporting.plot(result).figure.savefig(tmp_path / "diverged.png")
    js.reporting.save(result, str(tmp_path / "diverged.nc"))
    with xarray.open_dataset(tmp_path / "diverged.nc", engine="h5netcdf") as data:
        assert np.isnan(data.optimizer_loss[-1]) and np.isnan(data.optimizer_mean[-1, 0])


def test_fewer_seeds_than_groups_are_as_many_groups():
    result = js.compare(js.SGD(0.1), js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), jnp.ones(1), steps=40, seeds=20)
    assert all(np.isfinite(row.optimizer.stderr) for row in result.rows)
