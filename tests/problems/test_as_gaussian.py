"""Gaussian noise with the covariance of another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsde as js


def half_square(w, example):
    features, target = example
    return 0.5 * (features @ w - target) ** 2


def regression(batch_size=4):
    features = jax.random.normal(jax.random.key(0), (30, 2)) * jnp.array([1.0, 3.0])
    targets = features @ jnp.array([1.0, -1.0]) + jax.random.exponential(jax.random.key(1), (30,))
    return js.Problem.from_data(half_square, (features, targets), batch_size=batch_size)


def test_it_has_the_batches_covariance_and_a_normal_law():
    problem, params = regression(), jnp.array([0.3, 0.1])
    noise = js.AsGaussian(problem.noise)
    normal = js.Problem(problem.loss, noise)
    for name in ("covariance", "variance"):
        np.testing.assert_array_equal(getattr(noise, name)(params), getattr(problem.noise, name)(params))
    keys = jax.random.split(jax.random.key(2), 20_000)
    drawn = np.asarray(jax.vmap(lambda key: normal.stochastic_gradient(params, key))(keys) - normal.gradient(params), float)
    covariance = np.asarray(noise.covariance(params), float)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), drawn.T)
    for z in whitened:
        assert scipy.stats.kstest(z, "norm").pvalue > 1e-3
    errors = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / len(drawn))
    assert np.all(np.abs(drawn.T @ drawn / len(drawn) - covariance) < 5 * errors)
    batches = jax.vmap(lambda key: problem.stochastic_gradient(params, key))(keys) - problem.gradient(params)
    assert scipy.stats.kstest(np.linalg.solve(np.linalg.cholesky(covariance), batches.T)[1], "norm").pvalue < 1e-6


@pytest.mark.parametrize("opt", [js.SGD(0.05), js.AdamW(0.01), js.RMSprop(0.01)])
def test_sdes_are_those_of_the_noise_itself(opt):
    problem, run = regression(), dict(steps=4, seeds=3, key=jax.random.key(3), progress=False)
    own, normal = (
        js.simulate(opt.sde(js.Problem(problem.loss, noise)).discretised(2, "gaussian"), jnp.ones(2), **run)["x"].mean
        for noise in (problem.noise, js.AsGaussian(problem.noise))
    )
    if opt.sde(problem).start_steps:  # which are the optimizer's, on batches or on normal noise
        assert not np.array_equal(own, normal) and np.all(np.isfinite(normal))
    else:
        np.testing.assert_array_equal(own, normal)


def test_noise_of_ones_own_on_a_pytree():
    sampler = lambda key: jax.random.normal(key, (3,))
    noise = js.OnePass(lambda params, example: jnp.sum((params["w"] - example) ** 2), sampler, batch_size=2)
    params = {"w": jnp.zeros(3)}
    normal = js.Problem(noise.reference.loss, js.AsGaussian(noise))
    run = js.simulate(js.SGD(0.1).chain(normal), params, steps=5, seeds=4, key=jax.random.key(0), progress=False)
    assert np.all(np.isfinite(run["x"].mean["w"])) and np.all(np.asarray(run["x"].variance["w"])[-1] > 0)


def test_bad_arguments():
    with pytest.raises(TypeError, match="noise law such as"):
        js.AsGaussian(0.5)  # pyright: ignore
    with pytest.raises(ValueError, match="StudentT noise has no covariance"):
        js.AsGaussian(js.StudentT(1.5, 1.0))
