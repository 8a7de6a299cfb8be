"""Losses and noise laws made of nonsense: each is named at once, with what it got and what would be right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js

ROWS = np.ones((3, 2))
MIXED_KEYS = {1: jnp.ones(()), "a": jnp.ones(())}


def _mean_loss(example_loss):
    return js.MeanLoss(example_loss, jnp.ones(3))(jnp.ones(2))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: js.Quadratic(None), TypeError, "hessian must be a number or an array of numbers, got None"),
        (lambda: js.Quadratic("abc"), TypeError, "hessian must be .* got 'abc'"),
        (lambda: js.Quadratic([[1.0, 2.0], [1.0]]), TypeError, r"hessian must be .* got \[\[1.0, 2.0\], \[1.0\]\]"),
        (lambda: js.Quadratic([1j, 2.0]), TypeError, "hessian must hold real numbers, got dtype complex"),
        (lambda: js.Quadratic(1j * np.eye(2)), TypeError, "hessian must hold real numbers, got dtype complex"),
        (lambda: js.Quadratic([]), ValueError, r"hessian must be a vector .* got shape \(0,\)"),
        (lambda: js.Quadratic([1.0, np.inf]), ValueError, "hessian must be finite, got"),
        (lambda: js.Quadratic([1.0], minimum="a"), TypeError, "minimum must be .* got 'a'"),
        (lambda: js.Quadratic([1.0], minimum=1j), TypeError, "minimum must hold real numbers"),
        (lambda: js.Quadratic([1.0], minimum=np.nan), ValueError, "minimum must be finite, got nan"),
        (lambda: js.Gaussian(1j), TypeError, r"scale must hold real numbers, got dtype complex\d+: 1j"),
        (lambda: js.Gaussian("a"), TypeError, "scale must be .* got 'a'"),
        (lambda: js.Gaussian({"a": None}), ValueError, "scale must be .* got {'a': None}"),
        (lambda: js.Gaussian({1: 1.0, "a": 2.0}), TypeError, "keys of every dict in scale must be comparable"),
        (lambda: js.Gaussian(covariance=1j * np.eye(2)), TypeError, "covariance must hold real numbers"),
        (lambda: js.Gaussian(covariance="x"), TypeError, "covariance must be .* got 'x'"),
        (lambda: js.Gaussian(covariance=np.full((2, 2), np.nan)), ValueError, "covariance must be finite"),
        (lambda: js.Laplace(None), ValueError, "scale must be .* got None"),
        (lambda: js.Uniform(1j * np.ones(2)), TypeError, "scale must hold real numbers"),
        (lambda: js.StudentT(2.0, 1j), TypeError, "scale must hold real numbers"),
        (lambda: js.StudentT("a", 1.0), TypeError, "df must be one number, got 'a'"),
        (lambda: js.AlphaStable(1.5, "x"), TypeError, "scale must be .* got 'x'"),
        (lambda: js.AlphaStable(1j, 1.0), TypeError, "alpha must be a number .* got 1j"),
        (lambda: js.EmbeddedSaddle("x"), TypeError, "hessian must be .* got 'x'"),
        (lambda: js.EmbeddedSaddle([1j]), TypeError, "hessian must hold real numbers"),
        (lambda: js.EmbeddedSaddle([np.nan]), ValueError, "hessian must be finite"),
        (lambda: js.EmbeddedSaddle(quartic=None), TypeError, "quartic must be .* got None"),
        (lambda: js.EmbeddedSaddle(quartic=[1.0, 2.0, 3.0]), ValueError, r"quartic must be a number, got shape \(3,\)"),
        (lambda: js.EmbeddedSaddle(cubic=1j), TypeError, "cubic must hold real numbers"),
        (lambda: js.EmbeddedSaddle(cubic=np.nan), ValueError, "cubic must be finite"),
        (lambda: js.LinearRegression(None, None), TypeError, "features must be .* got None"),
        (lambda: js.LinearRegression(1j * ROWS, np.ones(3)), TypeError, "features must hold real numbers"),
        (lambda: js.LinearRegression(np.nan * ROWS, np.ones(3)), ValueError, "features must be finite"),
        (lambda: js.LinearRegression(ROWS, 1j * np.ones(3)), TypeError, "targets must hold real numbers"),
        (lambda: js.LinearRegression(ROWS[:0], np.ones(0)), ValueError, r"features must have shape .* got \(0, 2\)"),
        (lambda: js.LinearRegression(ROWS, np.ones(3))(jnp.ones(3)), ValueError, r"on 2 features got w of shape \(3,\)"),
        (lambda: js.LogisticRegression(ROWS, ["a", "b", "c"]), TypeError, "labels must be .* got"),
        (lambda: js.LogisticRegression(ROWS.astype(int), [0, 0.5, 1]), ValueError, "labels must be 0 or 1, got values"),
        (lambda: js.LogisticRegression(ROWS, [0, 1, 1], ridge="x"), TypeError, "ridge must be .* got 'x'"),
        (lambda: js.LogisticRegression(ROWS, [0, 1, 1], ridge=[1.0, 2.0]), ValueError, r"ridge .* got shape \(2,\)"),
        (lambda: js.LogisticRegression(ROWS, [0, 1, 1])(jnp.ones(3)), ValueError, "on 2 features got w of shape"),
        (lambda: js.MeanLoss(lambda w, e: 0.0, MIXED_KEYS), TypeError, "keys of every dict in data must be comparable"),
        (lambda: js.MeanLoss(lambda w, e: 0.0, "abc"), TypeError, "data must be arrays of numbers .*abc"),
        (lambda: _mean_loss(lambda w, e: w * e), ValueError, r"example_loss must return a scalar, got shape \(2,\)"),
        (lambda: _mean_loss(lambda w, e: (jnp.sum(w), e)), ValueError, "example_loss must return a scalar, got"),
        (lambda: _mean_loss(lambda w, e: jnp.array(1)), TypeError, "example_loss must return a floating.* int"),
        (lambda: _mean_loss(lambda w, e: jnp.sum(w) * 1j), TypeError, "example_loss must return a floating.* complex"),
        (lambda: js.MiniBatch(js.Quadratic([1.0]), 2), TypeError, "loss must be a jaxsde.MeanLoss.* got Quadratic"),
        (lambda: js.MiniBatch(js.MeanLoss(jnp.vdot, ROWS), 2, shuffle="yes"), TypeError, "shuffle must be .* got 'yes'"),
    ],
)
def test_nonsense_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_whole_numbers_are_numbers():
    assert float(js.Quadratic(np.array([1, 2]))(jnp.ones(2))) == 1.5
    assert js.Quadratic(np.array([1, 2])).hessian.dtype == js.Quadratic([1.0, 2.0]).hessian.dtype
    assert float(js.LinearRegression(np.eye(2, dtype=int), [1, 1])(jnp.zeros(2))) == 0.5
    assert js.Gaussian(covariance=[[1, 0], [0, 1]]).covariance(jnp.ones(2)).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert float(js.LogisticRegression(np.eye(2), [True, False])(jnp.zeros(2))) == pytest.approx(np.log(2))


def _on_the_host(x):
    return jax.pure_callback(lambda x: np.float32(np.sum(x**2)), jax.ShapeDtypeStruct((), jnp.float32), x)


def _unrolled(x):
    return jax.lax.while_loop(lambda v: v < 3.0, lambda v: v * 2, jnp.sum(x))


@pytest.mark.parametrize(
    "loss, x0, error, message",
    [
        (lambda p: p[1] ** 2 + p["a"] ** 2, MIXED_KEYS, TypeError, "keys of every dict in x0 must be comparable.* got {1:"),
        (_on_the_host, jnp.ones(2), ValueError, r"a value, but no gradient .* shapes \(2,\): Pure callbacks do not support"),
        (_unrolled, jnp.ones(2), ValueError, "a value, but no gradient .*while_loop"),
        (lambda x: jnp.sum(x) * 1j, jnp.ones(2), TypeError, "must return a real floating-point number, got dtype complex"),
        (lambda x: jnp.sum(x > 0), jnp.ones(2), TypeError, "must return a real floating-point number, got dtype int"),
        (lambda x: x, jnp.ones(2), ValueError, "the loss must return a scalar"),
        (lambda x: None, jnp.ones(2), ValueError, "the loss must return a scalar, got None"),
        (lambda x: x.foo, jnp.ones(2), ValueError, "cannot be evaluated at x0 with shapes .*AttributeError"),
        (lambda x, y: jnp.sum(x), jnp.ones(2), ValueError, "cannot be evaluated at x0 .*missing 1 required"),
        (lambda x: jnp.sum(x) if x[0] > 0 else 0.0, jnp.ones(2), ValueError, "cannot be evaluated at x0 .*boolean"),
        (js.MeanLoss(lambda w: 0.0, ROWS), jnp.ones(2), ValueError, "cannot be evaluated at x0 .*takes 1 positional"),
    ],
)
@pytest.mark.parametrize("sampled", [False, True])
def test_losses_and_starts_that_do_not_go_together(loss, x0, error, message, sampled):
    chain = js.SGD(0.1).chain(js.Problem(loss, js.Gaussian(1.0)))
    with pytest.raises(error, match=message):
        js.simulate(chain, (lambda key: x0) if sampled else x0, steps=1, seeds=2, key=jax.random.key(0))


def test_the_gradient_is_traced_once():
    traced = []

    def loss(x):
        traced.append(None)
        return jnp.sum(x**2)

    problem = js.Problem(loss, js.Gaussian(1.0))
    for _ in range(3):
        problem.validate(jnp.ones(2))
    assert len(traced) == 1
