"""SAM: one step by enumeration of batches, by quadrature and by draws of NumPy, and linear chains."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, gammaln, hyp1f1

import jaxsde as js
from jaxsde.optimizers._sam import mean_direction

H = np.array([[2.0, 0.7], [0.7, 1.0]])
Q = np.array([[1.0, -0.4], [-0.4, 0.5]])
X = np.array([0.6, -0.9])


def _fields(sde, x):
    """Drift and covariance per step length of an SDE at the point `x`."""
    x = jnp.asarray(x, jnp.float32)
    drift, diffusion = sde.fields(0.0, x)
    root = np.stack([np.asarray(diffusion(w), float) for w in jnp.eye(sde.noise_shaped(x).size, dtype=x.dtype)], axis=1)
    return np.asarray(drift, float), root @ root.T / float(sde.learning_rate)


def _steps(opt, problem, n):
    chain, x = opt.chain(problem), jnp.asarray(X, jnp.float32)
    step = lambda key: chain.step(chain.init(x), key).x
    return (np.asarray(jax.vmap(step)(jax.random.split(jax.random.key(0), n)), float) - X) / float(opt.rate)


def _agree(sample, mean, covariance):
    n, centred = len(sample), sample - sample.mean(axis=0)
    assert np.all(np.abs(sample.mean(axis=0) - mean) < 5 * sample.std(axis=0) / np.sqrt(n) + 1e-6)
    products = centred[:, :, None] * centred[:, None, :]
    assert np.all(np.abs(products.mean(axis=0) - covariance) < 5 * products.std(axis=0) / np.sqrt(n) + 1e-6)


def test_usam_on_a_quadratic_is_exact():
    rho, opt = 0.4, js.USAM(0.1, 0.4)
    problem = js.Problem(js.Quadratic(H), js.Gaussian(covariance=Q))
    drift, covariance = _fields(opt.sde(problem), X)
    uphill = np.eye(2) + rho * H
    np.testing.assert_allclose(drift, -uphill @ H @ X, rtol=1e-5)
    np.testing.assert_allclose(covariance, uphill @ Q @ uphill.T, rtol=1e-5)
    _agree(_steps(opt, problem, 50_000), drift, covariance)
    np.testing.assert_allclose(opt.sde(problem, "ode").drift(0.0, jnp.asarray(X, jnp.float32)), drift, rtol=1e-6)


def test_usam_on_a_curved_loss_is_right_to_first_order_in_rho():
    """By Gauss-Hermite quadrature: the errors of drift and variance fall fourfold as rho is halved."""
    x, sigma = 0.8, 0.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    slope = lambda x: x**3 + np.sin(x)
    problem = js.Problem(lambda x: jnp.sum(x**4 / 4 - jnp.cos(x)), js.Gaussian(sigma))
    errors = []
    for rho in (0.08, 0.04):
        g = slope(x) + sigma * nodes
        received = slope(x + rho * g) + sigma * nodes
        mean = weights @ received
        variance = weights @ (received - mean) ** 2
        drift, covariance = _fields(js.USAM(0.1, rho).sde(problem), [x])
        errors.append((drift[0] + mean, covariance[0, 0] - variance))
    quotients = np.abs(np.divide(*errors))
    assert np.all((3 < quotients) & (quotients < 6)), quotients
    # First order in rho matters: without it the errors are these.
    assert np.all(np.abs(errors[1]) < 0.15 * np.abs([mean - slope(x), variance - sigma**2]))


def _regression():
    rng = np.random.default_rng(2)
    a, y = rng.normal(size=(6, 2)), rng.normal(size=6)
    data = jnp.asarray(a, jnp.float32), jnp.asarray(y, jnp.float32)
    return a, y, js.Problem.from_data(lambda w, e: 0.5 * (w @ e[0] - e[1]) ** 2, data, batch_size=2)


def test_usam_on_mini_batches_by_enumerating_them():
    """All 36 batches: the mean of a step is exact on linear regression, and so is what is linear in the batch's noise."""
    a, y, problem = _regression()
    batches = np.array(list(itertools.product(range(6), repeat=2)))
    hessians = np.einsum("bni,bnj->bij", a[batches], a[batches]) / 2
    gradients = np.einsum("bni,bn->bi", a[batches], a[batches] @ X - y[batches]) / 2
    rho = 0.3
    received = gradients + rho * np.einsum("bij,bj->bi", hessians, gradients)
    drift, covariance = _fields(js.USAM(0.1, rho).sde(problem), X)
    np.testing.assert_allclose(drift, -received.mean(axis=0), rtol=1e-4)
    # z + rho (mean H z + (H_b - mean H) mean g), to first order in rho; H_b z is of third order in the noise.
    hessian, mean = hessians.mean(axis=0), gradients.mean(axis=0)
    z = gradients - mean
    linear = z + rho * (z @ hessian + (hessians - hessian) @ mean)
    np.testing.assert_allclose(covariance, linear.T @ linear / 36, rtol=1e-4, atol=1e-5)
    _agree(_steps(js.USAM(0.1, rho), problem, 50_000), drift, np.cov(received.T, bias=True))


