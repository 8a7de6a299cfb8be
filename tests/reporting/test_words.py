"""The verdict in words, and the width of the comparison's table, on comparisons made by hand."""

import numpy as np
import pytest

from jaxsde.estimation import Comparison, Curves, Estimate, Row
from jaxsde.estimation._compare import Side
from jaxsde.reporting import table, verdict

SEEDS = 1000


def _side(loss, diverged=0):
    curves = Curves(np.array(loss), None, None)
    return Side(curves, np.zeros(2), np.zeros(2), np.array([0, diverged]), SEEDS)


def _comparison(rows, *, sde=True, theory=True, optimizer="SignSGD", model="compagnoni", loss=(1.0, 0.1), diverged=(0, 0)):
    second = _side(loss, diverged[1]) if sde else None
    law = Curves(np.array(loss), None, None) if theory else None
    settings = {"optimizer": optimizer, "model": model}
    notes = ["no SDE: the reason"] if not sde else []
    return Comparison("title", np.arange(2.0), _side(loss, diverged[0]), second, law, None, rows, notes, settings)


def _row(quantity, sde=0.0, theory=0.0, stderr=0.5):
    """A row whose SDE and theory are off by so many per cent, each simulation with a standard error of so many per cent."""
    error = stderr / 100
    return Row(quantity, Estimate(1.0, error), Estimate(1 + sde / 100, error), 1 + theory / 100)


def _loss(along, end, **more):
    return [_row("loss, t = 1", **along, **more), _row("stationary loss", **end, **more)]


def test_the_words_of_a_run_whose_sde_follows_and_whose_theory_is_low_on_the_way():
    rows = [_row("loss, t = 1", sde=1, theory=-7, stderr=0.1), _row("loss, t = 2", sde=0.2, theory=-4, stderr=0.1)]
    rows += [_row("variance x[0], t = 1", sde=1, theory=-6, stderr=1), _row("stationary covariance [0, 0]", stderr=1)]
    rows += [_row("stationary loss", sde=0.1, theory=0.2, stderr=0.1)]
    assert verdict(_comparison(rows)) == [
        "The SDE follows the optimizer's loss within 1 %: it is up to 1 % high on the way down and within noise of "
        "0.42 % at the end.",
        "Its variances are within noise of 4.2 %.",
        "Theory, which linearises, follows the optimizer's loss within 7 %: it is up to 7 % low on the way down and within "
        "noise of 0.3 % at the end.",
        "Its variances are 6 % low on the way down and within noise of 3 % at the end.",
    ]


def test_a_difference_is_noise_below_three_standard_errors_of_the_difference():
    error = 0.5 * np.sqrt(2)
    below, above = (verdict(_comparison(_loss({"sde": factor * error}, {}), theory=False))[0] for factor in (2.99, 3.01))
    assert below == "The SDE follows the optimizer's loss within noise of 2.1 %."
    assert above == (
        "The SDE follows the optimizer's loss within 2.1 %: it is 2.1 % high on the way down and within noise of 2.1 % at the "
        "end."
    )
    # Theory has no noise of its own.
    assert "1.6 % low on the way down" in " ".join(verdict(_comparison(_loss({"theory": -1.6}, {}))))


def test_within_holds_what_noise_hides_as_well():
    rows = [_row("loss, t = 1", sde=2, stderr=0.1), _row("stationary loss", stderr=1.5)]
    assert verdict(_comparison(rows, theory=False))[0].startswith(
        "The SDE follows the optimizer's loss within 6.4 %: it is 2 % high"
    )


def test_much_noise_hides_whether_the_sde_follows():
    sentences = verdict(_comparison(_loss({"sde": 20}, {}, stderr=8), theory=False))
    assert sentences[0] == "Noise of 34 % hides whether the SDE follows the optimizer's loss; more seeds would tell."


def test_what_is_off_by_more_than_a_tenth_does_not_follow():
    rows = _loss({"sde": -12, "theory": 5}, {"sde": -41, "theory": 58})
    assert verdict(_comparison(rows, model="ode", optimizer="SGD")) == [
        "The ODE does not follow the optimizer's loss: it is 12 % low on the way down and 41 % low at the end.",
        "Theory does not follow the optimizer's loss: it is 5 % high on the way down and 58 % high at the end.",
    ]


def test_differences_of_both_signs_have_no_side():
    rows = [_row(f"loss, t = {i}", sde=off) for i, off in enumerate((-4.0, 6.0))]
    sentence = verdict(_comparison(rows, theory=False))[0]
    assert sentence == "The SDE follows the optimizer's loss within 6 %: it is up to 6 % off on the way down."


def test_where_the_loss_does_not_fall_there_is_no_way_down():
    sentence = verdict(_comparison(_loss({"sde": 5}, {}), loss=(0.0, 0.1), theory=False))[0]
    assert "5 % high along the way" in sentence


