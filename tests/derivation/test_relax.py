"""Relaxed chains: the moments of one step, transforms that mix coordinates, and those that draw noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import scipy.linalg

import jaxsde as js

KEY = jax.random.key(0)


def test_parts_of_a_step_have_its_mean_and_covariance():
    """For a constant gradient they are exact, whatever m."""
    problem = js.Problem(lambda x: jnp.sum(x), js.Gaussian(0.7))
    run = js.simulate(
        js.relax(js.SGD(0.1), problem, 4, start_steps=0), jnp.zeros(200), steps=5, seeds=2000, key=KEY, progress=False
    )
    assert np.mean(run["x"].mean[-1]) == pytest.approx(-0.5, abs=6 * 0.07 * np.sqrt(5 / 400_000))
    variance = 5 * (0.1 * 0.7) ** 2
    assert np.mean(run["x"].variance[-1]) == pytest.approx(variance, rel=6 * np.sqrt(2 / 400_000))


def test_one_part_is_the_optimizer():
    problem = js.Problem(js.Quadratic(jnp.ones(50)), js.Gaussian(1.0))
    opt = js.Optax(optax.adam, 0.05)
    common = dict(steps=20, seeds=1000, key=KEY, progress=False)
    chain = js.simulate(opt.chain(problem), jnp.ones(50), **common)["x"]
    relaxed = js.simulate(js.relax(opt, problem, 1), jnp.ones(50), **common)["x"]
    error = np.sqrt(2 * np.mean(chain.variance[-1]) / 50_000)
    assert np.mean(relaxed.mean[-1]) == pytest.approx(float(np.mean(chain.mean[-1])), abs=float(6 * error))
    assert np.mean(relaxed.variance[-1]) == pytest.approx(float(np.mean(chain.variance[-1])), rel=6 * np.sqrt(4 / 50_000))


def test_momentum_tends_to_the_sde_of_order_one():
    """The relaxed chain's stationary variance of SGD with momentum, exact from its linear recursion with m parts."""
    b, eta, m = 0.8, 0.1, 4
    u, noise = np.array([[-eta, -eta * b], [1.0, b - 1.0]]), np.array([-eta, 1.0])
    exact = scipy.linalg.solve_discrete_lyapunov(np.eye(2) + u / m, np.outer(noise, noise) / m)[0, 0]
    problem = js.Problem(js.Quadratic(jnp.ones(64)), js.Gaussian(1.0))
    process = js.relax(js.Optax(optax.sgd, eta, momentum=b), problem, m)
    run = js.simulate(process, jnp.zeros(64), steps=120, every=20, seeds=400, key=KEY, progress=False)["x"]
    found = np.asarray(run.variance)[3:].mean(axis=0)
    assert found.mean() == pytest.approx(exact, abs=float(6 * found.std() / 8))


def test_muon_runs():
    problem = js.Problem(lambda w: jnp.sum((w - jnp.eye(3)) ** 2), js.Gaussian(0.3))
    opt = js.Optax(optax.contrib.muon, 0.02)
    common = dict(steps=30, seeds=300, key=KEY, observe={"loss": problem.loss}, progress=False)
    chain = js.simulate(opt.chain(problem), jnp.zeros((3, 3)), **common)["loss"]
    relaxed = js.simulate(js.relax(opt, problem, 4), jnp.zeros((3, 3)), **common)["loss"]
    assert relaxed.mean[-1] == pytest.approx(float(chain.mean[-1]), rel=0.03)


def test_each_seed_has_noise_of_its_own_in_the_transform():
    """A transform that draws noise: without stochastic gradients, the spread over seeds is its own alone."""
    problem = js.Problem(lambda x: jnp.sum(x), js.Gaussian(0.0))
    opt = js.Optax(optax.noisy_sgd, 0.1, eta=0.25, gamma=0.0, key=7)
    for process in (opt.chain(problem), js.relax(opt, problem, 3, start_steps=0)):
        run = js.simulate(process, jnp.zeros(100), steps=4, seeds=1000, key=KEY, progress=False)["x"]
        assert np.mean(run.variance[-1]) == pytest.approx(4 * 0.1**2 * 0.25, rel=6 * np.sqrt(2 / 100_000))


def test_positive_buffers_stay_positive():
    problem = js.Problem(js.Quadratic(jnp.ones(8)), js.Gaussian(1.0))
    process = js.relax(js.Optax(optax.rmsprop, 0.05, decay=0.8), problem, 8)
    run = js.simulate(process, jnp.ones(8), steps=100, seeds=200, key=KEY, progress=False)
    assert int(run.diverged[-1]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((None, 4), "optimizer must be"), ((js.SGD(0.1), 0), "m must be at least 1"), ((js.SGD(0.1), 2.5), "m must be a whole")],
)
def test_bad_arguments_are_named(arguments, message):
    opt, m = arguments
    with pytest.raises((TypeError, ValueError), match=message):
        js.relax(opt, js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), m)
