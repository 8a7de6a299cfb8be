"""Rules that scale hyperparameters with the batch, and the laws they leave unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js

TWO = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))


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


def test_the_decay_has_to_be_scaled_too():
    opt = js.AdamW(0.005, b1=0.9, b2=0.999, weight_decay=0.5)
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    scaled, larger = js.theory.scaled(opt, 4.0), js.theory.with_batch(problem, 4.0)
    kept = js.AdamW(scaled.learning_rate, b1=scaled.b1, b2=scaled.b2, eps=scaled.eps, weight_decay=0.5)
    observe, seeds = {"x": lambda x: x}, 4096

    def check(opt, problem, steps, number, variance):
        assert float(js.theory.stationary(opt, problem).covariance[0, 0]) == pytest.approx(variance, rel=1e-3)
        run = dict(steps=steps, seeds=seeds, every=steps, key=jax.random.key(number), observe=observe)
        measured = js.simulate(opt.chain(problem), jnp.zeros(1), **run)["x"].variance[-1, 0]
        assert float(measured) == pytest.approx(variance, rel=5 * np.sqrt(2 / seeds))

    check(opt, problem, 1600, 1, 1.626e-3)
    check(scaled, larger, 400, 2, 1.626e-3)
    check(kept, larger, 400, 3, 1.975e-3)


@pytest.mark.parametrize("scale", [js.theory.scaled, js.theory.fixed_rate_scaled])
def test_what_has_the_unit_of_a_gradient_shrinks_with_the_noise(scale):
    opt = scale(js.RMSprop(0.01, 0.99, eps=0.1, initial_scale=0.5), 4.0)
    assert (float(opt.eps), float(opt.initial_scale)) == pytest.approx((0.1 / 2, 0.5 / 4))


@pytest.mark.parametrize("noise", [js.Gaussian(jnp.array([1.0, 2.0])), js.StudentT(5.0, 0.7), js.Laplace(0.4)])
def test_a_larger_batch_divides_the_covariance(noise):
    smaller, x = js.theory.with_batch(js.Problem(TWO.loss, noise), 4.0).noise, jnp.zeros(2)
    np.testing.assert_allclose(smaller.covariance(x), noise.covariance(x) / 4, rtol=1e-5)
    assert type(smaller) is type(noise)


def test_a_correlated_covariance_is_divided_too():
    matrix = jnp.array([[1.0, 0.5], [0.5, 2.0]])
    smaller = js.theory.with_batch(js.Problem(TWO.loss, js.Gaussian(covariance=matrix)), 4.0)
    np.testing.assert_allclose(smaller.noise.covariance(jnp.zeros(2)), matrix / 4, rtol=1e-6)


def test_ratios_may_be_traced_and_must_be_one_number():
    rate = jax.jit(lambda ratio: js.theory.scaled(js.RMSpropW(0.01, 0.9), ratio).learning_rate)(4.0)
    assert rate.dtype == jnp.result_type(float) and float(rate) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="one number"):
        js.theory.scaled(js.SGD(0.1), jnp.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="nothing to scale"):
        js.theory.fixed_rate_scaled(js.SignSGD(0.1), 4.0)
    with pytest.raises(TypeError, match="optimizer"):
        js.theory.scaled(optax.sgd(0.1), 4.0)
