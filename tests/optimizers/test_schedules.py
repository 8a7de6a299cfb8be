"""Schedules: against SciPy, NumPy and their own limits."""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate

import jaxsde as js
from jaxsde._registry import OPTIMIZERS

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

    # The rate of a step is held until the next.
    held = (rate * np.arange(400) + 1) ** -power
    exact = [np.array([x0, x0**2])]
    for e in held:

        def field(t, y, e=e):
            return [-a * e * y[0], -2 * (a * e + b * e**2) * y[1] + rate * e**2 * q]

        exact.append(scipy.integrate.solve_ivp(field, (0, rate), exact[-1], rtol=1e-10, atol=1e-12).y[:, -1])
    exact = np.array(exact)[np.round(ts / rate).astype(int)].T
    np.testing.assert_allclose(law.mean[:, 0], exact[0], rtol=1e-4)
    np.testing.assert_allclose(law.covariance[:, 0, 0] + law.mean[:, 0] ** 2, exact[1], rtol=1e-4)
    # On one coordinate, with the linear drift's own constant, the bound of the loss is the loss.
    bound = js.theory.schedule_loss_bound(opt, problem, jnp.array([x0]), ts, **({} if kind is js.SGD else {"published": True}))
    np.testing.assert_allclose(bound.loss, h / 2 * exact[1], rtol=1e-4)
    phi = js.theory.schedule_integrals(opt, ts)
    for i, p in enumerate(phi, 1):
        whole = np.concatenate([[0.0], np.cumsum(rate * held**i)])
        np.testing.assert_allclose(p, whole[np.round(ts / rate).astype(int)], rtol=1e-6)
        # Which tends to the integral of the continuous schedule as the steps get short.
        smooth = ((ts + 1) ** (1 - i * power) - 1) / (1 - i * power)
        np.testing.assert_allclose(p, smooth, rtol=rate)


def test_long_steps_hold_the_rate_of_the_schedule():
    opt = js.SGD(optax.linear_schedule(1.0, 0.0, 4), reference_rate=0.5)
    law = js.theory.schedule_moments(opt, js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), jnp.zeros(1), [2.0])
    # The rates relative to the reference are 2, 1.5, 1 and .5: an Ornstein-Uhlenbeck process in each of the steps.
    variance = 0.0
    for rate in (2.0, 1.5, 1.0, 0.5):
        variance = variance * np.exp(-2 * rate * 0.5) + 0.5 * rate * (1 - np.exp(-2 * rate * 0.5)) / 2
    assert float(law.covariance[0, 0, 0]) == pytest.approx(variance, rel=1e-5)


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


# Of these rates, 6 to 11 % of the quotients k eta / eta fall short of k in float32; of .1 none.
_RATES = [0.01, 0.3, 0.7, 0.1]
_KINDS = {name: functools.partial(row.make, decay=0.9) for name, row in OPTIMIZERS.items() if row.kind.models}


@pytest.mark.parametrize("rate", _RATES)
@pytest.mark.parametrize("substeps", [1, 3])
def test_an_sde_takes_its_rate_at_the_optimizers_step(rate, substeps):
    """Noise-free SGD, whose SDE is a product of Euler steps, with a schedule that is a table of one rate a step."""
    steps = 400
    table = rate * np.random.default_rng(0).uniform(0.1, 1.0, steps).astype(np.float32)
    opt = js.SGD(lambda k: jnp.asarray(table)[k], reference_rate=rate)
    problem = js.Problem(js.Quadratic([0.05]), js.Gaussian(0.0))
    run = js.simulate(
        opt.sde(problem), jnp.ones(1), steps=steps, seeds=1, every=1, substeps=substeps, key=jax.random.key(0), progress=False
    )
    exact = np.cumprod((1 - 0.05 * table.astype(float) / substeps) ** substeps)
    np.testing.assert_allclose(run["x"].mean[1:, 0], exact, rtol=1e-4)


def _dropping(rate, jump, k):
    return jnp.where(k < jump, rate, 0.01 * rate)


@pytest.mark.parametrize("name", _KINDS)
def test_a_schedule_that_jumps_does_so_at_the_same_step_in_chain_and_sde(name):
    """Where the rate falls to a hundredth, the parameters all but stop; one step too late they go on for one more."""
    rate = 0.3
    problem = js.Problem(js.Quadratic([1e-3]), js.Gaussian(0.0))
    for jump in (12, 13, 15, 19):
        opt = _KINDS[name](eqx.Partial(_dropping, jnp.asarray(rate), jnp.asarray(jump)), reference_rate=rate)
        run = dict(steps=20, seeds=1, every=1, key=jax.random.key(0), progress=False, observe={"x": _itself})
        for process in (opt.chain(problem), opt.sde(problem)):
            x = np.asarray(js.simulate(process, jnp.full(1, 100.0), **run)["x"].mean, float)[:, 0]
            speed = np.abs(np.diff(x))
            assert np.all(speed[jump:] < 0.05 * speed[jump - 1])
            assert np.all(speed[jump - 3 : jump] > 0.5 * speed[jump - 1])


