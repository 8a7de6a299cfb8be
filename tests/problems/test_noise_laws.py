"""Laplace, uniform and alpha-stable noise, and the covariance of correlated signs, against SciPy and brute force."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsde as js

LAWS = [
    (js.Laplace(0.7), scipy.stats.laplace(scale=0.7)),
    (js.Uniform(0.7), scipy.stats.uniform(-0.7, 1.4)),
    (js.AlphaStable(1.0, 0.7), scipy.stats.cauchy(scale=0.7)),
    (js.AlphaStable(2.0, 0.7), scipy.stats.norm(scale=0.7 * np.sqrt(2))),
    (js.AlphaStable(1.5, 0.7), scipy.stats.levy_stable(1.5, 0, scale=0.7)),
    (js.AlphaStable(0.6, 0.7), scipy.stats.levy_stable(0.6, 0, scale=0.7)),
]
X = np.array([-30.0, -2.0, -0.5, -0.01, 0.0, 0.01, 0.3, 1.0, 4.0, 200.0])
IDS = ["laplace", "uniform", "cauchy", "normal", "stable-1.5", "stable-0.6"]


@pytest.mark.parametrize(("noise", "law"), LAWS, ids=IDS)
def test_signs_have_the_law_of_scipy(noise, law):
    params = jnp.zeros(len(X))
    np.testing.assert_allclose(noise.mean_sign(jnp.asarray(X), params), 2 * law.cdf(X) - 1, atol=2e-6)
    np.testing.assert_allclose(noise.prob_negative(jnp.asarray(X), params), law.cdf(-X), atol=2e-6)
    assert float(noise.slope) == pytest.approx(2 * 0.7 * float(law.pdf(0.0)), rel=1e-4)
    covariance = np.asarray(noise.sign_covariance(jnp.asarray(X), params))
    np.testing.assert_allclose(covariance, np.diag(1 - (2 * law.cdf(X) - 1) ** 2), atol=5e-6)


@pytest.mark.parametrize(("noise", "law"), LAWS, ids=IDS)
def test_draws_have_the_law(noise, law):
    draws = np.asarray(noise.stochastic_gradient(lambda x: 0.0 * jnp.sum(x), jnp.zeros(20_000), jax.random.key(1)), float)
    # The exact CDF at the draws' own quantiles (SciPy's stable CDF is slow): binomial counts.
    points = np.quantile(draws, np.linspace(0.02, 0.98, 25))
    share = law.cdf(points)
    seen = np.array([np.mean(draws <= p) for p in points])
    assert np.all(np.abs(seen - share) < 5 * np.sqrt(share * (1 - share) / draws.size) + 1e-4)
    if noise.has_variance:
        variance = float(noise.variance(jnp.zeros(1))[0])
        assert variance == pytest.approx(law.var(), rel=1e-5)
        assert abs(draws.var() - variance) < 6 * variance * np.sqrt(6 / draws.size)


def test_pytrees_and_scales_by_coordinate():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    noise = js.Laplace({"a": jnp.array([1.0, 2.0]), "b": jnp.asarray(0.5)})
    chex.assert_trees_all_close(noise.variance(params), {"a": jnp.array([2.0, 8.0]), "b": jnp.array(0.5)})
    run = js.simulate(
        js.SignSGD(0.1).sde(js.Problem(lambda p: jnp.sum(p["a"] ** 2) + p["b"] ** 2, noise)), params,
        steps=2, seeds=4, key=jax.random.key(0),
    )  # fmt: skip
    chex.assert_tree_all_finite(run["loss"].mean)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: js.Laplace(-1.0), r"scale must lie in \[0, inf\), got -1.0"),
        (lambda: js.Uniform(jnp.array([1.0, -1.0])), r"scale must lie in \[0, inf\), got \[ 1. -1.\]"),
        (lambda: js.AlphaStable(0.0, 1.0), r"alpha must lie in \[0.5, 2\], got 0.0"),
        (lambda: js.AlphaStable(2.1, 1.0), r"alpha must lie in \[0.5, 2\], got 2.1"),
        (lambda: js.AlphaStable(jnp.array([1.0, 1.5]), 1.0), r"alpha must be one number, got shape \(2,\)"),
        (
            lambda: js.SGD(0.1).sde(js.Problem(js.Quadratic([1.0]), js.AlphaStable(1.5, 1.0))),
            "SGD's SDE needs the covariance of the gradient noise",
        ),
        (
            lambda: js.theory.stationary(js.SGD(0.1), js.Problem(js.Quadratic([1.0]), js.AlphaStable(1.5, 1.0))),
            "closed forms of SGD need noise of finite variance",
        ),
    ],
)
def test_bad_laws_raise(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


COVARIANCE = np.array([[1.0, -0.95, 0.2], [-0.95, 1.2, 0.1], [0.2, 0.1, 0.5]])


@pytest.mark.parametrize("gradient", [(0.0, 0.0, 0.0), (0.3, -0.5, 0.2), (1.5, 1.0, -0.4), (60.0, -0.1, 0.0)])
def test_covariance_of_signs(gradient):
    noise = js.Gaussian(covariance=jnp.asarray(COVARIANCE))
    g = np.array(gradient)
    got = np.asarray(noise.sign_covariance(jnp.asarray(g), jnp.zeros(3)), float)
    std = np.sqrt(np.diag(COVARIANCE))
    exact, mean = np.empty((3, 3)), 2 * scipy.stats.norm.cdf(g / std) - 1
    for i in range(3):
        for j in range(3):
            law = scipy.stats.multivariate_normal(np.zeros(2), COVARIANCE[np.ix_([i, j], [i, j])], allow_singular=True)
            both = 1.0 if i == j else law.cdf(g[[i, j]])
            up = scipy.stats.norm.cdf(g[[i, j]] / std[[i, j]])
            exact[i, j] = (1 - mean[i] ** 2) if i == j else 4 * (both - up[0] * up[1])
    np.testing.assert_allclose(got, exact, atol=1e-5)
    assert np.linalg.eigvalsh(got)[0] > -1e-5
    if not g.any():
        correlation = COVARIANCE / np.outer(std, std)
        np.testing.assert_allclose(got, 2 / np.pi * np.arcsin(np.clip(correlation, -1, 1)), atol=1e-5)


def test_one_step_of_sign_sgd_under_correlated_noise():
    problem = js.Problem(js.Quadratic(jnp.ones(3)), js.Gaussian(covariance=jnp.asarray(COVARIANCE)))
    opt, x0, seeds = js.SignSGD(1.0), jnp.array([0.3, -0.5, 0.2]), 200_000
    run = js.simulate(opt.chain(problem), x0, steps=1, seeds=seeds, key=jax.random.key(2), reduce=js.Moments(covariance=True))
    drift, diffusion = opt.sde(problem).fields(0.0, x0)
    factor = np.stack([np.asarray(diffusion(e)) for e in jnp.eye(3)], axis=1)
    np.testing.assert_allclose(np.asarray(run["x"].mean)[-1] - np.asarray(x0), drift, atol=5 / np.sqrt(seeds))
    np.testing.assert_allclose(np.asarray(run["x"].covariance)[-1], factor @ factor.T, atol=6 / np.sqrt(seeds))
    # The increment stands for the gradient's noise, and enters with a minus.
    assert np.all(np.linalg.eigvalsh(factor) < 1e-6)