@pytest.mark.parametrize("d", [1, 2, 3, 40, 100_000])
def test_a_mean_direction_is_a_confluent_hypergeometric_function(d):
    sigma = 0.7
    for ratio in (0.0, 1e-3, 0.4, 1.0, 3.0, 30.0):
        g = np.zeros(d)
        g[0] = ratio * sigma * np.sqrt(d)
        scale = np.exp(gammaln((d + 1) / 2) - gammaln(d / 2 + 1)) / np.sqrt(2) / sigma
        expected = g[0] * scale * hyp1f1(0.5, d / 2 + 1, -(g[0] ** 2) / (2 * sigma**2))
        got = mean_direction(jnp.asarray(g, jnp.float32), jnp.asarray(sigma))
        assert float(got[0]) == pytest.approx(expected, rel=3e-5) and not np.any(got[1:])


def test_directions_without_noise():
    assert mean_direction({"a": jnp.array([3.0]), "b": jnp.array(4.0)}, jnp.zeros(()))["b"] == pytest.approx(0.8)
    assert not np.any(mean_direction(jnp.zeros(2), jnp.zeros(())))
    opt, problem = js.SAM(0.1, 0.5), js.Problem(js.Quadratic(H), js.Gaussian(0.0))
    for x in (X, [0.0, 0.0]):
        drift, covariance = _fields(opt.sde(problem), x)
        g = H @ x
        np.testing.assert_allclose(drift, -(g + 0.5 * H @ g / max(np.linalg.norm(g), 1e-9)), rtol=1e-5)
        assert not np.any(covariance)


def test_sam_in_one_dimension_has_the_sign():
    rho, h, sigma, x = 0.3, 2.0, 0.7, 0.4
    drift, covariance = _fields(js.SAM(0.1, rho).sde(js.Problem(js.Quadratic([h]), js.Gaussian(sigma))), [x])
    ratio = h * x / sigma
    np.testing.assert_allclose(drift, -(h * x + rho * h * erf(ratio / np.sqrt(2))), rtol=1e-5)
    # Cov(Z, sign) = sigma sqrt(2 / pi) e^(-ratio^2 / 2).
    shared = sigma * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2)
    np.testing.assert_allclose(covariance, (sigma + rho * h * shared / sigma) ** 2, rtol=1e-5)


