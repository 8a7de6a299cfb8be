"""SGD with momentum: its matrices against equations in another clock, exact laws, and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

import jaxsde as js
from jaxsde.optimizers import MomentumState
from jaxsde.theory import discrete_moments, discrete_stationary, moments, scaled, stationary

ETA, BETA = 0.05, 0.8
H = np.array([[2.0, 0.7], [0.7, 1.0]])
Q = np.array([[1.0, -0.4], [-0.4, 0.5]])
LOW = np.array([0.3, -0.2])
PROBLEM = js.Problem(js.Quadratic(H, minimum=jnp.asarray(LOW)), js.Gaussian(covariance=Q))
X0 = np.array([1.0, -2.0])
ONE, NONE = np.eye(2), np.zeros((2, 2))


def _step():
    """x' and m' of one step by hand, as a matrix and a factor of the noise."""
    return np.block([[ONE - ETA * H, -ETA * BETA * ONE], [H, BETA * ONE]]), np.vstack([-ETA * ONE, ONE])


def _ball():
    """dX = V ds, dV = -(mu V + H X) ds - eta^(1/4) dB in the clock s = t / sqrt(eta), for x, m = -V / sqrt(eta) and t."""
    root, mu = np.sqrt(ETA), (1 - BETA) / np.sqrt(ETA)
    to_m = np.block([[ONE, NONE], [NONE, -ONE / root]])
    drift = np.block([[NONE, ONE], [-H, -mu * ONE]])
    spread = np.vstack([NONE, -(ETA**0.25) * ONE])
    return to_m @ drift @ np.linalg.inv(to_m) / root, to_m @ spread / np.sqrt(root)


def _matrices(sde, y):
    """Drift and diffusion of a linear SDE as matrices over its state."""
    flat, unravel = jax.flatten_util.ravel_pytree(y)
    drift = jax.jacfwd(lambda z: jax.flatten_util.ravel_pytree(sde.drift(0.0, unravel(z)))[0])(flat)
    diffusion = jax.vmap(lambda w: jax.flatten_util.ravel_pytree(sde.diffusion(0.0, y)(w))[0], out_axes=1)(jnp.eye(2))
    return np.asarray(drift, float), np.asarray(diffusion, float)


def test_the_sde_is_that_of_a_ball_in_another_clock():
    sde = js.Momentum(ETA, BETA).sde(PROBLEM)
    drift, diffusion = _matrices(sde, MomentumState(jnp.ones(2), jnp.zeros(2)))
    expected, spread = _ball()
    np.testing.assert_allclose(drift, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(diffusion @ diffusion.T, spread @ Q @ spread.T, rtol=1e-5, atol=1e-6)
    at_rest = sde.drift(0.0, MomentumState(jnp.asarray(LOW, jnp.float32), jnp.zeros(2)))
    np.testing.assert_allclose(at_rest.m, 0, atol=1e-5)
    ode = js.Momentum(ETA, BETA).sde(PROBLEM, "ode")
    np.testing.assert_allclose(_matrices(ode, MomentumState(jnp.ones(2), jnp.zeros(2)))[0], expected, rtol=1e-5, atol=1e-6)
    assert not np.any(_matrices(ode, MomentumState(jnp.ones(2), jnp.zeros(2)))[1])


def test_the_effective_sde_is_sgds_at_the_effective_rate():
    """SGD with the rate eta / (1 - beta), whose clock runs 1 / (1 - beta) times as fast."""
    x, share = jnp.array([0.4, -1.0]), 1 - BETA
    mine, sgd = js.Momentum(ETA, BETA).sde(PROBLEM, "effective"), js.SGD(ETA / share).sde(PROBLEM)
    np.testing.assert_allclose(mine.drift(0.0, x), sgd.drift(0.0, x) / share, rtol=1e-5)
    for w in np.eye(2, dtype=np.float32):
        np.testing.assert_allclose(mine.diffusion(0.0, x)(w), sgd.diffusion(0.0, x)(w) / np.sqrt(share), rtol=1e-5)


def test_laws_solve_lyapunov_equations_and_are_unrolled_steps():
    opt = js.Momentum(ETA, BETA)
    (chain, kick), (drift, spread) = _step(), _ball()
    law = discrete_stationary(opt, PROBLEM)
    exact = scipy.linalg.solve_discrete_lyapunov(chain, kick @ Q @ kick.T)[:2, :2]
    np.testing.assert_allclose(law.covariance, exact, rtol=1e-5)
    np.testing.assert_allclose(law.mean, LOW, rtol=1e-5)
    own = scipy.linalg.solve_continuous_lyapunov(drift, -spread @ Q @ spread.T)[:2, :2]
    np.testing.assert_allclose(stationary(opt, PROBLEM).covariance, own, rtol=1e-4)
    mean, covariance, t = np.append(X0 - LOW, [0, 0]), np.zeros((4, 4)), 7 * ETA
    for _ in range(7):
        mean, covariance = chain @ mean, chain @ covariance @ chain.T + kick @ Q @ kick.T
    early = discrete_moments(opt, PROBLEM, X0, [7])
    np.testing.assert_allclose(early.mean[0], mean[:2] + LOW, rtol=1e-5)
    np.testing.assert_allclose(early.covariance[0], covariance[:2, :2], rtol=1e-5)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    flows = [scipy.linalg.expm(drift * t * (s + 1) / 2) @ spread for s in nodes]
    covariance = sum(w * t / 2 * flow @ Q @ flow.T for w, flow in zip(weights, flows, strict=True))
    early = moments(opt, PROBLEM, jnp.asarray(X0, jnp.float32), jnp.array([t]))
    np.testing.assert_allclose(early.covariance[0], covariance[:2, :2], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(early.mean[0], (scipy.linalg.expm(drift * t) @ np.append(X0 - LOW, [0, 0]))[:2] + LOW, rtol=1e-4)


@pytest.mark.parametrize(("eta", "beta"), [(0.02, 0.9), (0.3, 0.5), (0.05, 0.0)])
def test_on_a_line_the_optimizers_variance_has_a_closed_form(eta, beta):
    h, sigma = 2.0, 0.7
    opt, problem = js.Momentum(eta, beta), js.Problem(js.Quadratic([h]), js.Gaussian(sigma))
    limit = eta * sigma**2 / (2 * h * (1 - beta))
    assert float(stationary(opt, problem).covariance[0, 0]) == pytest.approx(limit, rel=1e-4)
    exact = limit / (1 - eta * h / (2 * (1 + beta)))
    assert float(discrete_stationary(opt, problem).covariance[0, 0]) == pytest.approx(exact, rel=1e-5)


def test_both_models_are_of_order_one_at_constant_momentum_and_one_alone_overshoots():
    """Exactly, by matrix exponentials: E x at the time 0.2 from 1, with the effective SDE's e^(-t / (1 - beta))."""
    problem, beta, t = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), 0.8, 0.2
    errors = []
    for eta in (1 / 1280, 1 / 2560, 1 / 5120):
        opt = js.Momentum(eta, beta)
        chain = float(discrete_moments(opt, problem, jnp.ones(1), [round(t / eta)]).mean[0, 0])
        own = float(moments(opt, problem, jnp.ones(1), jnp.array([t])).mean[0, 0])
        errors.append((own - chain, np.exp(-t / (1 - beta)) - chain))
    orders = np.log2(np.abs(np.array(errors))[:-1] / np.abs(np.array(errors))[1:])
    assert np.all(np.abs(orders - 1) < 0.1)
    # Where (1 - beta)^2 < 4 eta the optimizer swings to the other side of the minimum, as the underdamped SDE does.
    opt, steps = js.Momentum(0.1, 0.9), np.arange(30)
    chain = np.asarray(discrete_moments(opt, problem, jnp.ones(1), steps).mean)[:, 0]
    own = np.asarray(moments(opt, problem, jnp.ones(1), 0.1 * jnp.asarray(steps)).mean)[:, 0]
    assert min(chain) < -0.5 and min(own) < -0.5


