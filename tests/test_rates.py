"""Rates of convergence: against processes whose rate is known, and intervals that cover it as often as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.estimation._rates import convergence_rate, phase_rates
from jaxsde.simulation import MomentStatistics, SampleStatistics

ETA, SIGMA = 0.05, 0.2
EXACT = -2 * np.log(1 - ETA) / ETA  # E x^2 - floor = (1 - eta)^{2k}, whatever the noise
FLOOR = 0.5 * ETA * SIGMA**2 / (2 - ETA)
PROBLEM = js.Problem(js.Quadratic([1.0]), js.Gaussian(SIGMA))


def _simulated(reduce, seeds=2000, steps=200):
    return js.simulate(
        js.SGD(ETA).chain(PROBLEM), jnp.ones(1), steps=steps, seeds=seeds, every=1, key=jax.random.key(0),
        observe={"loss": PROBLEM.loss, "x": lambda x: x}, reduce=reduce, progress=False,
    )  # fmt: skip


def _samples(rng, seeds=100, records=150, sigma=1.0):
    """Losses of SGD, written once more with NumPy."""
    x, losses = np.ones(seeds), []
    for _ in range(records):
        losses.append(0.5 * x**2)
        x = x - ETA * (x + sigma * rng.standard_normal(seeds))
    return SampleStatistics(jnp.arange(records) * ETA, jnp.asarray(np.array(losses)))


@pytest.mark.parametrize("floor", [None, FLOOR])
@pytest.mark.parametrize("reduce", [js.Moments(), js.Jackknife(js.Moments(), 20), js.Samples()], ids=lambda r: type(r).__name__)
def test_the_rate_of_sgd(reduce, floor):
    run = _simulated(reduce)
    fit = convergence_rate(run["loss"], floor=floor)
    assert abs(fit.rate - EXACT) < 5 * fit.stderr < 0.05 * EXACT
    assert fit.interval[0] < fit.rate < fit.interval[1]
    assert fit.floor == pytest.approx(FLOOR, rel=0.05)
    # From 80 % to 10 % of the start, at the rate of about 2.
    np.testing.assert_allclose(fit.window, (np.log(1 / 0.8) / EXACT, np.log(1 / 0.1) / EXACT), atol=2 * ETA)
    assert fit.records == pytest.approx((fit.window[1] - fit.window[0]) / ETA + 1, abs=0.1)


def test_intervals_cover_the_rate_as_often_as_they_say():
    rng = np.random.default_rng(0)
    fits = [convergence_rate(_samples(rng)["loss"] if False else _samples(rng)) for _ in range(200)]
    covered = np.mean([fit.interval[0] <= EXACT <= fit.interval[1] for fit in fits])
    assert 0.88 < covered < 0.995
    ratio = np.std([fit.rate for fit in fits], ddof=1) / np.sqrt(np.mean([fit.stderr**2 for fit in fits]))
    assert 0.75 < ratio < 1.25  # a standard deviation of 200 values has a spread of 5 %
