"""`weak_error`: orders and constants against errors known exactly, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.estimation._weak_error import at_rate, fit_order

PROBLEM = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
RATES = (0.2, 0.1, 0.05, 0.025)


def _moments(eta, t, x0, h, second_order=False):
    """Mean and second moment of SGD's chain and of its SDE on f = h x^2 / 2 with unit noise."""
    k = round(t / eta)
    q = 1 - eta * h
    chain = q**k * x0, (q**k * x0) ** 2 + eta**2 * (1 - q ** (2 * k)) / (1 - q**2)
    a = h + eta * h * h / 2 if second_order else h
    mean = np.exp(-a * t) * x0
    return chain, (mean, mean**2 + eta * (1 - np.exp(-2 * a * t)) / (2 * a))


@pytest.mark.parametrize("model", ["compagnoni", "second-order"])
@pytest.mark.sweep
def test_the_errors_of_sgd_are_the_exact_ones(model):
    functions = {"x": lambda x: x[0], "xx": lambda x: x[0] ** 2}
    run = js.weak_error(
        js.SGD(0.1), PROBLEM, jnp.array([2.0]), T=1.0, learning_rates=RATES, key=jax.random.key(0),
        test_functions=functions, seeds=64, substeps=8, model=model,
    )  # fmt: skip
    exact = [_moments(eta, 1.0, 2.0, 1.0, model == "second-order") for eta in RATES]
    order = 2 if model == "second-order" else 1
    for i, name in enumerate(functions):
        error = np.array([sde[i] - chain[i] for chain, sde in exact])
        # What Richardson leaves of the solver's error, and float32.
        np.testing.assert_allclose(run[name].modelling, error, atol=2e-6 + 0.01 * np.max(np.abs(error)))
        assert abs(run[name].order.local[-1] - order) < 0.15  # at the smallest rates, where higher powers are gone
        assert run[name].order.half_width < 0.1
    # The solver's error of the mean: (1 - h a)^n against exp(-a t).
    drift = np.array([1 + eta / 2 if order == 2 else 1.0 for eta in RATES])
    steps = np.array([round(8 / eta) for eta in RATES])
    euler = 2 * ((1 - drift / steps) ** steps - np.exp(-drift))
    np.testing.assert_allclose(run["x"].discretisation, euler, rtol=0.05, atol=2e-6)


def test_the_ode_has_order_one_as_well_and_a_larger_constant():
    functions = {"xx": lambda x: x[0] ** 2}
    run = js.weak_error(
        js.SGD(0.1), PROBLEM, jnp.zeros(1), T=1.0, learning_rates=RATES, key=jax.random.key(0),
        test_functions=functions, seeds=64,
    )  # fmt: skip
    error = run["xx"]
    assert abs(fit_order(run.learning_rates, error.ode, 1e-6 + 0 * error.ode).slope - 1) < 0.1
    assert np.all(np.abs(error.ode) > 5 * np.abs(error.modelling))


@pytest.mark.sweep
def test_rmsprops_order_is_sharp():
    opt = js.RMSprop(0.1, 0.9, initial_scale=1.0)
    run = js.weak_error(
        opt, PROBLEM, jnp.array([0.8]), T=1.2, learning_rates=RATES, key=jax.random.key(1), seeds=20_000,
        test_functions={"xx": lambda x: x[0] ** 2},
    )  # fmt: skip
    order = run["xx"].order
    assert order.half_width < 0.2  # a fifth of the seeds of a full run
    assert abs(order.slope - 1) < order.half_width + 0.2


def test_time_scales_are_kept():
    opt = at_rate(js.AdamW(0.1, b1=0.8, b2=0.9), 0.05)
    assert float(opt.b1) == pytest.approx(0.9) and float(opt.b2) == pytest.approx(0.95)
    assert float(opt.rate) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="b1"):
        at_rate(js.AdamW(0.1, b1=0.4, b2=0.9), 0.2)
    # At these rates it is 0, to rounding.
    for b1 in (0.7, 0.8, 0.9, 0.95, 0.96, 0.98):
        assert 0 <= float(at_rate(js.Adam(0.1, b1=b1, b2=0.999), 0.1 / (1 - b1)).b1) < 1e-5


