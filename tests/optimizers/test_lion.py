"""Signum and Lion: one step's moments by brute force, recursions, and stationary laws by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import erf

import jaxsde as js
from jaxsde.optimizers import LionState
from jaxsde.theory import scaled

ETA, B1, B2, THETA = 0.05, 0.7, 0.9, 0.4
OPTIMIZERS = {"signum": js.Signum(ETA, B1), "lion": js.Lion(ETA, B1, B2, THETA)}


def _numbers(name):
    return (B1, B1, 0.0) if name == "signum" else (B1, B2, THETA)


def _matrix(diffusion, like):
    """A diffusion on a state of two coordinates as a matrix: rows x, m; columns the noises."""
    flat, unravel = jax.flatten_util.ravel_pytree(like)
    return np.stack([jax.flatten_util.ravel_pytree(diffusion(unravel(w)))[0] for w in jnp.eye(flat.size)], axis=1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_drift_and_covariance_are_those_of_one_step(name):
    """Mean and covariance of the optimizer's step from (x, m), from a million draws in NumPy."""
    (b1, b2, theta), h, sigma = _numbers(name), np.array([1.0, 3.0]), np.array([0.5, 2.0])
    x, m = np.array([0.3, -0.4]), np.array([-0.2, 0.3])
    opt, problem = OPTIMIZERS[name], js.Problem(js.Quadratic(h), js.Gaussian(jnp.asarray(sigma)))
    n = 1_000_000
    g = h * x + sigma * np.random.default_rng(0).standard_normal((n, 2))
    steps = np.concatenate([-(np.sign(b1 * m + (1 - b1) * g) + theta * x), (1 - b2) / ETA * (g - m)], axis=1)
    error = 5 * steps.std(axis=0) / np.sqrt(n)
    sde, y = opt.sde(problem), LionState(jnp.asarray(x, jnp.float32), jnp.asarray(m, jnp.float32))
    drift, diffusion = sde.fields(0.0, y)
    assert np.all(np.abs(np.concatenate(drift) - steps.mean(axis=0)) < error)
    np.testing.assert_allclose(np.concatenate(opt.sde(problem, "ode").drift(0.0, y)), np.concatenate(drift), rtol=1e-6)
    root = _matrix(diffusion, sde.noise_shaped(y))
    covariance = ETA * np.cov(steps.T)
    # Of a product of two centred numbers of these deviations, in a Gaussian's order of magnitude.
    spread = np.sqrt(ETA) * steps.std(axis=0)
    assert np.all(np.abs(root @ root.T - covariance) < 5 * np.sqrt(2 / n) * np.outer(spread, spread) + 1e-6)
    slow = opt.sde(problem, "slow")
    drift, diffusion = slow.fields(0.0, y)
    np.testing.assert_allclose(drift.x, -(np.sign(m) + theta * x), rtol=1e-6)
    root = _matrix(diffusion, slow.noise_shaped(y))
    assert not np.any(root[:2]) and np.all(np.abs((root @ root.T - covariance)[2:, 2:]) < 5 * np.sqrt(2 / n) * spread[2:] ** 2)


def test_without_momentum_it_is_sign_sgd():
    problem, x = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.7)), jnp.array([0.3, -1.0])
    sign, y = js.SignSGD(ETA).sde(problem), LionState(x, jnp.array([5.0, -5.0]))
    for opt in (js.Signum(ETA, 0.0), js.Lion(ETA, 0.0, B2, 0.0)):
        sde = opt.sde(problem)
        np.testing.assert_allclose(sde.drift(0.0, y).x, sign.drift(0.0, x), rtol=1e-6)
        mine, theirs = _matrix(sde.diffusion(0.0, y), sde.noise_shaped(y))[:2], _matrix(sign.diffusion(0.0, x), x)
        np.testing.assert_allclose(mine @ mine.T, theirs @ theirs.T, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_transforms_are_the_recursions(name):
    opt, rng, (b1, b2, theta) = OPTIMIZERS[name], np.random.default_rng(1), _numbers(name)
    transform = opt.transform()
    x, state, want, m = jnp.ones(3), transform.init(jnp.ones(3)), np.ones(3), np.zeros(3)
    for g in rng.normal(size=(25, 3)):
        updates, state = transform.update(jnp.asarray(g, jnp.float32), state, x)
        x = optax.apply_updates(x, updates)
        want = want - ETA * (np.sign(b1 * m + (1 - b1) * g) + theta * want)
        m = b2 * m + (1 - b2) * g
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-6)
    chain = opt.chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))
    y = opt.sde(chain.problem).state_from_chain(chain.step(chain.init(jnp.ones(1)), jax.random.key(0)))
    g = chain.problem.stochastic_gradient(jnp.ones(1), jax.random.key(0))
    np.testing.assert_allclose(y.m, (1 - b2) * g, rtol=1e-5)


