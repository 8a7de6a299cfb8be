"""Simulations against references of their own: lattice chains, quadrature, Lyapunov equations, all in numpy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from scipy.special import erf, erfc

import jaxsde as js


def _quadratic(h, sigma):
    return js.Problem(js.Quadratic([h]), js.Gaussian(sigma))


def _spread(run):
    return float(run["x"].variance[-1, 0])


def _close(got, expected, seeds, bias=0.0):
    """A variance over seeds, to 5 standard errors (of nearly Gaussian samples) and a relative bias."""
    assert abs(got - expected) < expected * (5 * np.sqrt(2 / seeds) + bias), (got, expected)


def _sign_chain_variance(h, sigma, eta):
    """E x^2 of SignSGD's birth-death chain on one parity of u + eta Z, averaged over u uniform in a cell of 2 eta."""
    reach = int(12 * np.sqrt(eta * sigma / h) / eta)
    k = np.arange(-2 * reach, 2 * reach + 1)
    values = []
    for u in (np.arange(64) + 0.5) / 64 * 2 * eta:
        x = u + eta * k
        up, down = (scipy.stats.norm.logcdf(s * h * x / sigma) for s in (-1, 1))
        log = np.concatenate([[0.0], np.cumsum(up[:-1] - down[1:])])
        even = k % 2 == 0
        pi = np.exp(log[even] - log[even].max())
        values.append(np.sum(pi * x[even] ** 2) / pi.sum())
    return np.mean(values)


def _sign_sde_variance(h, sigma, eta):
    """E x^2 of the density (1 / D) exp(int b / D), b = -erf(z), D = (eta / 2)(1 - erf(z)^2)."""
    reach = min(12 * np.sqrt(eta * sigma / h), 5 * sigma / h)
    x = np.linspace(-reach, reach, 200_001)
    z = h * x / (np.sqrt(2) * sigma)
    diffusion = eta / 2 * erfc(z) * erfc(-z)
    slope = -erf(z) / diffusion
    log = np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(x))]) - np.log(diffusion)
    density = np.exp(log - log.max())
    return np.sum(density * x**2) / density.sum()


def test_references_for_sign_sgd():
    assert _sign_chain_variance(1, 1, 0.1) == pytest.approx(6.465e-2, rel=1e-3)
    assert _sign_sde_variance(1, 1, 0.1) == pytest.approx(6.208e-2, rel=1e-3)
    assert _sign_chain_variance(1, 1, 0.01) == pytest.approx(6.2862e-3, rel=1e-4)
    assert _sign_sde_variance(1, 1, 0.01) == pytest.approx(6.2611e-3, rel=1e-4)


# The relative bias of Euler is about a eta / (2 substeps), a = sqrt(2 / pi) h / sigma: 0.5 % for the first with 8.
@pytest.mark.parametrize(("h", "sigma", "eta", "substeps"), [(1.0, 1.0, 0.1, 32), (2.0, 0.5, 0.02, 16), (1.0, 2.0, 0.05, 8)])
@pytest.mark.sweep
def test_sign_sgd_stationary_variance(h, sigma, eta, substeps):
    problem, opt, seeds = _quadratic(h, sigma), js.SignSGD(eta), 300_000
    steps = int(5 / (np.sqrt(2 / np.pi) * h / sigma) / eta)

    def x0(key):
        return jax.random.uniform(key, (1,), maxval=2 * eta)

    chain = js.simulate(opt.chain(problem), x0, steps=steps, seeds=seeds, key=jax.random.key(1))
    sde = js.simulate(opt.sde(problem), x0, steps=steps, seeds=seeds, key=jax.random.key(2), substeps=substeps)
    assert _spread(chain) == pytest.approx(_sign_chain_variance(h, sigma, eta), rel=0.01)
    assert _spread(sde) == pytest.approx(_sign_sde_variance(h, sigma, eta), rel=0.01)


