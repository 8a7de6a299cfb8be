"""Experiments, at their small scale: that they run, and that what they claim is in their tables."""

import subprocess
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.studies import Curve, Panel, Study
from jaxsde.studies._gap import gap_between


@pytest.fixture(scope="module")
def tables():
    """Experiments run once, as lists of rows by column name."""
    known = {}

    def run(name):
        if name not in known:
            study = js.studies.reproduce(name, small=True)
            known[name] = [dict(zip(study.header, row, strict=True)) for row in study.rows]
        return known[name]

    return run


@pytest.mark.sweep
def test_the_square_root_rule_holds_where_noise_dominates_and_nothing_less_does(tables):
    rows = {(row["setting"], row["batch 256 with"]): row for row in tables("scaling")}
    assert rows["noise dominates", "the rule"]["mean |z|"] < 2
    assert rows["noise dominates", "decay unscaled"]["mean |z|"] > 10
    assert rows["noise dominates", "betas unscaled"]["mean |z|"] > 3
    assert rows["noise dominates", "the rule"]["signal/noise at 256"] < 0.3
    assert rows["signal dominates", "the rule"]["mean |z|"] > 10


@pytest.mark.sweep
def test_drawn_gradients_have_the_covariance_claimed(tables):
    for row in tables("covariance"):
        assert row["largest |z|"] < 5.5
        assert abs(row["trace, drawn / claimed"] - 1) < 5.5 * row["s.e."]
        assert 5.5 * row["s.e."] < 0.03  # what is 3 % off would be seen


@pytest.mark.sweep
def test_svag_tends_to_the_sde(tables):
    rows = {(row["optimizer"], row["process"]): row for row in tables("svag")}
    for name, last in (("SGD", 16), ("RMSprop", 4)):
        far, near = (abs(rows[name, f"SVAG, l = {ell}"]["mean off %"]) for ell in (1, last))
        error = rows[name, f"SVAG, l = {last}"]
        chance = 100 * error["s.e."] / error["mean loss"]
        assert near < 5.5 * np.sqrt(2) * chance + 1
        assert far > 7 * np.sqrt(2) * chance and far > 3 * near  # it has a way to go, and goes it


@pytest.mark.sweep
def test_advice_is_kept(tables):
    """What it promises stays within its tolerance; AdamW's rule, not promised from 16 to 64, does not."""
    rows = {(row["optimizer"], row["batch"]): row for row in tables("advice")}
    promised = [row for row in rows.values() if row["promised"] == "yes"]
    assert len(promised) >= 2
    assert all(row["gap/decrease"] < 0.1 + row["chance"] for row in promised)
    refused = rows["AdamW", 16.0]
    assert refused["promised"] == "no" and "signal" in refused["why not"]
    assert refused["gap/decrease"] > 0.08 > 5 * refused["chance"]


@pytest.mark.sweep
def test_heavy_tails(tables):
    rows = {(row["nu"], row["optimizer"]): row for row in tables("tails")}
    assert rows[1.0, "SGD"]["largest"] > 1e3
    for nu in (1.0, 2.0):
        row = rows[nu, "SignSGD"]
        assert row["largest"] < 2
        error, mean = float(row["s.e."]), row["mean loss"]
        assert abs(mean - float(row["SDE's mean"])) < 5.5 * np.sqrt(2) * error + 0.01 * mean
        assert abs(mean - float(row["closed form"])) < 5.5 * error + 0.02 * mean
        assert 5.5 * np.sqrt(2) * error < 0.2 * mean  # the slope of the normal law at 0 would be seen


def test_phases(tables):
    for row, gap in zip(tables("phases"), (2e-6, 5e-5, 5e-4), strict=True):
        assert row["gap / decrease"] < gap  # by a few times its standard error, which grows with the noise
        assert row["final loss"] < row["bound"] and row["SDE"] < row["bound"]
        assert abs(row["final loss"] - row["SDE"]) < 5.5 * np.sqrt(2) * row["s.e."] + 0.01 * row["SDE"]
    first, second, third = (row["loss / its bound"] for row in tables("phases"))
    assert first < 1.001 and second < 1.001 and third == "never inside"