def test_signum_is_optaxs_own_where_it_has_one():
    if not hasattr(optax, "signum"):
        pytest.skip("optax.signum came after the oldest Optax allowed")
    mine, theirs = js.Signum(ETA, B1).transform(), optax.signum(ETA, B1)
    states = [t.init(jnp.ones(2)) for t in (mine, theirs)]
    for g in np.random.default_rng(2).normal(size=(9, 2)).astype(np.float32):
        (one, states[0]), (other, states[1]) = (t.update(g, s) for t, s in zip((mine, theirs), states, strict=True))
        np.testing.assert_array_equal(one, other)


def _numpy_chain(eta, b1, b2, theta, steps, seeds, sigma=1.0):
    """Var x at the end, of x and m by hand on f = x^2 / 2."""
    rng, x, m = np.random.default_rng(3), np.zeros(seeds), np.zeros(seeds)
    for _ in range(steps):
        g = x + sigma * rng.standard_normal(seeds)
        x, m = x - eta * (np.sign(b1 * m + (1 - b1) * g) + theta * x), b2 * m + (1 - b2) * g
    return x.var()


def _numpy_sde(eta, b1, b2, theta, time, seeds, substeps, share):
    """Var X of the SDE at the end by Euler's scheme, with `share` of the noise common to step and mean."""
    rng, x, m, h, rho = np.random.default_rng(4), np.zeros(seeds), np.zeros(seeds), eta / substeps, (1 - b2) / eta
    for _ in range(round(time / h)):
        w, u = np.sqrt(h) * rng.standard_normal((2, seeds))
        a = x + b1 / (1 - b1) * m
        s, c = erf(a / np.sqrt(2)), share * np.sqrt(2 / np.pi) * np.exp(-(a**2) / 2)
        dx = -(s + theta * x) * h - np.sqrt(eta) * (c * w + np.sqrt(np.maximum(1 - s**2 - c**2, 0)) * u)
        x, m = x + dx, m + rho * (x - m) * h + np.sqrt(eta) * rho * w
    return x.var()


