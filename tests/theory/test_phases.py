"""SignSGD's phases and the bounds in each: against SciPy and the SDE itself."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
from scipy.special import erf

import jaxsde as js

ETA = 0.01
TWO = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))


def test_the_lines_of_phase_2_enclose_erf():
    c = js.theory.phase_2_constants()
    np.testing.assert_allclose(c, [0.2468087, 0.5958921, 0.6144779, 1.2328520], atol=1e-7)
    y = np.linspace(1, 1.5, 1001)
    assert np.all(c.slope * y + c.secant_intercept <= erf(y) + 1e-15)
    assert np.all(erf(y) <= c.slope * y + c.tangent_intercept + 1e-15)
    low, high = js.theory.phase_2_drift_bounds(TWO, jnp.array([1.8, -0.85]))
    drift = js.SignSGD(ETA).sde(TWO).drift(0.0, jnp.array([1.8, -0.85]))
    assert np.all(low <= drift) and np.all(drift <= high)


def test_phases_and_their_sdes():
    x = {"a": jnp.array([3.0, -1.6]), "b": jnp.array(0.2)}
    problem = js.Problem(lambda p: 0.5 * jnp.sum(p["a"] ** 2) + 0.5 * p["b"] ** 2, js.Gaussian(1.0))
    chex.assert_trees_all_equal(js.theory.phase(problem, x), {"a": jnp.array([1, 2]), "b": jnp.array(3)})
    opt = js.SignSGD(ETA)
    drift, diffusion = opt.sde(problem, "phase-1").fields(0.0, x)
    chex.assert_trees_all_equal(drift, {"a": jnp.array([-1.0, 1.0]), "b": jnp.array(-1.0)})
    assert diffusion is None
    drift, diffusion = opt.sde(problem, "phase-3").fields(0.0, x)
    slope = np.sqrt(2 / np.pi)
    chex.assert_trees_all_close(drift, jax.tree.map(lambda leaf: -slope * leaf, x), rtol=1e-6)
    spread = diffusion(jax.tree.map(jnp.ones_like, x))
    # None where it would be the root of a negative number.
    expected = {"a": jnp.zeros(2), "b": -jnp.sqrt(ETA * (1 - 2 / np.pi * 0.2**2))}
    chex.assert_trees_all_close(spread, expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="SignSGD's model must be one of .*'phase-1', 'phase-3', got 'phase-2'"):
        opt.sde(problem, "phase-2")
    correlated = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(covariance=jnp.array([[1.0, 0.5], [0.5, 1.0]])))
    with pytest.raises(ValueError, match="independent coordinates"):
        opt.sde(correlated, "phase-3")


def test_phase_1_without_noise_is_the_descent_on_signs():
    still = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.0))
    assert js.SignSGD(ETA).sde(still, "phase-1").drift(0.0, jnp.array([0.0, -1.0])).tolist() == [0, 1]


@pytest.mark.parametrize("noise", [js.StudentT(2.0, jnp.array([0.5, 2.0])), js.StudentT(1.0, 0.5), js.Laplace(1.5)])
def test_phase_3_is_tangent_to_the_sde_for_any_law(noise):
    problem, opt = js.Problem(js.Quadratic([1.0, 2.0]), noise), js.SignSGD(ETA)
    x = jnp.array([1e-3, -1e-3])
    linear, full = opt.sde(problem, "phase-3"), opt.sde(problem)
    np.testing.assert_allclose(linear.drift(0.0, x), full.drift(0.0, x), rtol=5e-3)
    np.testing.assert_allclose(linear.diffusion(0.0, x)(jnp.ones(2)), full.diffusion(0.0, x)(jnp.ones(2)), rtol=1e-4)


def test_the_phases_sdes_follow_a_schedule():
    opt = js.SignSGD(optax.linear_schedule(ETA, 0.0, 100), reference_rate=ETA)
    x, half = jnp.array([0.1, 0.1]), 50 * ETA
    for model in ("phase-1", "phase-3"):
        sde = opt.sde(TWO, model)
        np.testing.assert_allclose(sde.drift(half, x), 0.5 * sde.drift(0.0, x), rtol=1e-5)


def test_the_bounds_of_the_phases():
    x0, ts = jnp.array([1.0, 0.5]), jnp.array([0.0, 0.5, 10.0])
    mu, trace, start = 1.0, 3.0, 0.75
    first = js.theory.loss_bound(js.SignSGD(ETA), TWO, x0, ts, phase=1)
    np.testing.assert_allclose(first.loss, [start, (np.sqrt(start) - np.sqrt(mu / 2) * 0.5) ** 2, 0], rtol=1e-5)
    weaker = js.theory.loss_bound(js.SignSGD(ETA), TWO, x0, ts, phase=1, published=True)
    np.testing.assert_allclose(weaker.loss, [start, (np.sqrt(mu) * 0.5 - 2 * np.sqrt(start)) ** 2 / 4, 0], rtol=1e-5)
    # The curve is the solution of S' = -sqrt(2 mu S), and reaches zero at t*.
    solved = scipy.integrate.solve_ivp(lambda t, s: -np.sqrt(2 * mu * np.maximum(s, 0)), (0, 0.5), [start], rtol=1e-9).y[0, -1]
    assert float(first.loss[1]) == pytest.approx(solved, rel=1e-4)
    assert float(js.theory.phase_1_time(TWO, x0)) == pytest.approx(np.sqrt(2 * start / mu), rel=1e-5)
    assert float(js.theory.phase_1_time(TWO, x0, published=True)) == pytest.approx(2 * np.sqrt(start / mu), rel=1e-5)
    second = js.theory.loss_bound(js.SignSGD(ETA), TWO, x0, ts, phase=2)
    m, q1 = 0.2468087, 0.5958921
    delta = m / np.sqrt(2) + ETA * mu * m**2 / 4
    assert float(second.rate) == pytest.approx(2 * mu * delta, rel=1e-5)
    assert float(second.floor) == pytest.approx(ETA / 2 * (trace - mu * 2 * q1**2) / (2 * mu * delta), rel=1e-5)
    assert float(js.theory.loss_bound(js.SignSGD(ETA), TWO, x0, ts, phase=2, published=True).floor) < float(second.floor)
    third = js.theory.loss_bound(js.SignSGD(ETA), TWO, x0, ts, phase=3, published=True)
    delta = np.sqrt(2 / np.pi) + ETA / np.pi * mu
    assert float(third.rate) == pytest.approx(2 * mu * delta, rel=1e-5)
    assert float(third.floor) == pytest.approx(float(js.theory.asymptotic_loss(js.SignSGD(ETA), TWO, published=True)))
    for noise, kappa in (
        (js.Gaussian(1.0), erf(1) / np.sqrt(2)),
        (js.StudentT(1.0, 2.0), 2 / np.pi * np.arctan(np.sqrt(2)) / np.sqrt(2) / 2),
    ):
        chord = js.theory.loss_bound(js.SignSGD(ETA), js.Problem(TWO.loss, noise), 9 * x0, ts, phase=3)
        assert float(chord.rate) == pytest.approx(2 * mu * (kappa + ETA / 2 * mu * kappa**2), rel=1e-5)
    with pytest.raises(ValueError, match="SignSGD"):
        js.theory.loss_bound(js.SGD(ETA), TWO, x0, ts, phase=1)
    with pytest.raises(ValueError, match="Gaussian"):
        js.theory.loss_bound(js.SignSGD(ETA), js.Problem(TWO.loss, js.StudentT(3.0, 1.0)), x0, ts, phase=2)
    with pytest.raises(ValueError, match="noise in every coordinate"):
        js.theory.loss_bound(js.SignSGD(ETA), js.Problem(TWO.loss, js.Gaussian(jnp.array([1.0, 0.0]))), x0, ts)


def test_sign_sgd_settles_lower_than_sgd_from_the_crossover_on():
    for sigma, lower in ((1.15, False), (1.35, True)):
        problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(sigma))
        sign = js.theory.asymptotic_loss(js.SignSGD(1e-4), problem, published=True)
        assert bool(sign < js.theory.asymptotic_loss(js.SGD(1e-4), problem)) == lower


def test_phases_without_noise():
    """Signal dominates where there is any; Phase 3's linear mean sign does not exist."""
    problem = js.Problem(js.Quadratic([1.0, 1.0]), js.Gaussian(jnp.array([0.0, 1.0])))
    assert js.theory.phase(problem, jnp.array([0.1, 0.1])).tolist() == [1, 3]
    assert js.theory.phase(problem, jnp.zeros(2)).tolist() == [3, 3]
    with pytest.raises(ValueError, match="noise in every coordinate"):
        js.SignSGD(0.1).sde(problem, "phase-3")
