"""Rates of convergence: against processes whose rate is known, and intervals that cover it as often as they say."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.estimation._diagnostics import burn_in
from jaxsde.estimation._rates import _curves, convergence_rate, phase_rates
from jaxsde.simulation import SampleStatistics

ETA, SIGMA = 0.05, 0.2
EXACT = -2 * np.log(1 - ETA) / ETA  # E x^2 - floor = (1 - eta)^{2k}, whatever the noise
FLOOR = 0.5 * ETA * SIGMA**2 / (2 - ETA)
PROBLEM = js.Problem(js.Quadratic([1.0]), js.Gaussian(SIGMA))


REDUCERS = {"moments": js.Moments(), "jackknife": js.Jackknife(js.Moments(), 40), "samples": js.Samples()}


@functools.cache
def _simulated(reducer):
    return js.simulate(
        js.SGD(ETA).chain(PROBLEM), jnp.ones(1), steps=200, seeds=2000, every=1, key=jax.random.key(0),
        observe={"loss": PROBLEM.loss}, reduce=REDUCERS[reducer], progress=False,
    )  # fmt: skip


def _samples(rng, seeds=100, records=150):
    """Losses of SGD with noise of size one, written once more with NumPy."""
    x, losses = np.ones(seeds), []
    for _ in range(records):
        losses.append(0.5 * x**2)
        x = x - ETA * (x + rng.standard_normal(seeds))
    return SampleStatistics(jnp.arange(records) * ETA, jnp.asarray(np.array(losses)))


def _noisy(curve, ts, rng, noise=0.05, seeds=200):
    """Samples of independent values about a curve."""
    return SampleStatistics(jnp.asarray(ts), jnp.asarray(curve[:, None] * (1 + noise * rng.standard_normal((len(ts), seeds)))))


@pytest.mark.parametrize("floor", [None, FLOOR])
@pytest.mark.parametrize("reducer", REDUCERS)
def test_the_rate_of_sgd(reducer, floor):
    fit = convergence_rate(_simulated(reducer)["loss"], floor=floor)
    assert abs(fit.rate - EXACT) < 5 * fit.stderr < 0.02 * EXACT
    assert fit.interval[0] < fit.rate < fit.interval[1]
    assert fit.floor == pytest.approx(FLOOR, rel=0.05)
    # From 80 % to 10 % of the start, to the record.
    np.testing.assert_allclose(fit.window, np.log([1 / 0.8, 1 / 0.1]) / EXACT, atol=1.01 * ETA)
    assert fit.records == pytest.approx((fit.window[1] - fit.window[0]) / ETA + 1)


def test_intervals_cover_the_rate_as_often_as_they_say():
    rng = np.random.default_rng(0)
    runs = [_samples(rng) for _ in range(200)]
    for level, low, high in ((0.95, 0.88, 0.995), (0.5, 0.35, 0.65)):
        fits = [convergence_rate(run, level=level) for run in runs]
        assert low < np.mean([fit.interval[0] <= EXACT <= fit.interval[1] for fit in fits]) < high
    # A standard deviation of 200 values has a spread of 5 %.
    ratio = np.std([fit.rate for fit in fits], ddof=1) / np.sqrt(np.mean([fit.stderr**2 for fit in fits]))
    assert 0.75 < ratio < 1.25


def test_without_correlations_the_standard_error_is_a_bound():
    bound = convergence_rate(_simulated("moments")["loss"])
    jackknife = convergence_rate(_simulated("jackknife")["loss"])
    assert bound.rate == pytest.approx(jackknife.rate, rel=1e-5)
    assert 1 < bound.stderr / jackknife.stderr < 4
    # By hand, where the line is through three records of equal weight: minus the slope is (m_0 - m_2) / (2 step).
    run = _simulated("moments")["loss"]
    fit = convergence_rate(run, floor=0.0, window=(10 * ETA, 12 * ETA), kind="sqrt")
    m, s = (np.asarray(a, float)[10:13] for a in (run.mean, run.stderr))
    assert fit.rate == pytest.approx((np.sqrt(m[0]) - np.sqrt(m[2])) / (2 * ETA), rel=0.01)
    assert fit.stderr == pytest.approx((s[0] / np.sqrt(m[0]) + s[2] / np.sqrt(m[2])) / (4 * ETA), rel=0.05)


def test_a_floor_from_a_run_that_is_too_short_is_refused():
    # At its end the excess is a multiple of the stationary loss, yet within the noise of single records.
    rng = np.random.default_rng(1)
    for _ in range(20):
        with pytest.raises(ValueError, match="not settled"):
            convergence_rate(_samples(rng, records=20))


def test_a_floor_that_still_drifts_where_that_does_not_matter_is_taken():
    # At three quarters of the time the excess is 2 % of the floor, far above the noise, but 6e-6 of the fall.
    ts = np.linspace(0, 8, 241)
    run = _noisy(np.exp(-2 * ts) + 3e-4, ts, np.random.default_rng(5), noise=1e-3)
    fit = convergence_rate(run)
    assert abs(fit.rate - 2) < 5 * fit.stderr < 0.01
    assert not burn_in(*(c[120:] for c in (_curves(run).mean, _curves(run).stderr)), _curves(run).without[:, 120:])[1]


def test_a_phase_without_records_has_no_rate():
    ts = np.linspace(0, 4, 41)
    run = _noisy(np.where(ts < 2, np.exp(-ts), np.exp(-2 * ts)), ts, np.random.default_rng(6), noise=0.01)
    first, none, last = phase_rates(run, [0.12, 0.02], floor=0.0)
    assert none is None
    for phase, rate in ((first, 1), (last, 2)):
        assert abs(phase.rate - rate) < 5 * phase.stderr < 0.05


def test_samples_give_the_curves_that_streamed_statistics_give():
    samples, jackknife = (_curves(_simulated(name)["loss"]) for name in ("samples", "jackknife"))
    # Streamed in float32, and the first loss has no spread at all.
    chex.assert_trees_all_close(samples, jackknife, rtol=2e-4, atol=1e-8)
    moments = _curves(_simulated("moments")["loss"])
    assert moments.without is None
    np.testing.assert_allclose(samples.stderr, moments.stderr, rtol=2e-4, atol=1e-8)


def test_the_exponent_of_a_power_law():
    ts = np.arange(0.0, 200.0)
    run = _noisy(np.append(1.0, 3 * ts[1:] ** -1.5), ts, np.random.default_rng(2))
    fit = convergence_rate(run, kind="power")
    assert abs(fit.rate - 1.5) < 5 * fit.stderr < 0.02
    assert fit.floor == 0 and fit.window[0] == pytest.approx(20)


def test_the_square_root_of_a_parabola_is_a_line():
    ts = np.linspace(0, 1.5, 60)
    run = _noisy(0.3 + (2 - ts) ** 2, ts, np.random.default_rng(3), noise=0.02)
    fit = convergence_rate(run, floor=0.3, kind="sqrt")
    assert abs(fit.rate - 1) < 5 * fit.stderr < 0.02


def test_the_phases_of_sign_sgd():
    eta, sigma = 0.005, 1.0
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(sigma))
    run = js.simulate(
        js.SignSGD(eta).chain(problem), jnp.array([5.0]), steps=1800, seeds=2000, every=10, key=jax.random.key(1),
        observe={"loss": problem.loss}, reduce=js.Jackknife(js.Moments(), 20), progress=False,
    )  # fmt: skip
    floor = 0.25 * eta * np.sqrt(np.pi / 2) * sigma
    first, between, last = phase_rates(run["loss"], [5.0, 0.045], kinds=("sqrt", "sqrt", "exponential"), floor=floor)
    # While all signs are right, x falls at unit speed; near the minimum at 2 sqrt(2 / pi) / sigma, to 1.5 % at x = 0.3.
    assert first.rate == pytest.approx(np.sqrt(0.5), rel=0.01)
    assert abs(last.rate - 2 * np.sqrt(2 / np.pi) / sigma) < 5 * last.stderr + 0.02 * last.rate
    assert 5 * last.stderr < 0.1 * last.rate
    assert first.window[1] < between.window[0] < between.window[1] < last.window[0]
    assert first.window == pytest.approx((0, 5 - np.sqrt(10)), abs=0.06)


def test_seeds_that_diverge_are_left_out():
    run = _samples(np.random.default_rng(4))
    values = np.array(run.values)
    values[70:, 3], values[5:, 20] = np.inf, np.nan
    few = convergence_rate(SampleStatistics(run.ts, jnp.asarray(values)))
    kept = np.delete(values, [3, 20], axis=1)
    assert few.rate == pytest.approx(convergence_rate(SampleStatistics(run.ts, jnp.asarray(kept))).rate, abs=3 * few.stderr)
    assert np.isfinite(few.stderr)


ONES, LINE = jnp.ones((5, 3)), jnp.linspace(2, 1, 50)[:, None] * jnp.ones(3)


def _curve(*shape):
    values = jnp.ones((50, 30, *shape)) * jnp.exp(-jnp.arange(50.0)).reshape(-1, *[1] * (1 + len(shape)))
    return SampleStatistics(jnp.arange(50.0), values)


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (lambda: convergence_rate(np.ones(5)), TypeError, "ensemble"),
        (lambda: convergence_rate(_curve(2)), ValueError, r"scalar observable.*\(2,\)"),
        (lambda: convergence_rate(SampleStatistics(jnp.arange(5.0), {"a": ONES, "b": ONES})), ValueError, "scalar observable"),
        (lambda: convergence_rate(_curve(), kind="logistic"), ValueError, "kind"),
        (lambda: convergence_rate(_curve(), level=1.5), ValueError, "level"),
        (lambda: convergence_rate(SampleStatistics(jnp.arange(50.0), LINE)), ValueError, "not settled"),
        (lambda: convergence_rate(_curve(), floor=0.0, window=(0.0, 1.0)), ValueError, "holds 2 recorded times"),
        (lambda: convergence_rate(_curve(), floor=0.5, window=(0.0, 5.0)), ValueError, "above its floor 0.5"),
        (lambda: convergence_rate(SampleStatistics(jnp.arange(5.0), jnp.ones((5, 1)))), ValueError, "two finite seeds"),
        (lambda: convergence_rate(_curve(), floor=2.0), ValueError, "does not fall"),
        (lambda: phase_rates(_curve(), [0.1], kinds=("sqrt",), floor=0.0), ValueError, "one more than boundaries"),
        (lambda: phase_rates(_curve(), [0.1, 1.0], floor=0.0), ValueError, "must fall"),
    ],
)  # fmt: skip
def test_bad_arguments_raise(bad, error, match):
    with pytest.raises(error, match=match):
        bad()


def test_a_rate_of_diverged_seeds_is_refused_with_their_number_and_time():
    problem = js.Problem(lambda x: -jnp.sum(x**4), js.Gaussian(1.0))
    run = dict(steps=40, seeds=40, every=1, key=jax.random.key(0), observe={"loss": lambda x: jnp.sum(x**2)})
    for reduce in (js.Moments(), js.Jackknife(js.Moments(), 4), js.Samples()):
        ensemble = js.simulate(js.SGD(0.5).chain(problem), jnp.ones(1), reduce=reduce, **run)
        with pytest.raises(ValueError, match=r"40 of 40 seeds diverged .*t = .* a rate needs"):
            js.convergence_rate(ensemble["loss"])