def _pooled(run):
    """The variance over seeds, pooled over independent coordinates of the same law."""
    return float(np.mean(np.asarray(run["x"].variance, float)[-1]))


def _normal_start(variance, d):
    return lambda key: np.sqrt(variance).astype(np.float32) * jax.random.normal(key, (d,))


@pytest.mark.sweep
def test_adamw_stationary_variance_has_the_factor_that_lemma_c57_lacks():
    # 200,000 independent samples: 5 standard errors are 1.6 %.
    d, seeds = 50, 4_000
    problem = js.Problem(js.Quadratic(jnp.ones(d)), js.Gaussian(1.0))
    opt = js.AdamW(5e-3, b1=0.99, b2=0.999, weight_decay=0.5)
    x0 = _normal_start(1.34e-3, d)
    chain = _pooled(js.simulate(opt.chain(problem), x0, steps=2500, seeds=seeds, key=jax.random.key(3)))
    sde = _pooled(js.simulate(opt.sde(problem), x0, steps=2500, seeds=seeds, key=jax.random.key(4), substeps=4))
    _close(chain, 1.341e-3, d * seeds)
    assert chain < 0.82 * 1.667e-3
    # The SDE's own value, with V settled, is 0.6 % below the optimizer's.
    _close(sde, _adamw_variance(0.01 / 5e-3, 0.5, 5e-3, ahead=1), d * seeds, 0.005)
    _close(sde, chain, d * seeds / 2, 0.006)
    law = js.theory.stationary(opt, problem)
    assert float(law.covariance[0, 0]) == pytest.approx(1.3333e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "expected"),
    [(None, (0.0650, 0.0050)), ("compagnoni", (0.0652, 0.0051)), ("malladi", (0.0335, 0.0013))],
)
def test_rmsprop_where_the_signal_dominates(model, expected):
    problem, opt, seeds = _quadratic(1.0, 0.1), js.RMSprop(1e-3, decay=0.999, initial_scale=1.0), 2000
    process = opt.chain(problem) if model is None else opt.sde(problem, model=model)
    run = js.simulate(process, jnp.ones(1), steps=3000, every=1000, seeds=seeds, key=jax.random.key(5))
    error = 5 * np.sqrt(np.asarray(run["x"].variance)[2:, 0] / seeds)
    assert np.all(np.abs(np.asarray(run["x"].mean)[2:, 0] - expected) < error + 1e-4)


def test_cauchy_noise_breaks_sgd_and_not_sign_sgd():
    problem = js.Problem(js.EmbeddedSaddle(), js.StudentT(df=1, scale=0.1))
    common = {"steps": 1000, "seeds": 1000, "key": jax.random.key(6)}
    sgd = js.simulate(js.SGD(0.01).chain(problem), jnp.zeros(2), **common)
    assert sgd.diverged[-1] > 0
    assert np.all(np.asarray(sgd["x"].count)[-1] + int(sgd.diverged[-1]) == 1000)
    sign = js.simulate(js.SignSGD(0.01).chain(problem), jnp.zeros(2), **common)
    assert sign.diverged[-1] == 0
    with pytest.raises(ValueError, match="SGD's SDE needs the covariance of the gradient noise"):
        js.SGD(0.01).sde(problem)


@pytest.mark.parametrize("df", [1, 2, 2.5, 5])
def test_sign_sgd_one_step_mean_under_student_t(df):
    seeds, eta, x0, scale = 100_000, 0.25, 0.5, 0.7
    problem = js.Problem(js.Quadratic([1.0]), js.StudentT(df=df, scale=scale))
    run = js.simulate(js.SignSGD(eta).chain(problem), jnp.array([x0]), steps=1, seeds=seeds, key=jax.random.key(7))
    sign = 2 * scipy.stats.t.cdf(x0 / scale, df) - 1
    error = 5 * eta * np.sqrt((1 - sign**2) / seeds)
    assert abs(float(run["x"].mean[-1, 0]) - x0 + eta * sign) < error


