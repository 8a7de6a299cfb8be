"""`stationary`: standard errors that are right, against exact laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import jaxsde as js

H = np.array([[2.0, 0.6, -0.3], [0.6, 1.2, 0.4], [-0.3, 0.4, 0.8]])
Q = np.array([[1.0, -0.3, 0.2], [-0.3, 0.6, 0.1], [0.2, 0.1, 0.8]])
COUPLED = js.Problem(js.Quadratic(jnp.asarray(H)), js.Gaussian(covariance=jnp.asarray(Q)))
ONE = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))


def _extrapolated(sde, seeds, substeps=4):
    laws = [js.stationary(sde, jnp.zeros(3), key=jax.random.key(0), seeds=seeds, substeps=n * substeps) for n in (1, 2)]
    error = np.hypot(2 * laws[1].stderr.covariance, laws[0].stderr.covariance)
    assert all(law.settled for law in laws)
    return 2 * laws[1].covariance - laws[0].covariance, error


def _adamw_chain(eta, b1, theta):
    """Exact covariance of AdamW with its denominator settled: x uses the freshly updated mean."""
    p, one = np.diag(1 / np.sqrt(np.diag(Q))), np.eye(3)
    flow = np.block([[(1 - eta * theta) * one - eta * (1 - b1) * p @ H, -eta * b1 * p], [(1 - b1) * H, b1 * one]])
    kick = np.vstack([-eta * (1 - b1) * p, (1 - b1) * one])
    return scipy.linalg.solve_discrete_lyapunov(flow, kick @ Q @ kick.T)[:3, :3]


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["sgd", "rmspropw", "adamw"])
def test_coupled_coordinates_with_correlated_noise_to_one_per_cent(name):
    """Optimizer and SDE against Lyapunov equations solved by SciPy. V is not quite at its limit: O(eta), up to 0.7 %."""
    eta, theta, p = 0.004, 0.5, np.diag(1 / np.sqrt(np.diag(Q)))
    opt, flow, chain = {
        "sgd": (js.SGD(eta), H, None),
        "rmspropw": (js.RMSpropW(eta, 0.998, initial_scale=0.8, weight_decay=theta), p @ H + theta * np.eye(3), None),
        "adamw": (js.AdamW(eta, b1=0.9, b2=0.998, weight_decay=theta), None, _adamw_chain(eta, 0.9, theta)),
    }[name]
    if name == "adamw":
        rho = 0.1 / eta
        a = np.block([[theta * np.eye(3) + 0.1 * p @ H, 0.9 * p], [-rho * H, rho * np.eye(3)]])
        kick = np.vstack([-0.1 * p, rho * np.eye(3)])
        sde = scipy.linalg.solve_continuous_lyapunov(a, eta * kick @ Q @ kick.T)[:3, :3]
    else:
        spread = p @ Q @ p if name == "rmspropw" else Q
        sde = scipy.linalg.solve_continuous_lyapunov(flow, eta * spread)
        step = np.eye(3) - eta * flow
        chain = scipy.linalg.solve_discrete_lyapunov(step, eta**2 * spread)
    got = js.stationary(opt.chain(COUPLED), jnp.zeros(3), key=jax.random.key(1), seeds=300)
    assert got.settled
    size = np.sqrt(np.outer(np.diag(sde), np.diag(sde)))
    assert np.all(5 * got.stderr.covariance < 0.01 * size)  # sharp enough to tell 1 %
    assert np.all(np.abs(got.covariance - chain) < 5 * got.stderr.covariance + 0.007 * size)
    value, error = _extrapolated(opt.sde(COUPLED), 64, 2)
    assert np.all(5 * error < 0.01 * size)
    assert np.all(np.abs(value - sde) < 5 * error + 0.007 * size)


@pytest.mark.sweep
def test_four_digits_of_sign_sgd_from_20_000_seeds():
    opt = js.SignSGD(0.01)
    law = js.stationary(opt.chain(ONE), jnp.zeros(1), key=jax.random.key(2), seeds=20_000)
    exact = js.theory.birth_death(opt, ONE).variance
    assert law.settled and law.reduction.covariance[0, 0] > 100
    assert law.stderr.covariance[0, 0] < 1e-4 * exact
    assert abs(law.covariance[0, 0] - exact) < 5 * law.stderr.covariance[0, 0] + 2e-5 * exact


@pytest.mark.sweep
def test_standard_errors_are_right():
    # Over independent keys the estimates scatter as their standard errors say.
    problem, opt = js.Problem(js.EmbeddedSaddle([1.0], quartic=1.0), js.Gaussian(1.0)), js.SGD(0.1)
    run = dict(seeds=128, steps=128, diagnostic_seeds=16, groups=16)
    runs = [js.stationary(opt.chain(problem), jnp.zeros(1), key=jax.random.key(k), **run) for k in range(24)]
    for pick in (lambda s: s.mean[0], lambda s: s.covariance[0, 0], lambda s: s.loss):
        values, errors = np.array([pick(r) for r in runs]), np.array([pick(r.stderr) for r in runs])
        # The ratio of standard deviations of 24 values has a spread of 1 / sqrt(48).
        assert 0.5 < np.std(values, ddof=1) / np.sqrt(np.mean(errors**2)) < 1.6


@pytest.mark.parametrize("sigma", [0.1, 0.3])
@pytest.mark.sweep
def test_sign_sgds_law_is_the_mean_over_even_and_odd_steps(sigma):
    """Of a lattice walk from 0 in steps that noise hardly exceeds; at even steps alone the first is 4 times too narrow."""
    problem, opt = js.Problem(js.Quadratic([1.0]), js.Gaussian(sigma)), js.SignSGD(0.2)
    law = js.stationary(opt.chain(problem), jnp.zeros(1), key=jax.random.key(0), seeds=1024)
    exact = js.theory.birth_death(opt, problem, 0.0)
    assert law.stderr.covariance[0, 0] < 0.01 * exact.variance
    assert abs(law.covariance[0, 0] - exact.variance) < 5 * law.stderr.covariance[0, 0]
    assert abs(law.loss - exact.variance / 2) < 5 * law.stderr.loss
    # The samples, too, are of both.
    assert set(np.round(law.samples / 0.2).astype(int).ravel() % 2) == {0, 1}


@pytest.mark.parametrize("eta", [1e-2, 1e-3])
def test_the_exact_law_of_the_control_loses_no_digits_to_small_rates(eta):
    # In float32 1 - eta lambda is rounded: at 1e-3 that alone put the variance off by 1.5e-4 of itself.
    law = js.stationary(js.SGD(eta).chain(ONE), jnp.zeros(1), key=jax.random.key(0), seeds=64)
    rate = float(jnp.asarray(eta))
    exact = rate / (2 - rate)
    assert law.stderr.covariance[0, 0] < 1e-6 * exact
    assert abs(law.covariance[0, 0] - exact) < 5 * law.stderr.covariance[0, 0] + 1e-7 * exact


SADDLE = js.Problem(js.EmbeddedSaddle((-1.0, 2.0), 1.0, 0.1), js.Gaussian(0.6))


def test_seeds_that_have_parted_have_not_settled():
    """From between two wells that no seed leaves again: R-hat is 1.6, and longer runs do not help."""
    run = dict(key=jax.random.key(0), seeds=64, progress=False)
    law = js.stationary(js.SGD(0.05).chain(SADDLE), jnp.zeros(2), max_steps=2048, **run)
    assert not law.settled and law.r_hat[0] > 1.3 and law.steps > 1024
    apart = js.stationary(js.SGD(0.05).chain(SADDLE), lambda k: jax.random.normal(k, (2,)), max_steps=2048, **run)
    assert not apart.settled and apart.r_hat[0] > 1.3


def test_the_verdict_of_one_well_is_that_of_the_well():
    """What no seed has reached, no diagnostic sees. The docstring and the printed table say so."""
    law = js.stationary(js.SGD(0.05).chain(SADDLE), jnp.array([1.0, 0.0]), key=jax.random.key(0), seeds=64, progress=False)
    assert law.settled and abs(law.mean[0] - 1.04) < 0.02
    assert "no seed has reached" in js.reporting.stationary_table({"optimizer": law}, {})
    assert "no seed has reached" in js.stationary.__doc__


def test_runs_are_lengthened_until_seeds_have_mixed():
    # A shallow double well, left every few hundred steps: the first length tried leaves R-hat well above 1.05.
    problem = js.Problem(js.EmbeddedSaddle((-0.5,), 1.0, 0.0), js.Gaussian(1.2))
    law = js.stationary(js.SGD(0.1).chain(problem), jnp.array([0.7]), key=jax.random.key(0), seeds=256, progress=False)
    assert law.settled and np.all(law.r_hat < 1.05)
    assert abs(law.mean[0]) < 5 * law.stderr.mean[0]  # by symmetry


@pytest.mark.parametrize("kind", ["chain", "sde"])
def test_where_all_seeds_diverge_there_is_no_law(kind):
    problem = js.Problem(lambda x: -jnp.sum(x**4), js.Gaussian(1.0))
    process = getattr(js.SGD(0.5), kind)(problem)
    with pytest.raises(ValueError, match=r"32 of 32 seeds diverged .*t = .*no stationary law"):
        js.stationary(process, jnp.ones(1), key=jax.random.key(0), seeds=32, progress=False)


def _covered(process, exact, seeds, runs, key):
    """In which share of runs the 95 % interval, Student's of groups - 1 degrees of freedom, holds the exact variance."""
    hits = []
    for k in range(runs):
        run = dict(key=jax.random.key(key + k), seeds=seeds, diagnostic_seeds=64, progress=False)
        law = js.stationary(process, jnp.zeros(1), **run)
        hits.append(abs(law.covariance[0, 0] - exact) < scipy.stats.t.ppf(0.975, 31) * law.stderr.covariance[0, 0])
    return np.mean(hits)


