"""Fresh examples at each step: exact recursions of second moments, draws of NumPy, and the high-dimensional limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import jaxsde as js

K = np.array([[1.0, 0.5, 0.1], [0.5, 2.0, -0.4], [0.1, -0.4, 0.6]])
LOW, X, V = np.array([0.2, -0.1, 0.4]), np.array([0.7, -0.4, 1.0]), 0.8


def _draws(n, batch_size=1, seed=0):
    """Stochastic gradients at X, by NumPy."""
    rng = np.random.default_rng(seed)
    a = rng.multivariate_normal(np.zeros(3), K, (n, batch_size))
    return np.mean(a * (a @ (X - LOW) - V * rng.standard_normal((n, batch_size)))[..., None], axis=1)


def _agree(sample, mean, covariance):
    n, centred = len(sample), sample - sample.mean(axis=0)
    assert np.all(np.abs(sample.mean(axis=0) - mean) < 5 * sample.std(axis=0) / np.sqrt(n))
    products = centred[:, :, None] * centred[:, None, :]
    assert np.all(np.abs(products.mean(axis=0) - covariance) < 5 * products.std(axis=0) / np.sqrt(n) + 1e-6)


def _by_root(root):
    columns = np.stack([root(w) for w in jnp.eye(3)], axis=1)
    return columns @ columns.T


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_gradient_of_a_gaussian_design(batch_size):
    problem, x = js.one_pass_regression(K, LOW, label_noise=V, batch_size=batch_size), jnp.asarray(X, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 100_000)
    own = np.asarray(jax.vmap(lambda key: problem.stochastic_gradient(x, key))(keys), float)
    covariance = np.asarray(problem.noise.covariance(x))
    for sample in (_draws(100_000, batch_size), own):
        _agree(sample, np.asarray(problem.gradient(x)), covariance)
    np.testing.assert_allclose(_by_root(problem.noise.sqrt_covariance(x)), covariance, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(problem.noise.variance(x), np.diag(covariance), rtol=1e-5)
    assert float(problem.loss(x)) == pytest.approx((X - LOW) @ K @ (X - LOW) / 2, rel=1e-5)


def test_the_signs_of_a_gaussian_design():
    problem, x = js.one_pass_regression(K, LOW, label_noise=V), jnp.asarray(X, jnp.float32)
    signs, noise = np.sign(_draws(400_000)), problem.noise
    drift, diffusion = js.SignSGD(1.0).sde(problem).fields(0.0, x)
    covariance = np.asarray(noise.sign_covariance(problem.gradient(x), x))
    _agree(signs, -np.asarray(drift), covariance)
    np.testing.assert_allclose(_by_root(diffusion), covariance, rtol=1e-4, atol=1e-5)
    # At the minimum the signs are those of pairs of features alone.
    at = jnp.asarray(LOW, jnp.float32)
    correlation = K / np.sqrt(np.outer(np.diag(K), np.diag(K)))
    expected = 2 / np.pi * np.arcsin(correlation)
    np.testing.assert_allclose(noise.sign_covariance(problem.gradient(at), at), expected, rtol=1e-4, atol=1e-5)
    # Without label noise the minimum has no gradient at all.
    still = js.one_pass_regression(K, LOW, label_noise=0.0)
    drift, diffusion = js.SignSGD(1.0).sde(still).fields(0.0, at)
    assert not np.any(drift) and not np.any(diffusion(jnp.ones(3)))


def _second_moments(eta, v, steps):
    """E r r' of SGD on a Gaussian design, by E a a' M a a' = 2 K M K + tr(K M) K."""
    m = np.outer(X - LOW, X - LOW)
    for _ in range(steps):
        m = m - eta * (K @ m + m @ K) + eta**2 * (2 * K @ m @ K + (np.trace(K @ m) + v**2) * K)
    return m