def _adamw_variance(rho, decay, eta, ahead):
    """Var X of AdamW's linear SDE for V = h = sigma = 1, with the step's noise in dX too (`ahead` 1) or not (0)."""
    share, into = eta * rho, eta * rho * ahead
    a = np.array([[-share - decay, -(1 - share)], [rho, -rho]])
    b = np.sqrt(eta) * np.array([-into, rho])
    return scipy.linalg.solve_continuous_lyapunov(a, -np.outer(b, b))[0, 0]


@pytest.mark.sweep
def test_adamw_with_little_momentum_needs_the_noise_in_x():
    d, seeds, eta, b1 = 50, 4_000, 5e-3, 0.5
    problem = js.Problem(js.Quadratic(jnp.ones(d)), js.Gaussian(1.0))
    opt = js.AdamW(eta, b1=b1, b2=0.999, weight_decay=0.5)
    quoted, full = (_adamw_variance((1 - b1) / eta, 0.5, eta, ahead) for ahead in (0, 1))
    assert quoted / full == pytest.approx(b1**2, rel=0.01)
    common = {"steps": 1500, "seeds": seeds, "key": jax.random.key(8)}
    x0 = _normal_start(full, d)
    chain = _pooled(js.simulate(opt.chain(problem), x0, **common))
    default = _pooled(js.simulate(opt.sde(problem), x0, substeps=4, **common))
    drift = _pooled(js.simulate(opt.sde(problem, model="compagnoni-drift"), x0, substeps=4, **common))
    _close(default, chain, d * seeds / 2, 0.01)
    _close(drift, quoted, d * seeds, 0.01)


def test_sgd_stationary_variance():
    h, sigma, eta, seeds = 2.0, 0.5, 0.2, 100_000
    problem, opt = _quadratic(h, sigma), js.SGD(eta)
    common = {"steps": 40, "seeds": seeds, "key": jax.random.key(9)}
    chain = js.simulate(opt.chain(problem), jnp.zeros(1), **common)
    sde = js.simulate(opt.sde(problem), jnp.zeros(1), substeps=32, **common)
    _close(_spread(chain), eta * sigma**2 / (h * (2 - eta * h)), seeds)
    _close(_spread(sde), eta * sigma**2 / (2 * h), seeds, 0.01)  # Euler's bias is h eta / 64


def test_sgd_moments_on_a_coupled_quadratic():
    h, q = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 0.5]])
    eta, x0, t = 0.05, np.array([1.0, -2.0]), 0.8
    problem, opt = js.Problem(js.Quadratic(h), js.Gaussian(covariance=q)), js.SGD(eta)
    limit = scipy.linalg.solve_continuous_lyapunov(h, eta * q)
    np.testing.assert_allclose(js.theory.stationary(opt, problem).covariance, limit, rtol=1e-4)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    flows = [scipy.linalg.expm(-h * t * (s + 1) / 2) for s in nodes]
    covariance = sum(w * t / 2 * flow @ (eta * q) @ flow for w, flow in zip(weights, flows, strict=True))
    law = js.theory.moments(opt, problem, jnp.asarray(x0), jnp.array([t]))
    mean = scipy.linalg.expm(-h * t) @ x0
    np.testing.assert_allclose(law.mean[0], mean, rtol=1e-4)
    np.testing.assert_allclose(law.covariance[0], covariance, rtol=1e-4, atol=1e-7)
    seeds = 20_000
    run = js.simulate(opt.sde(problem), jnp.asarray(x0), steps=16, substeps=32, seeds=seeds, key=jax.random.key(10))
    for got, expected in zip(np.asarray(run["x"].variance)[-1], np.diag(covariance), strict=True):
        _close(got, expected, seeds, 0.01)
    assert np.all(np.abs(np.asarray(run["x"].mean)[-1] - mean) < 5 * np.sqrt(np.diag(covariance) / seeds) + 5e-3)


