"""The statements of the theory: the quick selection holds, verdicts are what they should be, the command prints them."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import jaxsde as js
from jaxsde.studies import Outcome, Series, Sweep, Verdict, Verification, sweep_study
from jaxsde.studies._statement import STATEMENTS, Finding, Statement, below, equal, exponent, first_order


@pytest.mark.sweep
def test_the_quick_selection_comes_out_as_known(tmp_path):
    command = [sys.executable, "-c", "from jaxsde.cli import main; main()", "verify"]
    run = subprocess.run(
        [*command, "--quick", "--document", "new/claims.md"], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all as known" in run.stdout
    assert run.stdout.count("FAILS, as known") >= 2
    page = (tmp_path / "new" / "claims.md").read_text()
    assert page.count("| **fails**") == run.stdout.count("FAILS, as known")
    assert sum(f"| {s.name} |" in page for s in STATEMENTS) == sum(s.quick for s in STATEMENTS)


def test_there_are_enough_statements_and_none_twice():
    assert len(STATEMENTS) >= 40
    assert len({s.name for s in STATEMENTS}) == len(STATEMENTS)
    assert {s.section for s in STATEMENTS} >= set(range(2, 10))


def test_the_page_of_claims_has_them_all():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "claims.md").read_text()
    assert all(f"| {s.name} |" in page for s in STATEMENTS)
    assert all(f"`jaxsde verify --only {s.group}`" in page for s in STATEMENTS)


def test_a_page_of_claims_by_hand():
    one = Statement("a claim", "sgd", 2, "Lemma 1", "|x| = 1", Verdict.HOLDS, True, lambda budget: None)
    found = (Finding(1.0, 1.25, 0.01, verdict, "off") for verdict in (Verdict.FAILS, Verdict.HOLDS))
    outcomes = [Outcome(one, finding, seconds) for finding, seconds in zip(found, (3.0, 70.0), strict=True)]
    rows = js.reporting.verification_document(Verification(outcomes, 0)).splitlines()[-2:]
    assert rows == [
        "| a claim | \\|x\\| = 1 | Lemma 1; section 2 | 1 | 1.25 ± 0.01 | **fails**, otherwise than known (off) |",
        "| a claim | \\|x\\| = 1 | Lemma 1; section 2 | 1 | 1.25 ± 0.01 | holds (off) |",
    ]


def test_experiments_name_the_statements_that_judge_them():
    named = [name for experiment in js.studies.EXPERIMENTS.values() for name in experiment.statements]
    assert len(named) > 15 and len(set(named)) == len(named)
    assert set(named) <= {s.name for s in STATEMENTS}


def test_a_sweep_is_shown_with_its_theory():
    scales = np.array([1.0, 4.0])
    sweep = Sweep("A sweep", "loss", scales, {"SGD": Series(np.array([2.2, 8.0]), np.array([0.1, 0.2]), lambda s: 2 * s)})
    study = sweep_study(sweep)
    np.testing.assert_allclose([row[1:] for row in study.rows], [(1, 2.2, 0.1, 2, 10), (4, 8, 0.2, 8, 0)], atol=1e-12)
    simulated, theory = study.panels[0].curves
    np.testing.assert_allclose(simulated.spread, [0.5, 1.0])
    np.testing.assert_allclose(theory.y, 2 * theory.x)


def test_an_unknown_group_is_named():
    with pytest.raises(ValueError, match="sign_sgd"):
        js.verify("nothing")


def test_verdicts():
    assert equal(1.0, 1.004, 0.001).verdict == Verdict.HOLDS
    assert equal(1.0, 1.006, 0.001).verdict == Verdict.FAILS
    assert equal(1.0, 1.02, 0.05).verdict == Verdict.UNDECIDED
    assert equal([1.0, 0.0], [1.0, 0.2], [0.001, 0.001]).verdict == Verdict.FAILS
    assert below([1.0, 2.0], [0.9, 2.004], 0.001).verdict == Verdict.HOLDS
    assert below([1.0, 2.0], [0.9, 2.01], 0.001).verdict == Verdict.FAILS


def test_what_is_not_finite_does_not_hold():
    nothing = [np.nan, np.nan]
    for check in (equal, below):
        assert check([1.0, 2.0], nothing, nothing).verdict == Verdict.FAILS
        assert check([1.0, 2.0], [1.0, np.nan], 0.001).verdict == Verdict.FAILS


def test_first_order_needs_a_deviation_that_halves():
    def measure(power):
        return lambda rate: (rate * (1 + 2 * rate**power), 1e-4 * rate)

    assert first_order(0.1, lambda rate: rate, measure(1)).verdict == Verdict.HOLDS_TO_FIRST_ORDER
    assert first_order(0.1, lambda rate: rate, measure(0)).verdict == Verdict.FAILS  # a wrong factor
    assert first_order(0.1, lambda rate: rate, lambda rate: (rate, 1e-4 * rate)).verdict == Verdict.HOLDS
    assert first_order(0.1, lambda rate: rate, lambda rate: (1.1 * rate, rate)).verdict == Verdict.UNDECIDED


def test_exponents():
    x = np.array([1.0, 2.0, 4.0])
    assert exponent(-1.0, x, 3 / x, 1e-3 / x).verdict == Verdict.HOLDS
    assert exponent(-1.0, x, 3 / x**1.2, 1e-3 / x).verdict == Verdict.FAILS
    assert exponent(-1.0, x, 3 / x, 1 / x).verdict == Verdict.UNDECIDED
