"""SignSGD's phases, the bounds in each, schedules and scaling rules: against SciPy, simulation and each other."""

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
    assert jax.tree.map(lambda v: v.tolist(), js.theory.phase(problem, x)) == {"a": [1, 2], "b": 3}
    opt = js.SignSGD(ETA)
    drift, diffusion = js.theory.phase_sde(opt, problem, 1).fields(0.0, x)
    assert drift["a"].tolist() == [-1, 1] and diffusion is None
    drift, diffusion = js.theory.phase_sde(opt, problem, 3).fields(0.0, x)
    slope = np.sqrt(2 / np.pi)
    np.testing.assert_allclose(drift["a"], [-3 * slope, 1.6 * slope], rtol=1e-6)
    spread = diffusion(jax.tree.map(jnp.ones_like, x))
    np.testing.assert_allclose(spread["a"], 0, atol=1e-7)  # where it would be the root of a negative number
    np.testing.assert_allclose(spread["b"], -np.sqrt(ETA * (1 - 2 / np.pi * 0.04)), rtol=1e-6)
    with pytest.raises(ValueError, match="Phase 2"):
        js.theory.phase_sde(opt, problem, 2)


def test_the_bounds_of_the_phases():
    x0, ts = jnp.array([1.0, 0.5]), jnp.array([0.0, 0.5, 10.0])
    mu, trace, start = 1.0, 3.0, 0.75
    first = js.theory.loss_bound(js.SignSGD(ETA), TWO, x0, ts, phase=1)
    np.testing.assert_allclose(first.loss, [start, (np.sqrt(start) - np.sqrt(mu / 2) * 0.5) ** 2, 0], rtol=1e-5)
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
    with pytest.raises(ValueError, match="SignSGD"):
        js.theory.loss_bound(js.SGD(ETA), TWO, x0, ts, phase=1)


def test_sign_sgd_settles_lower_than_sgd_from_the_crossover_on():
    for sigma, lower in ((1.15, False), (1.35, True)):
        problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(sigma))
        sign = js.theory.asymptotic_loss(js.SignSGD(1e-4), problem, published=True)
        assert bool(sign < js.theory.asymptotic_loss(js.SGD(1e-4), problem)) == lower