@pytest.mark.sweep
@pytest.mark.parametrize(("b1", "b2", "theta"), [(0.9, 0.9, 0.0), (0.9, 0.99, 0.5), (0.5, 0.5, 0.0)])
def test_stationary_variances(b1, b2, theta):
    eta, time, d, seeds = 0.02, 6.0, 50, 2000
    opt = js.Signum(eta, b1) if b1 == b2 else js.Lion(eta, b1, b2, theta)
    problem, n = js.Problem(js.Quadratic(jnp.ones(d)), js.Gaussian(1.0)), d * seeds
    run = dict(steps=round(time / eta), seeds=seeds, key=jax.random.key(1), progress=False)

    def variance(process, **more):
        return float(np.mean(js.simulate(process, jnp.zeros(d), **run, **more)["x"].variance[-1]))

    chain, sde = variance(opt.chain(problem)), variance(opt.sde(problem), substeps=8)
    assert chain == pytest.approx(_numpy_chain(eta, b1, b2, theta, run["steps"], n), rel=6 * np.sqrt(4 / n))
    assert sde == pytest.approx(_numpy_sde(eta, b1, b2, theta, time, n // 2, 8, 1.0), rel=6 * np.sqrt(6 / n))
    # The model's own error is within 5 %; with independent noises in X and M it is many times that.
    assert sde == pytest.approx(chain, rel=0.05 + 6 * np.sqrt(4 / n))
    assert _numpy_sde(eta, b1, b2, theta, time, n // 2, 8, 0.0) < 0.87 * chain


@pytest.mark.sweep
def test_the_scaling_rule_keeps_the_law_where_noise_dominates():
    """Four times the batch: half the noise, twice the rate, a quarter of the steps, and the same b1 and b2."""
    n = 100_000
    for opt, numbers in ((js.Signum(0.002, 0.9), (0.9, 0.9)), (js.Lion(0.001, 0.9, 0.95, 0.2), (0.9, 0.95))):
        bigger = scaled(opt, 4.0)
        assert float(bigger.rate) == pytest.approx(2 * float(opt.rate)) and float(bigger.b1) == pytest.approx(numbers[0])
        theta = [float(getattr(o, "weight_decay", 0.0)) for o in (opt, bigger)]
        before = _numpy_chain(float(opt.rate), *numbers, theta[0], 2400, n, 2.0)
        after = _numpy_chain(float(bigger.rate), *numbers, theta[1], 600, n, 1.0)
        assert after == pytest.approx(before, rel=0.03)
        # With 1 - b four times as large, as averages of squares have it, the law is another one.
        other = [1 - 4 * (1 - b) for b in numbers]
        assert abs(_numpy_chain(float(bigger.rate), *other, theta[1], 600, n, 1.0) / before - 1) > 0.1


def test_a_sde_of_few_steps_is_the_euler_recursion():
    """The solver's steps on the SDE, on increments from NumPy."""
    opt, problem = js.Lion(ETA, B1, B2, THETA), js.Problem(js.Quadratic([2.0]), js.Gaussian(0.8))
    sde, h = opt.sde(problem), ETA / 2
    y, x, m = LionState(jnp.ones(1), jnp.zeros(1)), 1.0, 0.0
    for w, u in np.sqrt(h) * np.random.default_rng(5).standard_normal((4, 2)):
        drift, diffusion = sde.fields(0.0, y)
        dw = type(sde.noise_shaped(y))(jnp.full(1, w, jnp.float32), jnp.full(1, u, jnp.float32))
        y = jax.tree.map(lambda y, b, n: y + h * b + n, y, drift, diffusion(dw))
        a = (2 * x + B1 / (1 - B1) * m) / 0.8
        s, c = erf(a / np.sqrt(2)), np.sqrt(2 / np.pi) * np.exp(-(a**2) / 2)
        dx = -(s + THETA * x) * h - np.sqrt(ETA) * (c * w + np.sqrt(np.maximum(1 - s**2 - c**2, 0)) * u)
        x, m = x + dx, m + (1 - B2) / ETA * ((2 * x - m) * h + np.sqrt(ETA) * 0.8 * w)
    np.testing.assert_allclose([y.x[0], y.m[0]], [x, m], rtol=1e-5)


@pytest.mark.parametrize("model", ["fresh", "slow", "ode"])
def test_noise_of_zero_is_no_noise(model):
    sde = js.Lion(ETA, B1, B2, THETA).sde(js.Problem(js.Quadratic([2.0, 1.0]), js.Gaussian(jnp.array([0.0, 1.0]))), model)
    y = LionState(jnp.array([0.0, 1.0]), jnp.array([0.0, 0.1]))
    drift, diffusion = sde.fields(0.0, y)
    assert np.all(np.isfinite(np.concatenate(drift))) and drift.x[0] == 0
    if model != "ode":
        assert not np.any(_matrix(diffusion, sde.noise_shaped(y))[[0, 2]])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"b1 must lie in \[0, 1\), got 1.0"):
        js.Signum(0.1, 1.0)
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0, inf\), got -1.0"):
        js.Lion(0.1, weight_decay=-1.0)
    with pytest.raises(ValueError, match="Signum's model must be one of 'fresh', 'slow', 'ode', got 'compagnoni'"):
        js.Signum(0.1).sde(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), "compagnoni")
    for noise in (js.Laplace(1.0), js.Gaussian(covariance=np.eye(2))):
        problem = js.Problem(js.Quadratic([1.0, 2.0]), noise)
        with pytest.raises(ValueError, match=f"joint law of the gradient noise.*got {type(noise).__name__} noise"):
            js.Lion(0.1).sde(problem)
        assert js.Lion(0.1).sde(problem, "slow").model == "slow" and js.Lion(0.1).sde(problem, "ode").model == "ode"
    heavy = js.Problem(js.Quadratic([1.0]), js.StudentT(1.0, 1.0))
    with pytest.raises(ValueError, match="Signum's SDE needs the covariance"):
        js.Signum(0.1).sde(heavy, "slow")
    assert js.Signum(0.1).sde(heavy, "ode").model == "ode"