def test_sgd_on_a_gaussian_design_follows_its_exact_second_moments():
    eta, steps, seeds = 0.05, 25, 20_000
    problem, opt = js.one_pass_regression(K, LOW, label_noise=V), js.SGD(eta)
    observe = {"rr": lambda x: jnp.outer(x - LOW.astype(np.float32), x - LOW.astype(np.float32))}
    run = dict(steps=steps, seeds=seeds, key=jax.random.key(1), progress=False, observe=observe)
    got = js.simulate(opt.chain(problem), jnp.asarray(X, jnp.float32), **run)["rr"]
    assert np.all(np.abs(np.asarray(got.mean[-1]) - _second_moments(eta, V, steps)) < 5.5 * np.asarray(got.stderr[-1]))
    # The SDE's drift and covariance make the same moments, but for eta^2 K M K.
    x = jnp.asarray(X, jnp.float32)
    drift, diffusion = opt.sde(problem).fields(0.0, x)
    r, step = X - LOW, -np.asarray(drift, float)
    one = (
        np.outer(r, r)
        - eta * (np.outer(r, step) + np.outer(step, r))
        + eta * _by_root(diffusion)
        + eta**2 * K @ np.outer(r, r) @ K
    )
    np.testing.assert_allclose(one, _second_moments(eta, V, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.sweep
def test_sgds_stationary_loss_tends_to_that_of_high_dimension():
    """Exactly eta v^2 / (2 (2 - eta (d + 2) / d)) on K = 1 at the rate eta / d."""
    eta, v, d, seeds = 0.8, 0.7, 30, 2000
    problem, opt = js.one_pass_regression(np.eye(d), label_noise=v), js.SGD(eta / d)
    run = dict(steps=16 * d, seeds=seeds, every=8 * d, key=jax.random.key(2), progress=False, observe={"loss": problem.loss})
    exact, limit = eta * v**2 / (2 * (2 - eta * (d + 2) / d)), eta * v**2 / (2 * (2 - eta))
    sde_limit = eta * v**2 / (2 * (2 - eta * (d + 1) / d))
    assert 1.02 < exact / limit < 1.1
    for process, expected, more in ((opt.chain(problem), exact, {}), (opt.sde(problem), sde_limit, dict(substeps=8))):
        got = js.simulate(process, jnp.zeros(d), **run, **more)["loss"]
        # Euler's step adds eta m / (d substeps), half a per cent here.
        assert abs(float(got.mean[-1]) - expected) < 6 * float(got.stderr[-1]) + (0.005 * expected if more else 0)
        assert float(got.stderr[-1]) < 0.01 * expected


@pytest.mark.sweep
def test_sign_sgd_in_high_dimension_has_the_risk_of_xiao2024():
    """On K = 1, in the time k / d at the rate eta / d: chain, SDE, and m' = -(4 eta / pi) m / sqrt(m + v^2) + eta^2."""
    eta, v, d, time = 0.6, 0.5, 400, 6
    problem, opt = js.one_pass_regression(np.eye(d), label_noise=v), js.SignSGD(eta / d)
    start = jnp.full(d, 1 / np.sqrt(d).astype(np.float32))
    run = dict(steps=time * d, seeds=100, every=d, progress=False, observe={"loss": problem.loss})
    flow = lambda t, m: -4 * eta / np.pi * m / np.sqrt(m + v**2) + eta**2
    risk = scipy.integrate.solve_ivp(flow, (0, time), [1.0], t_eval=np.arange(time + 1), rtol=1e-8).y[0] / 2
    chain = js.simulate(opt.chain(problem), start, key=jax.random.key(3), **run)["loss"]
    sde = js.simulate(opt.sde(problem), start, key=jax.random.key(4), substeps=1, **run)["loss"]
    for got in (chain, sde):
        # Of the order of one over the dimension.
        assert np.all(np.abs(np.asarray(got.mean) - risk) < 6 * np.asarray(got.stderr) + 0.01 * risk)
        assert np.all(np.asarray(got.stderr)[1:] < 0.02 * risk[1:])


def _example_loss(w, example):
    return 0.5 * (w @ example[0] - example[1]) ** 2


def _sampler(key):
    one, other = jax.random.split(key)
    a = jnp.linalg.cholesky(jnp.asarray(K, jnp.float32)) @ jax.random.normal(one, (3,))
    return a, a @ jnp.asarray(LOW, jnp.float32) + V * jax.random.normal(other)


def test_one_pass_over_any_population_is_that_of_the_closed_form():
    known, x = js.one_pass_regression(K, LOW, label_noise=V, batch_size=2), jnp.asarray(X, jnp.float32)
    problem = js.Problem.one_pass(_example_loss, _sampler, loss=known.loss, batch_size=2, covariance_examples=20_000)
    keys = jax.random.split(jax.random.key(0), 100_000)
    own = np.asarray(jax.vmap(lambda key: problem.stochastic_gradient(x, key))(keys), float)
    _agree(own, np.asarray(known.gradient(x)), np.asarray(known.noise.covariance(x)))
    # The fixed sample's, to 5 standard errors of products of normal numbers, and over batches of two.
    spread = np.sqrt(96 / 20_000) * np.outer(*2 * [np.sqrt(np.asarray(known.noise.variance(x)))])
    assert np.all(np.abs(np.asarray(problem.noise.covariance(x)) - np.asarray(known.noise.covariance(x))) < 5 * spread)
    estimated = js.Problem.one_pass(_example_loss, _sampler, covariance_examples=20_000).gradient(x)
    error = 5 * np.sqrt(2 * np.asarray(known.noise.variance(x)) / 20_000)
    assert np.all(np.abs(np.asarray(estimated) - np.asarray(known.gradient(x))) < error)


@pytest.mark.parametrize("opt", [js.Adam(0.01), js.SignSGD(0.01)], ids=lambda opt: type(opt).__name__)
def test_chains_and_sdes_of_optimizers_run_on_it(opt):
    problem = js.Problem.one_pass(_example_loss, _sampler, covariance_examples=32)
    run = dict(steps=4, seeds=4, key=jax.random.key(0), progress=False)
    for process in (opt.chain(problem), opt.sde(problem)):
        ensemble = js.simulate(process, jnp.asarray(X, jnp.float32), **run)
        assert np.all(np.isfinite(ensemble["x"].mean)) and np.all(ensemble["x"].variance[-1] > 0)


def test_a_sampler_written_anew_compiles_nothing():
    from benchmarks._compiles import count_compiles

    def run(size):
        problem = js.Problem.one_pass(_example_loss, lambda key: (size * jax.random.normal(key, (3,)), 1.0 * size))
        return js.simulate(js.SGD(0.1).chain(problem), jnp.ones(3), steps=4, seeds=4, key=jax.random.key(0), progress=False)

    first = run(jnp.asarray(1.0))
    with count_compiles() as compiles:
        second = run(jnp.asarray(0.5))
    assert compiles.count == 0 and not np.allclose(first["x"].mean[-1], second["x"].mean[-1])


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="sampler must be a function of a JAX key to an example, got 3"):
        js.OnePass(_example_loss, 3)
    with pytest.raises(ValueError, match="sampler, a function of a JAX key to an example, raised ZeroDivisionError"):
        js.OnePass(_example_loss, lambda key: 1 / 0)
    with pytest.raises(TypeError, match="example_loss must be callable"):
        js.OnePass("loss", _sampler)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        js.OnePass(_example_loss, _sampler, batch_size=0)
    with pytest.raises(ValueError, match="covariance_examples must be at least 2"):
        js.OnePass(_example_loss, _sampler, covariance_examples=1)
    with pytest.raises(ValueError, match="covariance must be positive semi-definite"):
        js.one_pass_regression([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="covariance must have a positive diagonal"):
        js.one_pass_regression([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"minimum must be a number or have shape \(3,\)"):
        js.one_pass_regression(K, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"label_noise must lie in \[0, inf\), got -1.0"):
        js.one_pass_regression(K, label_noise=-1.0)
    with pytest.raises(ValueError, match="signs of a mean over 2 examples have no closed form"):
        js.SignSGD(0.1).sde(js.one_pass_regression(K, batch_size=2)).drift(0.0, jnp.ones(3))
    with pytest.raises(ValueError, match=r"parameters of this regression are one vector of shape \(3,\)"):
        js.one_pass_regression(K).noise.validate({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="noise of constant law, got GaussianDesign"):
        js.theory.stationary(js.SGD(0.1), js.one_pass_regression(K))
