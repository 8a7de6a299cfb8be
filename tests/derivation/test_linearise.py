"""Linear response against exact Lyapunov equations, the birth-death chain, and where it must say that it fails."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

import jaxsde as js

ETA = 0.02


def one_dimensional(scale=1.0):
    return js.Problem(js.Quadratic([1.0]), js.Gaussian(scale))


def test_sgd_in_two_dimensions_is_exact():
    hessian, covariance, eta = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 0.5]]), 0.3
    problem = js.Problem(js.Quadratic(hessian, minimum=jnp.array([1.0, -2.0])), js.Gaussian(covariance=covariance))
    found = js.linearise(js.SGD(eta).chain(problem), jnp.zeros(2))
    mean_map = np.eye(2) - eta * hessian
    np.testing.assert_allclose(found.point, [1.0, -2.0], rtol=1e-5)
    np.testing.assert_allclose(found.covariance, scipy.linalg.solve_discrete_lyapunov(mean_map, eta**2 * covariance), rtol=1e-5)
    np.testing.assert_allclose(found.covariance, found.averaged_covariance, rtol=1e-5)
    curvatures = np.linalg.eigvalsh(hessian)
    assert found.rate == pytest.approx(-np.log(1 - eta * curvatures[0]) / eta, rel=1e-5)
    assert found.largest_learning_rate == pytest.approx(2 / curvatures[1], rel=1e-5)
    assert found.valid and found.why == ""


def test_heavy_ball_is_exact():
    """Its stationary variance is eta / (2 lambda (1 - b)) / (1 - eta lambda / (2 (1 + b))), and it is stable below
    2 (1 + b) / lambda."""
    b, curvature = 0.9, 1.5
    problem = js.Problem(js.Quadratic([curvature]), js.Gaussian(1.0))
    found = js.linearise(js.Optax(optax.sgd, ETA, momentum=b).chain(problem), jnp.ones(1))
    exact = ETA / (2 * curvature * (1 - b)) / (1 - ETA * curvature / (2 * (1 + b)))
    assert found.covariance.item() == pytest.approx(exact, rel=1e-5)
    assert found.largest_learning_rate == pytest.approx(2 * (1 + b) / curvature, rel=1e-5)


def test_the_written_sdes_have_their_closed_forms():
    problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.5))
    for opt in (js.SGD(ETA), js.SignSGD(ETA), js.RMSprop(ETA, decay=0.99)):
        found = js.linearise(opt.sde(problem), jnp.zeros(2))
        exact = np.diag(js.theory.stationary(opt, problem).covariance)
        # SignSGD's closed form has half of the derivative's Ito term that the linear picture lacks.
        np.testing.assert_allclose(np.diag(found.covariance), exact, rtol=0.05 if isinstance(opt, js.SignSGD) else 1e-3)


def test_signs_come_close_to_the_exact_law():
    found = js.linearise(js.SignSGD(ETA).chain(one_dimensional()), jnp.zeros(1))
    exact = float(js.theory.birth_death(js.SignSGD(ETA), one_dimensional(), 0.0).variance)
    assert found.valid
    assert found.covariance.item() == pytest.approx(exact, rel=0.01)


def test_a_sign_that_saturates_is_not_linear():
    """THEORY: linear response .0808, simulated .0379; the averaged derivative repairs most of it."""
    found = js.linearise(
        js.Optax(lambda learning_rate: js.Signum(learning_rate).transform(), ETA).chain(one_dimensional()), jnp.zeros(1)
    )
    assert not found.valid
    assert "beyond the range in which updates are linear" in found.why
    assert found.covariance.item() == pytest.approx(0.081, rel=0.03)
    assert found.averaged_covariance.item() == pytest.approx(0.0379, rel=0.1)


@pytest.mark.parametrize(("factory", "why"), [(optax.amsgrad, "only ever grows"), (optax.adagrad, "no fixed point")])
def test_where_there_is_no_stationary_law_it_says_so(factory, why):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = js.linearise(js.Optax(factory, ETA).chain(one_dimensional()), jnp.zeros(1))
    assert not found.valid
    assert why in found.why


def test_an_unstable_rate_says_so():
    found = js.linearise(js.SGD(2.5).chain(one_dimensional()), jnp.zeros(1))
    assert not found.valid
    assert "unstable" in found.why
    assert found.largest_learning_rate == pytest.approx(2.0, rel=1e-5)


def test_structured_parameters():
    problem = js.Problem(lambda p: jnp.sum((p["a"] - 1) ** 2) + p["b"] ** 2, js.Gaussian(0.1))
    found = js.linearise(js.Optax(optax.adam, ETA).chain(problem), {"a": jnp.zeros(2), "b": jnp.asarray(1.0)})
    np.testing.assert_allclose(ravel_pytree(found.point)[0], [1, 1, 0], atol=1e-3)
    assert found.covariance.shape == (3, 3)


def test_a_large_state_is_refused():
    problem = js.Problem(js.Quadratic(jnp.ones(600)), js.Gaussian(1.0))
    with pytest.raises(ValueError, match="at most 512 numbers"):
        js.linearise(js.SGD(0.1).chain(problem), jnp.zeros(600))


def test_other_processes_are_refused():
    with pytest.raises(TypeError, match="process must be"):
        js.linearise(js.SGD(0.1), jnp.zeros(1))


RULES = {
    "sgd": (lambda: js.SGD(ETA), {"learning_rate": 1.0}),
    "sign_sgd": (lambda: js.SignSGD(ETA), {"learning_rate": 0.5}),
    "heavy ball": (lambda: js.Optax(optax.sgd, 0.001, momentum=0.9), {"learning_rate": 2.0, "momentum": 1.0}),
}


@pytest.mark.parametrize("name", RULES)
def test_scaling_rules_are_the_known_ones(name):
    make, known = RULES[name]
    rule = js.scaling_rule(make(), one_dimensional())
    assert set(rule.exponents) == set(known)
    for number, power in known.items():
        assert rule.exponents[number] == pytest.approx(power, abs=0.02)
    assert rule.mismatch < 0.03


@pytest.mark.sweep
def test_the_scaling_rule_of_adam_and_of_lion():
    adam = js.scaling_rule(js.Optax(optax.adamw, 0.001, b2=0.99, b1=0.9, eps=1e-8, weight_decay=0.1), one_dimensional())
    for name, power in {"learning_rate": 0.5, "b1": 1.0, "b2": 1.0, "eps": -0.5, "weight_decay": 0.5}.items():
        assert adam.exponents[name] == pytest.approx(power, abs=0.02)
    lion = js.scaling_rule(js.Optax(optax.lion, 0.001, b1=0.9, b2=0.99), one_dimensional())
    # b1 is the share of the fresh gradient in a step, which is to stay.
    for name, power in {"learning_rate": 0.5, "b1": 0.0, "b2": 1.0}.items():
        assert lion.exponents[name] == pytest.approx(power, abs=0.07)


def test_a_rule_applies():
    rule = js.optimizers.ScalingRule({"learning_rate": 0.5, "b2": 1.0}, ("b2",), (), 0.0)
    new = rule.apply(js.Adam(0.01, b2=0.99), 4.0)
    np.testing.assert_allclose([new.learning_rate, new.b2], [0.02, 0.96], rtol=1e-6)
    with pytest.raises(ValueError, match="b2 would have to be"):
        rule.apply(js.Adam(0.01, b2=0.9), 16.0)


@pytest.mark.parametrize("steepness", [0.5, 2.0, 8.0])
def test_soft_signs_have_their_own_scale(steepness):
    """The variance of SGD on tanh(c g), eta E tanh(c z)^2 / (2 c E sech(c z)^2) to first order, however steep it is."""

    def soft_sign(learning_rate, steepness):
        return optax.stateless(lambda g, _: jax.tree.map(lambda g: -learning_rate * jnp.tanh(steepness * g), g))

    z = np.linspace(-9, 9, 100_001)
    mean = lambda v: float(np.sum(v * np.exp(-(z**2) / 2)) / np.sum(np.exp(-(z**2) / 2)))
    slope, square = mean(steepness / np.cosh(steepness * z) ** 2), mean(np.tanh(steepness * z) ** 2)
    problem = js.Problem(js.Quadratic(jnp.ones(1)), js.Gaussian(1.0))
    opt = js.Optax(soft_sign, 0.01, steepness=steepness)
    for process, exact in (
        (opt.chain(problem), 0.01 * square / (slope * (2 - 0.01 * slope))),
        (opt.sde(problem, "derived-1"), 0.01 * square / (2 * slope)),
    ):
        assert js.linearise(process, jnp.zeros(1)).covariance[0, 0] == pytest.approx(exact, rel=3e-3)