@pytest.mark.sweep
def test_intervals_cover_the_stationary_variance():
    """150 runs each; the binomial's deviation is 1.8 %. With a burn-in chosen from the averaged curves it was 85 %."""
    problem, opt = js.Problem(js.Quadratic([1.7]), js.Gaussian(0.8)), js.SignSGD(0.05)
    exact = js.theory.birth_death(opt, problem, 0.0).variance
    assert 0.9 <= _covered(opt.chain(problem), exact, 64, 150, 5000) <= 0.99


def test_a_run_that_has_not_settled_says_so():
    law = js.stationary(js.SGD(1e-3).chain(ONE), jnp.ones(1), key=jax.random.key(0), seeds=256, steps=512)
    assert not law.settled


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: js.stationary(js.SGD(0.1), jnp.zeros(1), key=jax.random.key(0)), "process must be an optimizer's chain"),
        (
            lambda: js.stationary(js.SGD(0.1).chain(ONE), jnp.zeros(1), key=jax.random.key(0), seeds=1),
            "seeds must be at least 2, got 1",
        ),
        (
            lambda: js.stationary(
                js.SGD(0.1).chain(js.Problem(lambda x: jnp.sum(x**2), js.Gaussian(1.0))),
                jnp.zeros(16385),
                key=jax.random.key(0),
            ),
            "at most 16384 coordinates; x0 has 16385",
        ),
    ],
)
def test_bad_arguments_raise(bad, message):
    with pytest.raises((ValueError, TypeError), match=message):
        bad()
