"""`advise`: floors against stationary laws, limits of stability against recursions, slopes against draws, and its words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.estimation._advice import _slope
from jaxsde.reporting import advice_text

HESSIAN, SIGMA = jnp.array([1.0, 4.0]), jnp.array([0.5, 2.0])
PROBLEM = js.Problem(js.Quadratic(HESSIAN), js.Gaussian(SIGMA))
AT_REST = jnp.zeros(2)
FEATURES = jax.random.normal(jax.random.key(0), (64, 3))
BATCHES = js.Problem.from_data(
    lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2, (FEATURES, FEATURES @ jnp.ones(3) + jnp.sin(jnp.arange(64.0))), batch_size=4
)


def _advice(opt, problem=PROBLEM, params=AT_REST, **more):
    return js.advise(problem, params, opt, progress=False, **more)


@pytest.mark.parametrize(
    "opt",
    [
        js.SGD(0.01),
        js.Momentum(0.001, 0.9),
        js.SignSGD(0.01),
        js.RMSprop(0.01, 0.999),
        js.AdamW(0.01, b1=0.9, b2=0.9999, weight_decay=0.0),
    ],
    ids=lambda opt: type(opt).__name__,
)
def test_the_floor_is_the_stationary_loss_of_a_quadratic(opt):
    draws = 4096
    found = _advice(opt, draws=draws)
    exact = float(js.theory.stationary(opt, PROBLEM).loss)
    # Variances have a relative error of sqrt(2 / draws) each; the floor is of first order in the learning rate.
    assert found.floor == pytest.approx(exact, rel=6 * np.sqrt(2 / draws) / 2 + 0.03)


def _radius(opt, rate):
    """The spectral radius of the mean recursion in the steepest direction, with P at rest."""
    steepest = {"SGD": 4.0, "Momentum": 4.0, "RMSprop": 2.0, "Adam": 2.0}[type(opt).__name__]
    k = rate * steepest
    if isinstance(opt, js.Momentum):
        b = float(opt.momentum)
        return np.max(np.abs(np.linalg.eigvals([[1 - k, -rate * b], [steepest, b]])))
    if isinstance(opt, js.Adam):
        b = float(opt.b1)
        return np.max(np.abs(np.linalg.eigvals([[1 - k * (1 - b), -rate * b], [(1 - b) * steepest, b]])))
    return abs(1 - k)


@pytest.mark.parametrize(
    "opt", [js.SGD(0.01), js.Momentum(0.01, 0.7), js.RMSprop(0.01), js.Adam(0.01, b1=0.8)], ids=lambda opt: type(opt).__name__
)
def test_beyond_the_stable_rate_the_mean_grows(opt):
    """P = sigma is 1/2 and 2 here, so that the preconditioned loss has the curvature 2 in both coordinates."""
    found = _advice(opt, draws=4096).stable_rate
    assert _radius(opt, 0.93 * found) < 1 < _radius(opt, 1.07 * found)


def test_momentum_adds_up_and_so_leaves_less_to_the_theory():
    assert _advice(js.Momentum(0.01, 0.9)).theory_rate == pytest.approx(0.1 * _advice(js.SGD(0.01)).theory_rate)


@pytest.mark.parametrize(("opt", "ratio"), [(js.SignSGD(0.01), 4.0), (js.RMSprop(0.01), 4.0), (js.SGD(0.1), 4.0)])
def test_slopes_are_those_of_draws(opt, ratio):
    """How fast the loss falls with the examples seen, from a million normal gradients at the smaller noise."""
    params = jnp.array([0.3, 0.2])
    found = _advice(opt, params=params, draws=4096)
    rng, g = np.random.default_rng(0), np.asarray(HESSIAN) * np.asarray(params)
    z = g + np.asarray(SIGMA) / np.sqrt(ratio) * rng.standard_normal((1_000_000, 2))
    steps = {"SignSGD": np.sign(z) / np.sqrt(ratio), "RMSprop": z / np.sqrt(np.mean(z**2, axis=0)) / np.sqrt(ratio), "SGD": z}
    drawn = np.mean(steps[type(opt).__name__], axis=0) @ g
    if isinstance(opt, js.SGD):
        assert _slope(found.kind, found.report, 1.0) == _slope(found.kind, found.report, ratio)
    else:
        assert _slope(found.kind, found.report, ratio) == pytest.approx(drawn, rel=0.03)


def test_a_rule_that_needs_noise_is_not_promised_where_the_gradient_dominates():
    """At rest all is noise; far away the loss falls half as fast with the examples seen at four times the batch."""
    weak = js.Problem.from_data(lambda w, e: 0.5 * jnp.sum((w - e) ** 2), FEATURES, batch_size=4)
    near, far = (_advice(js.RMSprop(1e-4), weak, jnp.mean(FEATURES, axis=0) + at, batch_size=16).scaling for at in (0.0, 30.0))
    assert near.holds and near.distortion < 1e-3
    assert not far.holds and far.rate_fits and not far.noise_dominates
    assert far.distortion == pytest.approx(0.5, abs=0.01)
    assert near.steps == 0.25 and float(near.optimizer.rate) == pytest.approx(2e-4)


def test_a_rate_beyond_the_theory_is_not_promised():
    for rate, fits in ((1e-3, True), (1.0, False)):
        scaling = _advice(js.SGD(rate), BATCHES, jnp.zeros(3), batch_size=8).scaling
        assert scaling.rate_fits is fits and scaling.holds is fits and scaling.distortion == 0


def test_signs_of_noise_that_is_not_normal_are_not_promised():
    """One example in fifty moves the gradient: a batch mostly sees none of them."""
    rare = jnp.where(jnp.arange(400) % 50 == 0, 50.0, -0.5)
    lopsided = js.Problem.from_data(lambda w, e: jnp.sum(w * e), rare, batch_size=4)
    scaling = _advice(js.SignSGD(1e-3), lopsided, jnp.zeros(1), batch_size=8).scaling
    assert not scaling.normal_signs and not scaling.holds
    text = advice_text(_advice(js.SignSGD(1e-3), lopsided, jnp.zeros(1), batch_size=8))
    assert "far from those of normal noise" in " ".join(text.split())


def test_where_the_rule_has_no_answer_it_is_said():
    found = _advice(js.AdamW(0.01), BATCHES, jnp.zeros(3), batch_size=256)
    assert found.scaling.optimizer is None and not found.scaling.holds
    assert "the scaling rule has no answer: b1 would have to be" in advice_text(found)


def test_without_noise_or_curvature_the_words_say_so():
    still = js.Problem(lambda x: jnp.sum(x), js.Gaussian(0.0))
    text = advice_text(_advice(js.SGD(0.1), still, jnp.ones(2)))
    assert "There is no gradient noise here" in text and "no curvature" in text and "Too few numbers" in text


def test_words_of_each_paragraph():
    found = _advice(js.SGD(0.4), BATCHES, jnp.zeros(3), batch_size=8)
    text = " ".join(advice_text(found).split())
    for start in (
        "Signal and noise. The gradient is",
        "Learning rate. The SDE should hold to some 10 %",
        "Floor. Noise as it is",
    ):
        assert start in text
    assert "Batch. From 4 to 8: SGD(learning_rate=0.8), with 0.5 times as many steps." in text
    assert "times that. In the steepest direction a quadratic is stable up to" in text
    assert "Do not count on" in text
    assert all(len(line) <= 100 for line in advice_text(found).splitlines())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _advice(js.Lion(0.1)), ValueError, "advice is for SGD, Momentum, .* got Lion"),
        (lambda: _advice("adam"), TypeError, "opt must be"),
        (lambda: _advice(js.SGD(0.1), batch_size=8), ValueError, "Gaussian noise knows none"),
        (lambda: _advice(js.SGD(0.1), BATCHES, jnp.zeros(3), batch_size=0), ValueError, "batch_size"),
        (lambda: js.advise("quadratic", AT_REST, js.SGD(0.1)), TypeError, "problem must be"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
