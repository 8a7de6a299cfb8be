"""Products are in full precision on every device: accelerators would round the factors to 8 or 11 bits unless told not to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import WITH_SDE, WITH_THEORY
from jax.extend.core import ClosedJaxpr, Jaxpr

import jaxsde as js
from jaxsde import _linalg
from jaxsde.problems._mean_loss import CHUNK

EXACT = (jax.lax.Precision.HIGHEST,) * 2
RNG = np.random.default_rng(0)
MATRIX = np.float32([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]])
FEATURES = RNG.standard_normal((CHUNK + 9, 3)).astype(np.float32)
TARGETS = RNG.standard_normal(CHUNK + 9).astype(np.float32)
X0, KEY = jnp.ones(3), jax.random.key(0)


def _half_square(w, example):
    """A user's loss, without a product of its own."""
    features, target = example
    return 0.5 * (jnp.sum(features * w) - target) ** 2


def _batches(**more):
    return js.Problem.from_data(_half_square, (FEATURES, TARGETS), batch_size=4, **more)


CORRELATED = js.Gaussian(covariance=MATRIX)
PROBLEMS = {
    "quadratic": lambda: js.Problem(js.Quadratic(MATRIX, minimum=0.5), CORRELATED),
    "diagonal": lambda: js.Problem(js.Quadratic(MATRIX.diagonal()), js.Gaussian(2.0)),
    "student": lambda: js.Problem(js.Quadratic(MATRIX), js.StudentT(5.0, 2.0)),
    "saddle": lambda: js.Problem(js.EmbeddedSaddle([-1.0, 2.0, 1.0]), CORRELATED),
    "regression": lambda: js.Problem(js.LinearRegression(FEATURES, TARGETS), CORRELATED),
    "logistic": lambda: js.Problem(js.LogisticRegression(FEATURES, TARGETS > 0, ridge=0.1), CORRELATED),
    "batches": _batches,
    "epochs": lambda: _batches(shuffle=True, covariance_examples=20),
    "signs of few batches": lambda: _batches(sign_batches=5),
    "signs of many batches": lambda: _batches(sign_batches=100),
}


def _inner(value):
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [jaxpr for item in value for jaxpr in _inner(item)] if isinstance(value, (list, tuple)) else []


def _products(jaxpr):
    """The precision of every product in a program, those of loops, branches and calls included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.params["precision"]
        for value in equation.params.values():
            for inner in _inner(value):
                yield from _products(inner)


def _check(function, *arguments, some=False):
    found = list(_products(jax.make_jaxpr(function)(*arguments).jaxpr))
    assert all(precision == EXACT for precision in found), found
    assert found or not some


def test_the_check_sees_products_in_loops_calls_and_derivatives():
    def loop(x):
        return jax.lax.fori_loop(0, 3, lambda i, x: jax.jit(lambda x: MATRIX @ x)(x), x)

    assert list(_products(jax.make_jaxpr(loop)(X0).jaxpr)) == [None]
    assert set(_products(jax.make_jaxpr(jax.grad(lambda x: jnp.sum((MATRIX @ x) ** 2)))(X0).jaxpr)) == {None}
    _check(jax.grad(lambda x: jnp.sum(_linalg.matmul(jnp.asarray(MATRIX), x) ** 2)), X0, some=True)


@pytest.mark.parametrize("name", PROBLEMS)
def test_losses_and_noise(name):
    problem = PROBLEMS[name]()
    loss, noise = problem.loss, problem.noise
    _check(loss, X0, some=name not in ("diagonal", "saddle"))
    for derivative in (jax.grad, jax.jacfwd, jax.hessian, lambda f: jax.jacrev(jax.grad(f))):
        _check(derivative(loss), X0)
    _check(problem.stochastic_gradient, X0, KEY)
    for function in (noise.variance, noise.covariance):
        _check(function, X0)
    for function in (noise.mean_sign, noise.prob_negative, noise.prob_nonzero, noise.sign_covariance):
        _check(function, X0, X0)


def _linearise(sde, x0):
    t0, y0 = sde.init(x0, KEY)
    return jax.jacfwd(functools.partial(sde.drift, t0))(y0)


@pytest.mark.parametrize("opt", WITH_SDE, ids=lambda opt: type(opt).__name__)
@pytest.mark.parametrize("name", PROBLEMS)
def test_steps_of_chains_and_sdes(name, opt):
    problem = PROBLEMS[name]()
    models = opt.models if name == "diagonal" else opt.models[:1]
    for process in (opt.chain(problem), *(opt.sde(problem, model) for model in models)):
        run = lambda x0, process=process: (
            js.simulate(process, x0, steps=4, every=2, seeds=2, key=KEY, reduce=js.Moments(covariance=True), progress=False)[
                "loss"
            ].mean
        )
        _check(run, X0, some=True)
        if isinstance(process, js.SDE):
            _check(functools.partial(_linearise, process), X0)


@pytest.mark.parametrize("opt", WITH_THEORY, ids=lambda opt: type(opt).__name__)
@pytest.mark.parametrize("name", ["quadratic", "diagonal", "student", "regression"])
def test_closed_forms(name, opt):
    problem, ts = PROBLEMS[name](), jnp.linspace(0.0, 1.0, 3)
    opt = type(opt)(**(vars(opt) | {"learning_rate": 1e-3}))
    _check(lambda x0, ts: js.theory.moments(opt, problem, x0, ts), X0, ts, some=True)
    _check(lambda rate: js.theory.stationary(type(opt)(**(vars(opt) | {"learning_rate": rate})), problem), 1e-3, some=True)
    if isinstance(opt, (js.SGD, js.SignSGD)):
        _check(lambda x0, ts: js.theory.loss_bound(opt, problem, x0, ts), X0, ts)


@pytest.mark.parametrize("kind", ["chain", "sde"])
@pytest.mark.parametrize("opt", [js.SGD(0.01), js.SignSGD(0.01)], ids=lambda opt: type(opt).__name__)
def test_exact_laws_of_linear_companions(opt, kind, monkeypatch):
    """These are computed on the host, from numbers: here the products are seen where they are made."""
    found, bind = [], jax.lax.dot_general_p.bind

    def seen(*arguments, **parameters):
        found.append(parameters["precision"])
        return bind(*arguments, **parameters)

    problem = js.Problem(js.Quadratic(MATRIX), CORRELATED if isinstance(opt, js.SGD) else js.Gaussian(2.0))
    jax.clear_caches()  # what has been traced before makes no product again
    monkeypatch.setattr(jax.lax.dot_general_p, "bind", seen)
    js.expectations(getattr(opt, kind)(problem), X0, {"xx": lambda x: x * x}, steps=4, seeds=4, key=KEY, progress=False)
    assert found and all(precision == EXACT for precision in found), found
