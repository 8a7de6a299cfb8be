"""Diagnostics of stationarity: against ArviZ, and against series whose autocorrelation is known."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from jaxsde.estimation._diagnostics import burn_in, effective_sample_size, r_hat


def _autoregression(rng, shape, slope):
    """Stationary series along axis 1 with correlation `slope` between neighbours and variance 1."""
    x = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        x[:, t] = slope * x[:, t - 1] + np.sqrt(1 - slope**2) * x[:, t]
    return x


@pytest.mark.parametrize("slope", [-0.9, -0.3, 0.0, 0.5, 0.95])
@pytest.mark.parametrize("shape", [(2, 4), (2, 5), (3, 8), (3, 9), (3, 10), (4, 101), (64, 33), (2, 1000)])
def test_the_diagnostics_are_those_of_arviz(shape, slope):
    values = _autoregression(np.random.default_rng(0), (*shape, 3), slope)
    for x in (values, np.round(values, 1), np.exp(3 * values)):  # ties and heavy tails as well
        chains_last = np.moveaxis(x, -1, 0)
        np.testing.assert_allclose(effective_sample_size(x), array_stats.ess(chains_last, method="bulk"), rtol=1e-6)
        np.testing.assert_allclose(r_hat(x), array_stats.rhat(chains_last, method="rank"), rtol=1e-6)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.7, 0.9])
def test_effective_samples_of_an_autoregression(slope):
    chains, draws, series = 4, 1000, 200
    found = effective_sample_size(_autoregression(np.random.default_rng(1), (chains, draws, series), slope))
    exact = chains * draws * (1 - slope) / (1 + slope)
    # Truncating the sum of correlations leaves a bias of a few per cent of one estimate.
    assert abs(np.mean(found) - exact) < 5 * np.std(found) / np.sqrt(series) + 0.03 * exact


def test_r_hat_sees_chains_that_differ_in_place_or_in_spread():
    x = np.random.default_rng(2).standard_normal((4, 1000))
    assert r_hat(x) < 1.01
    assert r_hat(x + [[0.0], [0.0], [0.0], [1.0]]) > 1.05
    assert r_hat(x * [[1.0], [1.0], [1.0], [3.0]]) > 1.05  # the folded draws see it, the draws themselves do not
    assert r_hat(x + np.linspace(0, 2, 1000)) > 1.05  # the split chains do


def test_a_constant_has_converged():
    assert r_hat(np.full((3, 10), 2.0)) == 1
    assert effective_sample_size(np.full((3, 10), 2.0)) == 30


def test_trailing_axes_are_kept():
    values = np.random.default_rng(3).standard_normal((3, 20, 2, 4))
    for diagnostic in (effective_sample_size, r_hat):
        assert diagnostic(values).shape == (2, 4)
        assert diagnostic(values)[1, 2] == pytest.approx(float(diagnostic(values[:, :, 1, 2])))


def _squares(rng, x0, slope, records, seeds=400):
    """Mean and standard error over seeds of x^2 along an autoregression of variance 1 that starts at x0."""
    x, curve = np.full(seeds, float(x0)), []
    for _ in range(records):
        curve.append((np.mean(x**2), np.std(x**2, ddof=1) / np.sqrt(seeds)))
        x = slope * x + np.sqrt(1 - slope**2) * rng.standard_normal(seeds)
    return np.array(curve).T


def test_burn_in_takes_off_the_transient():
    rng = np.random.default_rng(4)
    found, verdicts, averages = [], [], []
    for _ in range(200):
        mean, stderr = _squares(rng, 5.0, 0.9, 150)
        start, settled = burn_in(mean, stderr)
        found.append(start)
        verdicts.append(settled)
        averages.append(np.mean(mean[start:]))
    # The transient 24 * 0.81^k sinks below the noise sqrt(2 / 400) at k = 28; of the whole curve it makes 0.84.
    assert 20 < np.median(found) < 45
    assert np.mean(verdicts) > 0.97
    assert abs(np.mean(averages) - 1) < 0.5 * np.std(averages) + 5 * np.std(averages) / np.sqrt(200)
    assert np.std(averages) < 0.04


def test_a_stationary_curve_is_used_from_early_on():
    rng = np.random.default_rng(5)
    found = [burn_in(*_squares(rng, 1.0, 0.5, 100)) for _ in range(100)]
    assert np.median([start for start, _ in found]) < 15
    assert np.mean([settled for _, settled in found]) > 0.97


@pytest.mark.parametrize("slope", [0.98, 0.99, 0.999])
def test_a_run_that_is_too_short_is_not_settled(slope):
    rng = np.random.default_rng(6)
    assert not any(burn_in(*_squares(rng, 5.0, slope, 100))[1] for _ in range(20))


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_the_jackknife_sees_drifts_within_the_noise_of_single_records(drift):
    # Seeds that all rise a little, from places far apart: the curve's errors at different times are one.
    rng = np.random.default_rng(7)
    verdicts = []
    for _ in range(50):
        noise = rng.standard_normal((100, 400))
        x = 10 * rng.standard_normal(400) + noise + drift * np.linspace(0, 1, 100)[:, None]
        mean, stderr = x.mean(axis=1), x.std(axis=1, ddof=1) / 20
        without = np.stack([np.delete(x, np.s_[g::20], axis=1).mean(axis=1) for g in range(20)])
        assert burn_in(mean, stderr)[1]
        verdicts.append(burn_in(mean, stderr, without)[1])
    assert np.mean(verdicts) > 0.9 if drift == 0 else not any(verdicts)


def test_without_noise_rounding_is_no_trend_but_anything_more_is():
    ts, none = np.arange(200.0), np.zeros(200)
    rounded = np.float32(1 + np.exp(-ts)) + np.float32(6e-8) * (ts > 150)
    assert burn_in(rounded, none)[1]
    assert not burn_in(1 + 1e-6 * ts, none)[1]
    assert burn_in(np.ones(200), none) == (0, True)


def test_a_curve_that_is_not_finite_is_not_settled():
    assert not burn_in(np.array([1.0, 1.0, np.nan, 1.0]), np.ones(4))[1]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: r_hat(np.zeros((1, 10))),
        lambda: r_hat(np.zeros((4, 3))),
        lambda: effective_sample_size(np.zeros(10)),
        lambda: effective_sample_size(np.array([[1.0, 2.0, np.inf, 3.0]])),
        lambda: burn_in(np.zeros(3), np.zeros(4)),
        lambda: burn_in(np.zeros((3, 2)), np.zeros((3, 2))),
    ],
)
def test_bad_arguments_raise(bad):
    with pytest.raises(ValueError, match="must"):
        bad()