def test_sam_on_a_quadratic_by_draws():
    """The drift is exact; the covariance is to first order in rho, with the rest from the same draws."""
    rho, sigma, n, opt = 0.4, 0.8, 400_000, js.SAM(0.1, 0.4)
    problem = js.Problem(js.Quadratic(H), js.Gaussian(sigma))
    g = H @ X + sigma * np.random.default_rng(3).standard_normal((n, 2))
    turned = g / np.linalg.norm(g, axis=1, keepdims=True) @ H
    drift, covariance = _fields(opt.sde(problem), X)
    received = g + rho * turned
    assert np.all(np.abs(received.mean(axis=0) + drift) < 5 * received.std(axis=0) / np.sqrt(n))
    between = np.cov(g.T, turned.T)[:2, 2:]
    slope = (_fields(js.SAM(0.1, 1e-2).sde(problem), X)[1] - sigma**2 * np.eye(2)) / 1e-2
    np.testing.assert_allclose(slope, between + between.T, atol=0.03)
    assert np.abs(between + between.T).max() > 0.5
    exact = np.cov(received.T)
    assert np.abs(covariance - exact).max() < 0.35 * np.abs(sigma**2 * np.eye(2) - exact).max()
    _agree(_steps(opt, problem, 50_000), drift, exact)


def test_usams_chain_and_sde_on_a_line_have_their_exact_variances():
    h, sigma, eta, rho, d, seeds = 2.0, 0.6, 0.1, 0.5, 20, 2000
    opt, problem = js.USAM(eta, rho), js.Problem(js.Quadratic(jnp.full(d, h)), js.Gaussian(sigma))
    uphill = 1 + rho * h
    exact = (eta * uphill * sigma) ** 2 / (1 - (1 - eta * h * uphill) ** 2)
    run = js.simulate(opt.chain(problem), jnp.zeros(d), steps=30, seeds=seeds, key=jax.random.key(1), progress=False)
    assert np.mean(run["x"].variance[-1]) == pytest.approx(exact, rel=5 * np.sqrt(2 / (d * seeds)))
    line = js.Problem(js.Quadratic([h]), js.Gaussian(sigma))
    assert js.theory.density(opt.sde(line)).variance == pytest.approx(eta * uphill * sigma**2 / (2 * h), rel=1e-4)


def test_a_schedule_multiplies_drift_and_diffusion():
    rates, problem = np.array([0.1, 0.05, 0.02], np.float32), js.Problem(js.Quadratic(H), js.Gaussian(0.5))
    for kind in (js.USAM, js.SAM):
        plain, sde = kind(0.1, 0.3).sde(problem), kind(lambda k: jnp.asarray(rates)[k], 0.3, reference_rate=0.1).sde(problem)
        for k in range(3):
            (b, a), (want, root) = sde.fields((k + 0.5) * 0.1, jnp.ones(2)), plain.fields(0.0, jnp.ones(2))
            np.testing.assert_allclose(b, want * rates[k] / 0.1, rtol=1e-5)
            np.testing.assert_allclose(a(jnp.ones(2)), root(jnp.ones(2)) * rates[k] / 0.1, rtol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"rho must lie in \[0, inf\), got -0.1"):
        js.USAM(0.1, -0.1)
    with pytest.raises(TypeError, match="rho must be one number"):
        js.SAM(0.1, "a")

    class Own(js.Gaussian):
        pass

    quadratic = js.Quadratic([1.0, 2.0])
    with pytest.raises(ValueError, match="one draw of the noise is at two points.*got Own"):
        js.USAM(0.1, 0.1).sde(js.Problem(quadratic, Own(1.0)))
    with pytest.raises(ValueError, match="USAM's SDE needs the covariance"):
        js.USAM(0.1, 0.1).sde(js.Problem(quadratic, js.StudentT(2.0, 1.0)))
    for noise in (js.Laplace(1.0), js.Gaussian(jnp.ones(2)), js.Gaussian(covariance=np.eye(2)), _regression()[2].noise):
        with pytest.raises(ValueError, match="Gaussian noise with one standard deviation for all coordinates"):
            js.SAM(0.1, 0.1).sde(js.Problem(quadratic, noise))
    with pytest.raises(ValueError, match="SAM's model must be one of 'compagnoni', 'ode', got 'x'"):
        js.SAM(0.1, 0.1).sde(js.Problem(quadratic, js.Gaussian(1.0)), "x")
    with pytest.raises(ValueError, match="not known for the optimizer SAM"):
        js.theory.scaled(js.SAM(0.1, 0.1), 2.0)