def test_an_unknown_experiment_is_named():
    with pytest.raises(ValueError, match="nonsense"):
        js.studies.reproduce("nonsense")


CURVES = [Curve("a", np.arange(3.0), np.ones(3), 0.1 * np.ones(3)), Curve("b", np.arange(4.0), np.ones(4))]
ROWS: list = [("one", 1.23456), ("two", 2.0)]
STUDY = Study("A study", "one is two", ("what", "value"), ROWS, [Panel("left", "t", "y", CURVES)], ["a note"])


def test_a_study_as_text():
    lines = js.reporting.study_table(STUDY).splitlines()
    assert lines[0] == "A study" and lines[-2:] == ["note: a note", "one is two."]
    assert lines[3].split() == ["one", "1.235"]


def test_a_study_as_a_page():
    page = js.reporting.study_document(STUDY._replace(header=("what", "|value|")), "make it", "picture.png")
    assert (
        page.startswith("# A study\n\n**one is two.**\n")
        and "`make it`" in page
        and "- a note\n" in page
        and "](picture.png)" in page
    )
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert table == ["| what | \\|value\\| |", "|---|---|", "| one | 1.235 |", "| two | 2 |"]


def test_a_study_as_a_picture_and_as_a_file(tmp_path):
    xarray = pytest.importorskip("xarray")
    figure = js.reporting.plot_study(STUDY)
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
    path = str(tmp_path / "study.nc")
    js.reporting.save_study(STUDY, path)
    with xarray.open_dataset(path, engine="h5netcdf") as read:
        np.testing.assert_array_equal(read["panel_0_spread_0"], 0.1 * np.ones(3))
        assert read["panel_0_curve_1"].attrs["label"] == "b"
        assert list(read["table_1"].values) == [1.23456, 2.0] and list(read["table_0"].values) == ["one", "two"]


def _run(mean, std, seeds):
    """A run's record of the loss, made by hand."""
    times = jnp.arange(len(mean))
    loss = SimpleNamespace(mean=np.array(mean), variance=np.array(std) ** 2)
    return js.Ensemble(1.0 * times, times, 0 * times, seeds, {"loss": loss})


def test_a_gap_by_hand():
    """Averages are over times after the start, and an ODE of one seed has no error of its own."""
    chain = _run([5.0, 3.0, 1.0], [0.0, 0.5, 1.5], 16)
    gap = gap_between(chain, _run([9.0, 3.5, 0.5], [7.0, 1.0, 2.0], 64))
    assert gap.to_spread == 0.5 and gap.to_decrease == 0.125 and gap.spread_ratio == 1.5
    # Against the definition: mean losses of equal laws, as normal variables.
    draws = np.random.default_rng(0).standard_normal((2, 400_000)) / np.sqrt([[16], [64]])
    np.testing.assert_allclose(gap.chance, np.abs(draws[0] - draws[1]).mean(), rtol=0.01)
    lone = gap_between(chain, _run([5.0, 3.5, 0.5], [np.nan] * 3, 1))
    assert lone.spread_ratio == 0.0 and lone.to_spread == 0.5
    np.testing.assert_allclose(lone.chance, np.abs(draws[0]).mean(), rtol=0.01)


def _command(*arguments):
    command = [sys.executable, "-c", "from jaxsde.cli import main; main()", "reproduce", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_command_lists_experiments():
    shown = _command("--list").stdout
    assert all(name in shown for name in js.studies.EXPERIMENTS)


@pytest.mark.parametrize("name", ["nonsense", ""])
def test_the_command_refuses_in_one_line(name):
    refused = _command(name)
    assert refused.returncode != 0 and "--list" in refused.stderr and "Traceback" not in refused.stderr


def test_the_command_writes_a_picture_and_a_file(tmp_path):
    pytest.importorskip("matplotlib")
    xarray = pytest.importorskip("xarray")
    done = _command("phases", "--small", "--out", str(tmp_path / "new"))
    assert done.returncode == 0 and "three phases" in done.stdout, done.stderr
    assert (tmp_path / "new" / "jaxsde-phases.png").stat().st_size > 10_000
    with xarray.open_dataset(tmp_path / "new" / "jaxsde-phases.nc", engine="h5netcdf") as read:
        assert read["table_0"].size == 3
