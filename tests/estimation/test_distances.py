"""Distances between laws: against SciPy and closed forms, and p-values that are uniform where they should be."""

import numpy as np
import pytest
import scipy.stats

from jaxsde.estimation._distances import compare_laws, energy, sliced_wasserstein, wasserstein


def _normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("sizes", [(50, 50), (50, 31), (1, 40)])
@pytest.mark.parametrize("digits", [0, 8])  # with and without ties
def test_distances_are_those_of_scipy(sizes, digits):
    a, b = (np.round(_normal(i, n, 3), digits) + [0, 0, i] for i, n in enumerate(sizes))
    for ours, theirs in ((wasserstein, scipy.stats.wasserstein_distance), (energy, scipy.stats.energy_distance)):
        expected = [theirs(x, y) for x, y in zip(a.T, b.T, strict=True)]
        np.testing.assert_allclose(ours(a, b), expected, rtol=1e-10, atol=1e-12)
        assert compare_laws(a, b, statistic=ours.__name__, permutations=1).distance == pytest.approx(np.max(expected))
        np.testing.assert_allclose(ours(a[:, 0], b[:, 0]), expected[:1], rtol=1e-10, atol=1e-12)


def test_wasserstein_of_two_gaussians_is_the_shift():
    # Means 0 and m, one variance: W_1 = |m|. The sampling error is at most that of the difference of means.
    shift, seeds = np.array([-1.0, 0.5]), 20_000
    error = np.sqrt(2 / seeds)
    assert np.all(np.abs(wasserstein(_normal(0, seeds, 2), _normal(1, seeds, 2) + shift) - np.abs(shift)) < 5 * error)


def test_sliced_wasserstein_of_shifted_gaussians():
    # The projection of the shift m on a random direction of the plane has the mean modulus 2 |m| / pi.
    found = sliced_wasserstein(_normal(0, 5000, 2), _normal(1, 5000, 2) + [3.0, 4.0], projections=2000)
    error = 5 * np.sqrt(0.5 - (2 / np.pi) ** 2) / np.sqrt(2000) + np.sqrt(2 / 5000)
    assert abs(found - 5 * 2 / np.pi) < 5 * error


def test_sliced_wasserstein_sees_a_correlation_that_coordinates_hide():
    a = _normal(0, 500, 2)
    b = _normal(1, 500, 2) @ np.linalg.cholesky([[1.0, 0.8], [0.8, 1.0]]).T
    assert compare_laws(a, b, statistic="wasserstein").pvalue > 0.01
    assert compare_laws(a, b, statistic="sliced", projections=16, permutations=199).pvalue == 1 / 200


@pytest.mark.parametrize("statistic", ["wasserstein", "energy", "sliced"])
def test_pvalues_of_equal_laws_are_uniform(statistic):
    rng = np.random.default_rng(2)
    found = [
        compare_laws(*rng.standard_t(3, (2, 40, 2)), statistic=statistic, permutations=99, projections=8, seed=seed).pvalue
        for seed in range(150)
    ]
    assert scipy.stats.kstest(np.array(found) - 0.005, "uniform").pvalue > 1e-3
    assert np.mean(np.array(found) <= 0.1) < 0.1 + 5 * np.sqrt(0.09 / 150)


@pytest.mark.parametrize("statistic", ["wasserstein", "energy", "sliced"])
def test_a_shifted_law_is_rejected(statistic):
    result = compare_laws(_normal(0, 300, 2), _normal(1, 200, 2) + [0.0, 0.5], statistic=statistic, permutations=199)
    assert result.pvalue == 1 / 200
    assert result.null_mean < result.null_quantile < result.distance


def test_the_null_is_what_fresh_samples_of_one_law_give():
    rng = np.random.default_rng(3)
    fresh = [wasserstein(*rng.standard_normal((2, 200)))[0] for _ in range(2000)]
    result = compare_laws(*rng.standard_normal((2, 200)), permutations=999)
    # The pool of 400 is itself a sample: its scale is off by some per cent.
    assert result.null_mean == pytest.approx(np.mean(fresh), rel=0.1)
    assert result.null_quantile == pytest.approx(np.quantile(fresh, 0.95), rel=0.15)


def test_results_depend_on_the_seed_alone():
    a, b = _normal(0, 50), _normal(1, 50)
    assert compare_laws(a, b, seed=1) == compare_laws(a, b, seed=1) != compare_laws(a, b, seed=2)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (lambda: wasserstein(np.ones((3, 2)), np.ones((3, 1))), "same coordinates"),
        (lambda: energy(np.ones((2, 2, 2)), np.ones((2, 2, 2))), "a must be samples"),
        (lambda: energy(np.ones(2), np.ones(0)), "b must be samples"),
        (lambda: compare_laws(np.ones(4), np.array([1, np.nan, np.inf, 2.0])), "b must be finite, but 2 of its 4"),
        (lambda: compare_laws(np.ones(4), np.ones(4), statistic="kl"), "statistic"),
        (lambda: compare_laws(np.ones(4), np.ones(4), permutations=0), "permutations"),
        (lambda: sliced_wasserstein(np.ones((4, 2)), np.ones((4, 2)), projections=0), "projections"),
    ],
)
def test_bad_arguments_raise(bad, match):
    with pytest.raises(ValueError, match=match):
        bad()