def _rmsprop_sde_variance(lam, sigma, eta, rho, t, seeds, noise_of_v):
    """Var X of RMSprop's SDE from x = 1 and V = sigma^2, with or without the noise of V, by an Euler loop in numpy."""
    rng, h = np.random.default_rng(0), eta / 4
    x, v = np.ones((seeds, len(lam))), np.full((seeds, len(lam)), sigma**2)
    for _ in range(round(t / h)):
        gradient, w, u = lam * x, *(np.sqrt(h) * rng.standard_normal((2, *x.shape)))
        ahead = v + h * rho * (gradient**2 + sigma**2 - v)
        if noise_of_v:
            ahead += np.sqrt(eta) * rho * (2 * gradient * sigma * w + np.sqrt(2) * sigma**2 * u)
        x, v = x - (gradient * h + np.sqrt(eta) * sigma * w) / np.sqrt(v), ahead
    return x.var(axis=0)


@pytest.mark.sweep
def test_the_dropped_noise_of_v_is_what_rmsprops_sde_misses_along_the_way():
    lam, sigma, eta, seeds = np.array([1.0, 2.0]), 2.0, 0.01, 60_000
    problem, opt = js.Problem(js.Quadratic(lam), js.Gaussian(sigma)), js.RMSprop(eta, 0.99, initial_scale=sigma**2)
    common = {"steps": 180, "seeds": seeds, "key": jax.random.key(11)}
    chain = np.asarray(js.simulate(opt.chain(problem), jnp.ones(2), **common)["x"].variance)[-1]
    sde = np.asarray(js.simulate(opt.sde(problem), jnp.ones(2), substeps=4, **common)["x"].variance)[-1]
    plain, full = (_rmsprop_sde_variance(lam, sigma, eta, 1.0, 1.8, seeds, noise) for noise in (False, True))
    for i in range(2):
        _close(sde[i], plain[i], seeds / 2, 0.005)
        _close(full[i], chain[i], seeds / 2, 0.01)
        assert sde[i] > 1.04 * chain[i]


@pytest.mark.parametrize("loss", ["quadratic", "saddle"])
def test_the_sde_stays_true_over_a_hundred_relaxation_times(loss):
    """The gap in the mean loss is of the order of the learning rate while it falls, and does not grow thereafter."""
    eta, sigma = 0.05, 0.5
    loss, start, relaxation = {
        "quadratic": (js.Quadratic([1.0]), jnp.array([2.0]), sigma * np.sqrt(np.pi / 2)),
        "saddle": (js.EmbeddedSaddle(), jnp.full(2, 0.01), 1.0),
    }[loss]
    problem, opt = js.Problem(loss, js.Gaussian(sigma)), js.SignSGD(eta)
    steps = 20 * int(np.ceil(100 * relaxation / eta / 20))
    run = dict(steps=steps, seeds=4096, every=20, key=jax.random.key(3), observe={"loss": problem.loss})
    chain = js.simulate(opt.chain(problem), start, **run)["loss"]
    sde = js.simulate(opt.sde(problem), start, substeps=8, **run)["loss"]
    gap = np.abs(np.asarray(sde.mean) - np.asarray(chain.mean))[1:]
    allowed = eta * np.abs(np.asarray(chain.mean))[1:] + 6 * np.hypot(sde.stderr, chain.stderr)[1:]
    assert np.all(gap < allowed)
    half = len(gap) // 2
    assert np.mean(gap[half:]) < np.mean(gap[:half]) + np.mean(sde.stderr)
    if isinstance(loss, js.Quadratic):
        # The later half, on average, has the exact stationary laws; Euler's step adds half a per cent to the SDE's.
        tolerance = 6 * np.sqrt(2 / (4096 * (len(gap) - half)))
        exact, its_exact = _sign_chain_variance(1.0, sigma, eta), _sign_sde_variance(1.0, sigma, eta)
        assert 2 * np.mean(chain.mean[half:]) == pytest.approx(exact, rel=tolerance)
        assert 2 * np.mean(sde.mean[half:]) == pytest.approx(its_exact, rel=tolerance + 0.005)