def test_chain_and_sde_have_their_exact_moments():
    """On ten coordinates of one law: the chain's by the recursion, the SDE's by that of the solver's own step."""
    eta, beta, h, sigma, substeps, steps, seeds, d = 0.1, 0.8, 1.5, 0.6, 4, 12, 4000, 10
    opt, problem = js.Momentum(eta, beta), js.Problem(js.Quadratic(jnp.full(d, h)), js.Gaussian(sigma))
    dt = eta / substeps
    kick = sigma * np.array([-eta, 1.0])
    chain = np.array([[1 - eta * h, -eta * beta], [h, beta]]), kick
    # m moves along its drift, x along the m that it has then, and noise enters m.
    m = np.array([dt * h / eta, 1 - dt * (1 - beta) / eta])
    solver = np.array([[1, 0] - dt * m, m]), sigma * np.sqrt(dt / eta) * np.array([0, 1])
    run = dict(steps=steps, seeds=seeds, key=jax.random.key(1), progress=False)
    for process, (step, kick), count, more in (
        (opt.chain(problem), chain, steps, {}), (opt.sde(problem), solver, steps * substeps, dict(substeps=substeps)),
    ):  # fmt: skip
        mean, covariance = np.array([1.0, 0.0]), np.zeros((2, 2))
        for _ in range(count):
            mean, covariance = step @ mean, step @ covariance @ step.T + np.outer(kick, kick)
        got = js.simulate(process, jnp.ones(d), **run, **more)["x"]
        n = d * seeds
        assert abs(np.mean(got.mean[-1]) - mean[0]) < 5 * np.sqrt(covariance[0, 0] / n)
        assert np.mean(got.variance[-1]) == pytest.approx(covariance[0, 0], rel=5 * np.sqrt(2 / n))