@pytest.mark.parametrize("kind", [js.SGD, js.SignSGD])
def test_moments_along_a_schedule_solve_their_equations(kind):
    power, rate, x0, h, sigma = 0.7, 0.01, 0.3, 2.0, 1.5
    opt = kind(js.theory.power_schedule(power, rate), reference_rate=rate)
    problem = js.Problem(js.Quadratic([h]), js.Gaussian(sigma))
    ts = np.array([0.0, 1.0, 4.0])
    law = js.theory.schedule_moments(opt, problem, jnp.array([x0]), ts)
    a = h if kind is js.SGD else np.sqrt(2 / np.pi) * h / sigma
    b, q = (0.0, sigma**2) if kind is js.SGD else (0.5 * rate * a * a, 1.0)

    def field(t, y):
        e = (t + 1) ** -power
        return [-a * e * y[0], -2 * (a * e + b * e**2) * y[1] + rate * e**2 * q]

    exact = scipy.integrate.solve_ivp(field, (0, 4), [x0, x0**2], t_eval=ts, rtol=1e-10, atol=1e-12).y
    np.testing.assert_allclose(law.mean[:, 0], exact[0], rtol=1e-4)
    np.testing.assert_allclose(law.covariance[:, 0, 0] + law.mean[:, 0] ** 2, exact[1], rtol=1e-4)
    # On one coordinate, with the linear drift's own constant, the bound of the loss is the loss.
    bound = js.theory.schedule_loss_bound(opt, problem, jnp.array([x0]), ts, **({} if kind is js.SGD else {"published": True}))
    np.testing.assert_allclose(bound.loss, h / 2 * exact[1], rtol=1e-4)
    phi = js.theory.schedule_integrals(opt, ts)
    np.testing.assert_allclose(phi[0], ((ts + 1) ** (1 - power) - 1) / (1 - power), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(phi[1], ((ts + 1) ** (1 - 2 * power) - 1) / (1 - 2 * power), rtol=1e-6, atol=1e-9)


def test_a_constant_rate_is_a_schedule_too():
    x0, ts = jnp.array([0.3, 0.2]), np.array([0.0, 1.0, 3.0])
    opt = js.SGD(optax.constant_schedule(ETA), reference_rate=ETA)
    along, law = js.theory.schedule_moments(opt, TWO, x0, ts), js.theory.moments(js.SGD(ETA), TWO, x0, jnp.asarray(ts))
    np.testing.assert_allclose(along.covariance, law.covariance, rtol=1e-4, atol=1e-9)


def test_which_powers_converge():
    verdict = lambda opt, power, h=0.25: js.theory.power_verdict(opt, js.Problem(js.Quadratic([h]), js.Gaussian(1.0)), power)
    assert verdict(js.SGD(ETA), 0.0).converges is False and verdict(js.SGD(ETA), 1.5).converges is False
    assert verdict(js.SGD(ETA), 0.5) == (True, 0.5, False)
    assert verdict(js.SGD(ETA), 1.0) == (True, 0.5, False)
    assert verdict(js.SGD(ETA), 1.0, 0.5) == (True, 1.0, True)
    assert verdict(js.SignSGD(ETA), 1.0).exponent == pytest.approx(0.5 * np.sqrt(2 / np.pi))
    with pytest.raises(ValueError, match="SGD and SignSGD"):
        verdict(js.Adam(ETA), 0.5)


@pytest.mark.parametrize(
    "opt",
    [
        js.SGD(0.002),
        js.SignSGD(0.001),
        js.RMSprop(0.002, 0.999, initial_scale=1.0),
        js.RMSpropW(0.002, 0.999, initial_scale=1.0, weight_decay=0.5),
        js.Adam(0.002, b1=0.9, b2=0.999),
        js.AdamW(0.002, b1=0.9, b2=0.999, weight_decay=0.5),
    ],
    ids=lambda opt: type(opt).__name__,
)
def test_the_scaling_rules_leave_the_laws_unchanged(opt):
    ratio, x0 = 4.0, jnp.array([0.1, -0.05])
    scaled, larger = js.theory.scaled(opt, ratio), js.theory.with_batch(TWO, ratio)
    law, other = js.theory.stationary(opt, TWO), js.theory.stationary(scaled, larger)
    np.testing.assert_allclose(other.covariance, law.covariance, rtol=5e-3, atol=1e-8)
    steps = np.array([0, 400, 1600])
    curve = js.theory.discrete_moments(opt, TWO, x0, steps)
    fewer = js.theory.discrete_moments(scaled, larger, x0, steps // 4)
    np.testing.assert_allclose(fewer.loss, curve.loss, rtol=2e-2)
    if hasattr(opt, "weight_decay"):
        kept = type(opt)(**{**vars(scaled), "weight_decay": 0.5})
        broken = js.theory.stationary(kept, larger).covariance
        assert float(broken[0, 0]) > 1.1 * float(law.covariance[0, 0])


def test_scaled_schedules_and_refusals():
    schedule = optax.linear_schedule(0.1, 0.0, 100)
    opt = js.theory.scaled(js.AdamW(schedule, b1=0.9, b2=0.99, weight_decay=0.1, reference_rate=0.1), 4.0)
    assert float(opt.learning_rate(10)) == pytest.approx(2 * float(schedule(40)))
    assert float(opt.reference_rate) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="b1"):
        js.theory.scaled(js.Adam(0.1, b1=0.5), 4.0)
    with pytest.raises(ValueError, match="batch_ratio"):
        js.theory.scaled(js.SGD(0.1), 0.0)
    with pytest.raises(ValueError, match="variance"):
        js.theory.with_batch(js.Problem(js.Quadratic([1.0]), js.StudentT(1.0, 1.0)), 2.0)
    fixed = js.theory.fixed_rate_scaled(js.AdamW(0.002, b1=0.9, b2=0.999, weight_decay=0.5), 4.0)
    law = js.theory.stationary(js.AdamW(0.002, b1=0.9, b2=0.999, weight_decay=0.5), TWO).covariance
    smaller = js.theory.stationary(fixed, js.theory.with_batch(TWO, 4.0)).covariance
    np.testing.assert_allclose(np.diag(smaller), np.diag(law) / 2, rtol=5e-3)
