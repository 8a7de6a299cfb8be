"""Losses and noise laws against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsde as js


def test_gradients_of_the_losses():
    rng = np.random.default_rng(0)
    x, a, b = rng.normal(size=3), rng.normal(size=(7, 3)), rng.normal(size=7)
    h = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.0], [0.1, 0.0, 3.0]])
    labels = np.array([0, 1, 1, 0, 1, 0, 0])
    sign = 2 * labels - 1
    cases = [
        (js.Quadratic(jnp.asarray(h), minimum=jnp.ones(3)), h @ (x - 1)),
        (js.Quadratic([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]) * x),
        (js.EmbeddedSaddle([-1.0, 2.0, 1.0], 0.7, 0.3), np.array([-1.0, 2.0, 1.0]) * x + 0.7 * x**3 - 0.3 * x**2),
        (js.LinearRegression(a, b), a.T @ (a @ x - b) / 7),
        (js.LogisticRegression(a, labels, ridge=0.1), -(sign / (1 + np.exp(sign * (a @ x)))) @ a / 7 + 0.1 * x),
    ]
    for loss, gradient in cases:
        np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(x, jnp.float32)), gradient, rtol=2e-5, atol=1e-6)
    matrix = js.Quadratic(jnp.asarray(h))
    np.testing.assert_allclose(jax.hessian(matrix)(jnp.zeros(3)), h, rtol=1e-6)


@pytest.mark.parametrize("df", [1.0, 2.0, 2.5, 3.0, 4.0, 7.0, None])
def test_sign_probabilities(df):
    noise = js.Gaussian(0.5) if df is None else js.StudentT(df, 0.5)
    law = scipy.stats.norm(scale=0.5) if df is None else scipy.stats.t(df, scale=0.5)
    g = np.array([-1e25, -40.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.2, 1.0, 5.0])
    params = jnp.zeros(len(g))
    np.testing.assert_allclose(noise.mean_sign(jnp.asarray(g, jnp.float32), params), 2 * law.cdf(g) - 1, atol=3e-6)
    np.testing.assert_allclose(noise.prob_negative(jnp.asarray(g, jnp.float32), params), law.cdf(-g), rtol=3e-4, atol=1e-7)


def test_no_noise_has_certain_signs():
    signs = js.Gaussian(0.0).mean_sign(jnp.array([-1.0, 0.0, 2.0]), jnp.zeros(3))
    assert signs.tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("df", [1.0, 2.0, 2.5, 3.0, 4.0])
@pytest.mark.parametrize("scale", [0.0, 1e-10])
def test_signs_are_certain_where_gradient_over_scale_overflows(df, scale):
    noise, g = js.StudentT(df, scale), jnp.array([-1e30, 1e30])
    assert noise.mean_sign(g, g).tolist() == [-1.0, 1.0]
    np.testing.assert_allclose(noise.prob_negative(g, g), [1.0, 0.0], atol=1e-38)


def test_sampled_noise_has_its_covariance():
    covariance = jnp.array([[1.0, 0.5], [0.5, 2.0]])
    for noise in (js.Gaussian(0.7), js.Gaussian(jnp.array([0.5, 2.0])), js.Gaussian(covariance=covariance)):
        problem, n = js.Problem(js.Quadratic([1.0, 2.0]), noise), 200_000
        keys = jax.random.split(jax.random.key(0), n)
        g = np.asarray(jax.vmap(lambda k, p=problem: p.stochastic_gradient(jnp.ones(2), k))(keys), float)
        want = np.asarray(noise.covariance(jnp.ones(2)), float)
        spread = np.sqrt(np.diag(want))
        assert np.all(np.abs(g.mean(axis=0) - [1.0, 2.0]) < 5 * spread / np.sqrt(n))
        stderr = np.sqrt((np.outer(spread**2, spread**2) + want**2) / n)
        assert np.all(np.abs(np.cov(g.T) - want) < 5 * stderr)
        np.testing.assert_allclose(np.asarray(noise.sqrt_covariance(jnp.ones(2))(jnp.ones(2))).shape, (2,))


@pytest.mark.parametrize("df", [1.0, 2.5, 8.0])
def test_student_noise_has_the_t_law(df):
    problem = js.Problem(js.Quadratic([1.0]), js.StudentT(df, 1.0))
    keys = jax.random.split(jax.random.key(1), 50_000)
    z = np.asarray(jax.vmap(lambda k: problem.stochastic_gradient(jnp.zeros(1), k))(keys))[:, 0]
    assert scipy.stats.kstest(z, scipy.stats.t(df).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: js.Quadratic(jnp.array([[1.0, 2.0], [0.0, 1.0]])), "hessian must be symmetric"),
        (lambda: js.Gaussian(-1.0), r"scale must lie in \[0, inf\), got -1.0"),
        (lambda: js.Gaussian(), "exactly one of them"),
        (lambda: js.Gaussian(1.0, covariance=jnp.eye(2)), "exactly one of them"),
        (lambda: js.Gaussian(covariance=jnp.array([[1.0, 2.0], [2.0, 1.0]])), "semi-definite, but has the eigenvalue -1"),
        (lambda: js.StudentT(df=0.0, scale=1.0), r"df must lie in \(0, inf\), got 0.0"),
        (lambda: js.Problem(js.Quadratic([1.0]), 0.5), "noise must be a noise law .*, got 0.5"),
        (
            lambda: js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(jnp.ones(3))).validate(jnp.ones(2)),
            r"scale has shape \(3,\)",
        ),
    ],
)
def test_bad_arguments_raise(bad, message):
    with pytest.raises((ValueError, TypeError), match=message):
        bad()