def test_the_transform_is_the_recursion():
    transform, rng = js.Momentum(ETA, BETA).transform(), np.random.default_rng(0)
    x, state, want, m = jnp.zeros(2), transform.init(jnp.zeros(2)), np.zeros(2), np.zeros(2)
    for g in rng.normal(size=(20, 2)):
        updates, state = transform.update(jnp.asarray(g, jnp.float32), state, x)
        x, m = optax.apply_updates(x, updates), BETA * m + g
        want = want - ETA * m
    np.testing.assert_allclose(x, want, rtol=1e-5)


def test_the_scaling_rule_and_svag_keep_the_effective_sde():
    opt, delta, x = js.Momentum(ETA, BETA), 4.0, jnp.array([0.4, -1.0])
    bigger = scaled(opt, delta)
    assert float(bigger.momentum) == pytest.approx(BETA)
    # A step does the work of delta smaller ones: drift and covariance over one step grow by delta.
    drift, covariance = [], []
    for other, problem in ((opt, PROBLEM), (bigger, js.theory.with_batch(PROBLEM, delta))):
        sde, eta = other.sde(problem, "effective"), float(other.rate)
        drift.append(eta * np.asarray(sde.drift(0.0, x)))
        root = np.stack([sde.diffusion(0.0, x)(w) for w in np.eye(2, dtype=np.float32)])
        covariance.append(eta * root @ root.T)
    np.testing.assert_allclose(drift[1], delta * drift[0], rtol=1e-4)
    np.testing.assert_allclose(covariance[1], delta * covariance[0], rtol=1e-4, atol=1e-7)
    # SVAG's small steps: by the closed form above, with the rate eta / l and the variance l sigma^2.
    small = js.svag(opt, js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), 64)
    run = js.simulate(small, jnp.zeros(1), steps=64 * 60, seeds=2000, key=jax.random.key(2), progress=False, every=64 * 12)
    limit = ETA / (2 * (1 - BETA)) / (1 - ETA / 64 / (2 * (1 + BETA)))
    # The start is forgotten by e^(-2 t / (1 - beta)) = e^(-24) at the time 2.4.
    assert float(run["x"].variance[-1, 0]) == pytest.approx(limit, rel=5 * np.sqrt(2 / 2000))


def test_a_schedule_multiplies_the_steps_and_not_the_sum():
    rates = np.array([0.1, 0.05, 0.2, 0.1, 0.025, 0.1], np.float32)
    opt = js.Momentum(lambda k: jnp.asarray(rates)[k], 0.5, reference_rate=0.1)
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0))
    run = js.simulate(opt.chain(problem), jnp.ones(1), steps=6, every=1, seeds=1, key=jax.random.key(0), progress=False)
    x, m, path = 1.0, 0.0, [1.0]
    for rate in rates:
        m = 0.5 * m + x
        x = x - rate * m
        path.append(x)
    np.testing.assert_allclose(np.asarray(run["x"].mean)[:, 0], path, rtol=1e-5)
    for model, y in (("underdamped", MomentumState(jnp.ones(1), jnp.full(1, 2.0))), ("effective", jnp.ones(1))):
        sde = opt.sde(problem, model)
        got = [sde.position(sde.drift((k + 0.5) * 0.1, y))[0] for k in range(6)]
        np.testing.assert_allclose(got, -2 * rates / 0.1, rtol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), got 1.0"):
        js.Momentum(0.1, 1.0)
    with pytest.raises(ValueError, match="learning_rate must lie in"):
        js.Momentum(-0.1)
    with pytest.raises(TypeError, match="momentum must be one number"):
        js.Momentum(0.1, "0.9")
    with pytest.raises(ValueError, match="Momentum's model must be one of 'underdamped', 'effective', 'ode', got 'malladi'"):
        js.Momentum(0.1).sde(PROBLEM, "malladi")
    heavy = js.Problem(js.Quadratic([1.0]), js.StudentT(1.5, 1.0))
    with pytest.raises(ValueError, match="Momentum's SDE needs the covariance of the gradient noise"):
        js.Momentum(0.1).sde(heavy, "effective")
    assert js.Momentum(0.1).sde(heavy, "ode").model == "ode"
    with pytest.raises(ValueError, match="past the limit of Momentum"):
        stationary(js.Momentum(4.0, 0.5), js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))
