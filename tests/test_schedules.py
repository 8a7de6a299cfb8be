"""Schedules: against SciPy, NumPy and their own limits."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate

import jaxsde as js

ETA = 0.01
TWO = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))


def _power(kind, power, rate=ETA):
    return kind(js.theory.power_schedule(power, rate), reference_rate=rate)


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


def test_long_steps_are_integrated_along_the_schedule():
    opt = js.SGD(optax.linear_schedule(1.0, 0.0, 4), reference_rate=0.5)
    law = js.theory.schedule_moments(opt, js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), jnp.zeros(1), [2.0])
    # The rate relative to the reference is 2 (1 - t / 2), and a second moment lives on as exp(-2 int rate).
    exact = scipy.integrate.quad(lambda s: 0.5 * (2 - s) ** 2 * np.exp(-((2 - s) ** 2)), 0, 2)[0]
    assert float(law.covariance[0, 0, 0]) == pytest.approx(exact, rel=1e-3)


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


def test_moments_along_a_schedule_are_those_of_scheduled_sgd():
    power, rate, steps, h, sigma, x0 = 0.7, 0.005, 400, 1.5, 0.8, 0.4
    generator, x = np.random.default_rng(0), np.full(20_000, x0)
    for k in range(steps):
        x = x - rate * (k * rate + 1) ** -power * (h * x + sigma * generator.standard_normal(x.size))
    problem = js.Problem(js.Quadratic([h]), js.Gaussian(sigma))
    law = js.theory.schedule_moments(_power(js.SGD, power, rate), problem, jnp.array([x0]), [steps * rate])
    variance = float(law.covariance[0, 0, 0])
    # Of the order of the learning rate is what the SDE itself misses.
    assert abs(x.mean() - float(law.mean[0, 0])) < 5 * np.sqrt(variance / x.size) + rate * h * x0
    assert abs(x.var() / variance - 1) < 5 * np.sqrt(2 / x.size) + rate * h


def test_times_may_lie_between_steps_and_schedules_may_jump():
    schedule = optax.piecewise_constant_schedule(0.1, {5: 0.5, 12: 0.2})
    opt = js.SGD(schedule, reference_rate=0.1)
    relative = np.select([np.arange(20) < 5, np.arange(20) < 12], [1.0, 0.5], 0.1)
    ts = [1.93, 0.0, 0.449, 0.551, 1.0]
    for power, phi in enumerate(js.theory.schedule_integrals(opt, ts), 1):
        whole = np.concatenate([[0.0], np.cumsum(0.1 * relative**power)])
        np.testing.assert_allclose(phi, np.interp(ts, np.linspace(0, 2, 21), whole), rtol=1e-5)


@pytest.mark.parametrize("kind", [js.SGD, js.SignSGD])
def test_late_bounds_follow_the_schedule(kind):
    # exp(2 A_t) overflows even a float64 here; the bound tends to the relative rate times its floor.
    sigma, rate, t = 0.2 if kind is js.SignSGD else 2.0, 0.01, 4000.0
    problem = js.Problem(js.Quadratic([3.0, 5.0]), js.Gaussian(sigma))
    opt = _power(kind, 0.5, rate)
    published = {} if kind is js.SGD else {"published": True}
    bound = js.theory.schedule_loss_bound(opt, problem, jnp.ones(2), [t], **published)
    floor = rate * 8.0 / (4 * 3.0) * (sigma**2 if kind is js.SGD else np.sqrt(np.pi / 2) * sigma)
    assert float(bound.loss[0]) == pytest.approx(floor / np.sqrt(t + 1), rel=1e-2)


@pytest.mark.parametrize(
    ("power", "curvature"), [(0.5, 1.0), (1.0, 0.25), (1.0, 0.5), (1.0, 2.0), (2.0, 1.0)], ids=lambda v: f"{v:g}"
)
def test_verdicts_are_the_slopes_of_the_losses(power, curvature):
    rate, ts = 0.05, np.array([100.0, 1000.0])
    opt, problem = _power(js.SGD, power, rate), js.Problem(js.Quadratic([curvature]), js.Gaussian(1.0))
    loss = np.asarray(js.theory.schedule_loss_bound(opt, problem, jnp.ones(1), ts).loss, float)
    verdict = js.theory.power_verdict(opt, problem, power)
    if verdict.logarithm:
        # S' = -S / (t + 1) + (eta h / 2) / (t + 1)^2, whose solution is (S_0 + (eta h / 2) log(t + 1)) / (t + 1).
        loss = loss / (curvature / 2 + rate * curvature / 2 * np.log(ts + 1))
    slope = np.diff(np.log(loss))[0] / np.diff(np.log(ts + 1))[0]
    assert slope == pytest.approx(-verdict.exponent, abs=0.02)
    assert verdict.converges == (power <= 1)


def test_what_schedules_refuse():
    still = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0))
    for call in (js.theory.schedule_moments, js.theory.schedule_loss_bound):
        with pytest.raises(ValueError, match="noise in every coordinate"):
            call(_power(js.SignSGD, 0.5), still, jnp.ones(1), [1.0])
    with pytest.raises(ValueError, match="ts must be a vector"):
        js.theory.schedule_integrals(_power(js.SGD, 0.5), 1.0)
    dense = js.Problem(js.Quadratic(jnp.eye(2)), js.Gaussian(1.0))
    with pytest.raises(ValueError, match="diagonal"):
        js.theory.schedule_moments(_power(js.SGD, 0.5), dense, jnp.ones(2), [1.0])