def _itself(x):
    return x


@pytest.mark.parametrize("rate", _RATES)
def test_diffrax_times_are_the_steps_that_they_round(rate):
    """Through `diffeqsolve`, whose float32 times are t1 k / n, and at the products k eta themselves."""
    steps, rate = 2000, np.float32(rate)
    schedule = lambda k: jnp.asarray(rate * 0.5 ** (k % 3))
    curvature = 0.01 / float(rate)  # so that a step at a wrong rate shows
    sde = js.SGD(schedule, reference_rate=rate).sde(js.Problem(js.Quadratic([curvature]), js.Gaussian(0.0)))
    ks = np.arange(steps, dtype=np.float32)
    for times in (ks * rate, (np.float32(steps) * rate) * (ks / np.float32(steps)), ks * np.float64(rate)):
        found = jax.vmap(lambda t: sde.instant(t).step)(jnp.asarray(times, jnp.float32))
        np.testing.assert_array_equal(found, np.arange(steps))
    # Within a step it is that step.
    np.testing.assert_array_equal(jax.vmap(lambda t: sde.instant(t).step)((ks + 0.9) * rate), np.arange(steps))
    path = lambda t0, t1: jnp.zeros(1)
    solution = diffrax.diffeqsolve(
        sde.terms(path), diffrax.Euler(), 0.0, float(steps * rate), float(rate), jnp.ones(1), max_steps=steps + 1
    )
    exact = np.prod(1 - 0.01 * 0.5 ** (np.arange(steps) % 3))
    assert float(solution.ys[0, 0]) == pytest.approx(exact, rel=1e-3)


def test_steps_are_right_as_long_as_a_float_can_tell_them():
    """Beyond two million the roundings of a time are more than a step; the nearest step is the best there is."""
    sde = js.SGD(lambda k: 0.1, reference_rate=0.125).sde(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0)))
    for k in (2_000_001, 3_000_000, 10_000_000):
        assert int(sde.instant(jnp.float32(k * 0.125)).step) == k
    table = js.theory.scaled(js.SGD(lambda k: k * 1.0, reference_rate=1.0), 4.0).learning_rate
    assert [float(table(jnp.asarray(k))) for k in (600_000, 1_000_000)] == [4 * 2_400_000, 4 * 4_000_000]


@pytest.mark.parametrize(
    "schedule",
    [
        optax.warmup_cosine_decay_schedule(0.0, 0.3, 40, 300),
        optax.join_schedules([optax.linear_schedule(0.0, 0.3, 30), optax.cosine_decay_schedule(0.3, 200)], [30]),
        optax.piecewise_constant_schedule(0.3, {15: 0.1, 37: 5.0, 111: 0.2}),
    ],
    ids=["warmup-cosine", "joined", "piecewise"],
)
@pytest.mark.parametrize("name", ["sgd", "sign_sgd"])
def test_without_noise_euler_at_a_step_is_the_optimizer_under_any_schedule(name, schedule):
    opt, problem = _KINDS[name](schedule, reference_rate=0.3), js.Problem(js.Quadratic([0.05, 0.11]), js.Gaussian(0.0))
    run = dict(steps=300, seeds=1, every=1, key=jax.random.key(0), progress=False)
    chain, sde = (js.simulate(p, jnp.array([3.0, -2.0]), **run) for p in (opt.chain(problem), opt.sde(problem)))
    np.testing.assert_allclose(chain["x"].mean, sde["x"].mean, rtol=1e-4, atol=1e-5)


def test_closed_forms_follow_a_table_of_rates():
    table = jnp.array([0.3, 0.1, 0.2, 0.05])
    opt = js.SGD(lambda k: table[k], reference_rate=0.3)
    phi = js.theory.schedule_integrals(opt, np.float32(0.3) * np.arange(5, dtype=np.float32))
    np.testing.assert_allclose(phi[0], np.concatenate([[0], np.cumsum(np.asarray(table))]), rtol=1e-6)


@pytest.mark.parametrize("ratio", [4.0, 0.25, 2.5])
def test_a_scaled_schedule_counts_whole_steps(ratio):
    table = 0.1 / (1 + jnp.arange(200.0))
    opt = js.theory.scaled(js.SGD(lambda k: table[k], reference_rate=0.1), ratio)
    rates = jax.vmap(opt.learning_rate)(jnp.arange(30))
    np.testing.assert_allclose(rates, ratio * np.asarray(table)[np.floor(np.arange(30) * ratio).astype(int)], rtol=1e-6)