def test_a_power_law_is_fitted_and_noise_is_not():
    rates = np.array([0.4, 0.2, 0.1])
    order = fit_order(rates, 3 * rates**2, 1e-6 * rates)
    assert order.slope == pytest.approx(2) and order.constant == pytest.approx(3)
    assert np.isinf(fit_order(rates, 1e-3 * rates, np.full(3, 1.0)).half_width)
    # Nothing is known better than the grid of powers is fine.
    assert fit_order(rates, 3 * rates**1.0004, 1e-12 * rates).half_width >= 4e-4


@pytest.mark.parametrize("order", [1, 2])
def test_orders_are_fitted_without_selection(order):
    """Errors that noise all but hides, the smallest below one standard error: no bias, and intervals that cover."""
    rates, rng = np.array([0.2, 0.1, 0.05, 0.025]), np.random.default_rng(order)
    true, stderr = rates**order, np.full(4, 0.3 * rates[1] ** order)
    fits = [fit_order(rates, true + stderr * rng.standard_normal(4), stderr) for _ in range(2000)]
    slopes, widths = np.array([f.slope for f in fits]), np.array([f.half_width for f in fits])
    known = np.isfinite(widths)
    assert np.mean(known) > 0.9
    assert abs(np.median(slopes[known]) - order) < 0.1
    # A slope that is not known has an interval that holds everything.
    covered = np.where(known, np.abs(slopes - order) < widths, True)
    assert abs(np.mean(covered) - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 2000)


def test_errors_may_change_sign():
    rates = np.array([0.2, 0.1, 0.05])
    order = fit_order(rates, -(rates**2), 1e-3 * rates**2)
    assert order.slope == pytest.approx(2, abs=2e-3) and order.constant == pytest.approx(-1)
    assert np.isnan(fit_order(rates, np.array([1.0, -1.0, 1.0]), np.full(3, 10.0)).local).all()


def test_where_all_seeds_diverge_there_is_no_weak_error():
    problem = js.Problem(lambda x: -jnp.sum(x**4), js.Gaussian(1.0))
    with pytest.raises(ValueError, match=r"learning rate 0.5 16 of 16 seeds diverged .*t = .*optimizer"):
        js.weak_error(js.SGD(0.5), problem, jnp.ones(1), T=10.0, learning_rates=(0.5, 0.25), key=jax.random.key(0), seeds=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(T=0.55, learning_rates=(0.2, 0.1)), "T must be a whole number of steps"),
        (dict(learning_rates=(0.1,)), "at least two different numbers"),
        (dict(learning_rates=(0.1, -0.1)), r"learning_rates must lie in \(0, inf\)"),
        (dict(test_functions={"x": lambda x: x}), r"test_functions\['x'\] must return a scalar"),
        (dict(model="unknown"), "model must be one of .* got 'unknown'"),
    ],
)
def test_bad_arguments_raise(change, message):
    arguments = dict(T=1.0, learning_rates=(0.2, 0.1), key=jax.random.key(0), seeds=16) | change
    with pytest.raises((ValueError, TypeError), match=message):
        js.weak_error(js.SGD(0.1), PROBLEM, jnp.ones(1), **arguments)


def test_a_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule"):
        opt = js.SGD(lambda k: 0.1, reference_rate=0.1)
        js.weak_error(opt, PROBLEM, jnp.ones(1), T=1.0, learning_rates=(0.2, 0.1), key=jax.random.key(0))


def test_a_test_function_that_is_nowhere_finite_is_named():
    with pytest.raises(ValueError, match=r"test_functions\['log'\] is not finite for any seed"):
        js.weak_error(
            js.SGD(0.1), PROBLEM, jnp.ones(1), T=1.0, learning_rates=(0.2, 0.1), key=jax.random.key(0), seeds=16,
            test_functions={"log": lambda x: jnp.log(x[0] - 100)},
        )  # fmt: skip