def test_variances_are_diagonal_and_means_are_left_out():
    rows = [_row("mean x[0], t = 1", sde=900), _row("stationary covariance [0, 1]", sde=-700, theory=5)]
    assert verdict(_comparison(rows)) == [
        "The SDE has no number to compare.",
        "Theory, which linearises, has no number to compare.",
    ]
    rows += [_row("total variance, t = 1", sde=9, theory=3), _row("stationary total variance")]
    assert verdict(_comparison(rows)) == [
        "The variances of the SDE are 9 % high on the way down and within noise of 2.1 % at the end.",
        "The variances of theory, which linearises, are 3 % high on the way down and within noise of 1.5 % at the end.",
    ]


@pytest.mark.parametrize("optimizer", ["RMSprop", "RMSpropW", "Adam", "AdamW"])
def test_theory_says_what_it_assumes(optimizer):
    sentence = verdict(_comparison(_loss({}, {}), optimizer=optimizer, sde=False))[1]
    assert sentence.startswith("Theory, which takes the gradient to be small against its noise, follows")
    assert verdict(_comparison(_loss({}, {}), optimizer="SomeoneElses", sde=False))[1].startswith("Theory follows")


def test_what_there_is_not_is_said():
    rows = [row._replace(sde=None, theory=None) for row in _loss({}, {})]
    assert verdict(_comparison(rows, sde=False, theory=False)) == [
        "There is no SDE to compare; the notes say why.",
        "There is no theory to compare; the notes say why.",
    ]
    # A theory of the way alone says nothing of the end.
    rows = [_row("loss, t = 1", theory=-5), _row("stationary loss")._replace(theory=None)]
    sentence = verdict(_comparison(rows))[-1]
    assert sentence == "Theory, which linearises, follows the optimizer's loss within 5 %: it is 5 % low on the way down."


def test_diverged_seeds_are_named():
    rows = _loss({}, {})
    assert verdict(_comparison(rows, diverged=(3, 20), theory=False))[-2:] == [
        "3 of the optimizer's 1,000 seeds diverged and are left out.",
        "20 of the SDE's 1,000 seeds diverged and are left out.",
    ]
    nothing = [row._replace(sde=Estimate(np.nan, np.nan)) for row in rows]
    lost = verdict(_comparison(nothing, diverged=(0, SEEDS), theory=False))
    assert lost == ["There is no theory to compare; the notes say why.", "All of the SDE's 1,000 seeds diverged."]
    assert verdict(_comparison(nothing, diverged=(SEEDS, 0))) == [
        "All of the optimizer's 1,000 seeds diverged.",
        "There is nothing to compare with.",
    ]


def test_numbers_that_are_not_finite_are_no_findings():
    rows = [_row("loss, t = 1"), _row("stationary loss")._replace(sde=Estimate(np.nan, np.nan))]
    assert verdict(_comparison(rows, theory=False))[0] == "The SDE follows the optimizer's loss within noise of 2.1 %."


def test_values_of_zero_have_no_per_cent():
    nothing, something = Estimate(0.0, 0.0), Estimate(1.0, 0.0)
    sentence = verdict(_comparison([Row("loss, t = 1", nothing, something, None)], theory=False))[0]
    assert sentence == "The SDE does not follow the optimizer's loss: it is more than 1000 % high on the way down."
    sentence = verdict(_comparison([Row("loss, t = 1", nothing, nothing, None)], theory=False))[0]
    assert sentence == "The SDE follows the optimizer's loss within noise of 0 %."


def test_a_table_of_long_numbers_fits_a_hundred_columns():
    rows = [
        Row("stationary covariance [2, 2]", Estimate(-1.2345e-12, 3.9e-15), Estimate(-1.2344e-12, 4.1e-15), -1.1111e-12),
        Row("norm of the mean, t = 1.234e-05", Estimate(-1.2345e30, 1.9e27), Estimate(-1.2344e30, 4.1e29), -1.1111e30),
        Row("variance x[0], t = 1.234e+15", Estimate(-0.0012345, 0.00061), Estimate(-123456.0, 123.0), 1e9),
        Row("convergence rate of the loss", Estimate(1.0, 0.0), Estimate(np.inf, np.nan), None),
        Row("mean x[1], t = 2", Estimate(0.0, 0.0), None, -0.5),
    ]
    text = table(_comparison(rows)._replace(notes=["a note of many words " * 20]))
    assert max(map(len, text.split("\n"))) <= 100
    assert "large" in text and "-1e-12 ± 4e-15" in text


def test_the_table_keeps_four_digits_where_they_fit():
    rows = [_row("stationary covariance [0, 1]", sde=0.5), Row("mean x[0], t = 3.75", Estimate(-4.1761e-6, 3e-5), None, 0.0)]
    line = table(_comparison(rows)).split("\n")[4]
    assert line.split() == [
        "stationary",
        "cov.",
        "[0,",
        "1]",
        "1",
        "±",
        "5e-3",
        "1.005",
        "±",
        "5e-3",
        "+0.5",
        "+0.7",
        "1",
        "+0.0",
        "+0.0",
    ]
    assert "-4.176e-6 ± 3e-5" in table(_comparison(rows))
