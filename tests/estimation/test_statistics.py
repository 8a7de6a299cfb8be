"""Statistics that several estimates share, against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsde._moments import merge_moments
from jaxsde.estimation._statistics import (
    choose_better,
    extrapolate,
    extrapolated_stderr,
    fit_slope,
    jackknife_stderr,
    rounding_stderr,
    slope_weights,
)

RNG = np.random.default_rng(0)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = RNG.standard_normal((12, 3))
    without = (values.sum(axis=0) - values) / 11
    np.testing.assert_allclose(jackknife_stderr(without), values.std(axis=0, ddof=1) / np.sqrt(12), rtol=1e-12)
    np.testing.assert_allclose(jackknife_stderr(without[:, 0]), values[:, 0].std(ddof=1) / np.sqrt(12), rtol=1e-12)


def test_extrapolation_removes_the_first_order():
    at_step = lambda h: 3.0 - 0.7 * h + 0.1 * h**2
    assert extrapolate(at_step(1e-2), at_step(5e-3)) == pytest.approx(3.0, abs=1e-5)
    coarse, fine = RNG.standard_normal((2, 200_000)) * [[0.3], [0.2]]
    assert extrapolate(coarse, fine).std() == pytest.approx(extrapolated_stderr(0.3, 0.2), rel=0.01)


def test_slopes_are_those_of_least_squares():
    x, y, weight = np.arange(6.0) ** 1.5, RNG.standard_normal(6), RNG.uniform(0.5, 2, 6)
    weighted = np.polyfit(x, y, 1, w=np.sqrt(weight))[0]  # NumPy's weights are those of the deviations, not of their squares
    assert slope_weights(x, weight) @ y == pytest.approx(weighted, rel=1e-10)
    assert fit_slope(x, y) == pytest.approx(slope_weights(x, np.ones(6)) @ y, rel=1e-10)


def test_the_better_estimate_is_the_sharper_one_that_is_usable():
    plain, error = np.full(4, 1.0), np.full(4, 0.4)
    controlled, sharp = np.array([2.0, 2.0, np.nan, 2.0]), np.array([0.1, 0.8, 0.1, 0.1])
    value, stderr, factor = choose_better(plain, error, controlled, sharp, np.array([True, True, True, False]))
    np.testing.assert_array_equal(value, [2.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(stderr, [0.1, 0.4, 0.4, 0.4])
    np.testing.assert_allclose(factor, [16.0, 1.0, 1.0, 1.0])


def test_rounding_is_relative_to_the_value_in_its_precision():
    assert rounding_stderr(-4.0, jnp.float32) == pytest.approx(4 * rounding_stderr(1.0, np.float32))
    assert 1e-7 < rounding_stderr(1.0, np.float32) < 1e-6 and 1e-16 < rounding_stderr(1.0, np.float64) < 1e-15


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("sizes", [(5, 9), (0, 4), (4, 0)])
def test_merged_moments_are_those_of_both_sets(products, sizes):
    sets = [100 + RNG.standard_normal((n, 2)).astype(np.float32) for n in sizes]

    def moments(values):
        mean = values.mean(axis=0) if len(values) else np.zeros(2, np.float32)
        centred = values - mean
        return len(values), jnp.asarray(mean), jnp.asarray(centred.T @ centred if products else (centred**2).sum(axis=0))

    mean, deviations = merge_moments(*moments(sets[0]), *moments(sets[1]))
    _, expected_mean, expected = moments(np.concatenate(sets).astype(float))
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-6)
    np.testing.assert_allclose(deviations, expected, rtol=1e-4, atol=1e-4)
