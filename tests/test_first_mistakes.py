"""What people do wrong in their first hour: each message says what is wrong and what to write instead."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde.problems import AbstractIndependentNoise, AbstractNoise

KEY = jax.random.key(0)
X0 = jnp.array([1.0, -1.0])
PROBLEM = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.5))
SGD = js.SGD(0.1)


def _run(process, x0=X0):
    return js.simulate(process, x0, steps=2, seeds=4, key=KEY, progress=False)


def _with_loss(loss, x0=X0):
    return _run(SGD.chain(js.Problem(loss, js.Gaussian(0.5))), x0)


class KeyFirst(AbstractIndependentNoise):
    def sample(self, key, params):
        return jax.random.normal(key, params.shape)

    def variance(self, params):
        return jnp.ones_like(params)


class OfAnArray(AbstractIndependentNoise):
    def sample(self, params, key):
        return jax.random.normal(key, params.shape)

    def variance(self, params):
        return jnp.ones_like(params)


class MatrixForAMap(AbstractNoise):
    def sample(self, params, key):
        return jax.random.normal(key, params.shape)

    def sqrt_covariance(self, params):
        return jnp.eye(2)


class Network:
    """A model as another library's: an object that is called with inputs."""

    def __call__(self, inputs):
        return jnp.tanh(inputs)


def _no_pair(learning_rate):
    update = lambda gradient, state, params=None: jax.tree.map(lambda g: -learning_rate * g, gradient)
    return optax.GradientTransformation(lambda params: (), update)


ROWS = [(np.ones(3), 0.0) for _ in range(50)]
LOSSES = {
    "a vector": (lambda: _with_loss(lambda x: x**2), r"a scalar, got an array of shape \(2,\): take its mean.*from_data"),
    "more than the loss": (lambda: _with_loss(lambda x: (jnp.sum(x), x)), "a scalar, got a tuple of 2: return the loss alone"),
    "numpy": (lambda: _with_loss(lambda x: np.sum(np.asarray(x))), r"cannot be evaluated at x0.* jax\.numpy in place of numpy"),
    "float": (lambda: _with_loss(lambda x: float(jnp.sum(x))), r"cannot be evaluated at x0.*without float\(\)"),
    "a list": (lambda: _with_loss(PROBLEM.loss, [1.0, -1.0]), r"pytree of scalars; for a vector pass jax\.numpy\.array"),
    "a model": (lambda: _run(SGD.chain(PROBLEM), Network()), "If this Network is a model, .*structure, x0 = nnx.split"),
    "rows": (
        lambda: js.Problem.from_data(lambda w, e: 0.0, ROWS, batch_size=2), r"got 100 arrays.* stack .* \(inputs, labels\)$"
    ),
}  # fmt: skip
NOISES = {
    "a class": (lambda: js.Problem(PROBLEM.loss, js.Gaussian), r"this is the class; make a law of it, Gaussian\(\.\.\.\)"),
    "a function": (lambda: js.Problem(PROBLEM.loss, lambda x, key: x), "derive a law of your own from .*AbstractNoise"),
    "arguments": (
        lambda: _run(SGD.chain(js.Problem(PROBLEM.loss, KeyFirst()))),
        r"KeyFirst\.sample\(params, key\) must draw noise at the parameters float\d+\[2\], but raised",
    ),
    "a dict": (
        lambda: _run(SGD.sde(js.Problem(lambda p: jnp.sum(p["w"]), OfAnArray())), {"w": X0}),
        "OfAnArray.sample.* as a pytree like these, but raised AttributeError",
    ),
    "a matrix": (
        lambda: _run(SGD.sde(js.Problem(PROBLEM.loss, MatrixForAMap()))),
        r"MatrixForAMap\.sqrt_covariance\(params\) must return a function of an increment",
    ),
    "one scale of two": (
        lambda: _run(SGD.chain(js.Problem(lambda p: jnp.sum(p["w"] + p["b"]), js.Gaussian({"w": 0.5}))), {"w": X0, "b": X0}),
        "scale must be a number or a pytree like the parameters",
    ),
}  # fmt: skip
OPTIMIZERS = {
    "compared": (lambda: js.compare(optax.adam(0.1), PROBLEM, X0), r"got an Optax transform\. .*jaxsde\.Optax\(optax\.adam, 0"),
    "simulated": (lambda: _run(optax.adam(0.1)), r"process must be .*got an Optax transform\. .*jaxsde\.Optax\(optax\.adam"),
    "made already": (lambda: js.Optax(optax.adam(0.1), 0.1), r"factory must be .*got an Optax transform\. .*wrap it"),
    "lr": (lambda: js.Adam(lr=1e-3), "Adam takes no lr; it takes learning_rate, b1, b2, eps, reference_rate"),
    "a factory's lr": (lambda: js.Optax(lambda lr: optax.sgd(lr), 0.1), "no learning_rate; it takes lr. A factory has"),
    "no arguments": (lambda: js.Optax(lambda: optax.sgd(0.1), 0.1), "takes no learning_rate; it takes nothing. A factory has"),
    "no pair": (lambda: _run(js.Optax(_no_pair, 0.1).chain(PROBLEM)), r"must return a tuple, \(updates, new state\), got an"),
    "the chain": (lambda: js.compare(SGD.chain(PROBLEM), PROBLEM, X0), "such as jaxsde.SGD.*, got an object .* Chain$"),
    "one seed": (lambda: js.compare(SGD, PROBLEM, X0, seeds=1), "seeds must be at least 2, got 1"),
    "no quadratic": (
        lambda: js.theory.stationary(SGD, js.Problem(jnp.sum, js.Gaussian(0.5))), "closed forms hold for .*; jaxsde.linearise"
    ),
}  # fmt: skip
BROKEN = {"w": jnp.array([1.0, jnp.nan]), "b": jnp.zeros(2)}
OF_TWO = js.Problem(lambda p: jnp.sum(p["w"] ** 2 + p["b"] ** 2), js.Gaussian(0.5))
NOT_FINITE = r"every leaf of x0 must hold finite numbers, but 1 of 2 are nan or infinite at x0\['w'\]\. .* belongs in the loss"
STARTS = {
    "simulated": (lambda: _run(SGD.chain(OF_TWO), BROKEN), NOT_FINITE),
    "of NumPy": (lambda: _run(SGD.sde(OF_TWO), {"w": np.array([1.0, -np.inf]), "b": np.zeros(2)}), NOT_FINITE),
    "drawn": (lambda: _run(SGD.chain(OF_TWO), lambda key: BROKEN), NOT_FINITE),
    "settling": (lambda: js.stationary(SGD.chain(OF_TWO), BROKEN, key=KEY, seeds=8, progress=False), NOT_FINITE),
    "expected": (
        lambda: js.expectations(SGD.chain(OF_TWO), BROKEN, {"loss": OF_TWO.loss}, steps=2, seeds=8, key=KEY), NOT_FINITE
    ),
    "compared": (lambda: js.compare(SGD, OF_TWO, BROKEN, steps=2, seeds=8, progress=False), NOT_FINITE),
    "of levels": (
        lambda: js.multilevel(SGD.sde(OF_TWO), BROKEN, {"loss": OF_TWO.loss}, steps=2, stderr=0.1, key=KEY), NOT_FINITE
    ),
    "reported": (lambda: js.noise_report(OF_TWO, BROKEN, draws=8), NOT_FINITE),
    "linearised": (lambda: js.linearise(SGD.chain(OF_TWO), BROKEN), NOT_FINITE),
}  # fmt: skip
GROUPS = {"loss": LOSSES, "noise": NOISES, "optimizer": OPTIMIZERS, "start": STARTS}
CASES = {f"{what}, {name}": case for what, cases in GROUPS.items() for name, case in cases.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_named_with_its_remedy(name):
    make, message = CASES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_start_that_is_being_traced_is_not_known_to_be_finite():
    starts = jnp.array([[1.0, -1.0], [1.0, jnp.nan]])
    losses = jax.vmap(lambda x0: _run(SGD.chain(PROBLEM), x0)["loss"].mean[-1])(starts)
    assert jnp.isfinite(losses).tolist() == [True, False]


MAPPED = {
    "compare": lambda rate: js.compare(js.SGD(rate), PROBLEM, X0),
    "stationary": lambda rate: js.stationary(js.SGD(rate).chain(PROBLEM), X0, key=KEY),
    "mixing": lambda rate: js.mixing(js.SGD(rate).chain(PROBLEM), X0, key=KEY),
    "expectations": lambda rate: js.expectations(js.SGD(rate).chain(PROBLEM), X0, {"x": jnp.sum}, steps=2, seeds=2, key=KEY),
    "multilevel": lambda rate: js.multilevel(js.SGD(rate).sde(PROBLEM), X0, {"x": jnp.sum}, steps=2, stderr=1.0, key=KEY),
    "advise": lambda rate: js.advise(PROBLEM, X0, js.SGD(rate)),
    "noise_report": lambda rate: js.noise_report(PROBLEM, rate * X0),
    "noise_path": lambda rate: js.noise_path(PROBLEM, js.SGD(rate), X0, steps=2),
}


@pytest.mark.parametrize("name", MAPPED)
def test_what_cannot_be_mapped_says_what_can(name):
    with pytest.raises(TypeError, match=f"{name} decides by numbers as it goes, .* map jaxsde.simulate"):
        jax.vmap(MAPPED[name])(jnp.array([0.1, 0.2]))


def test_the_command_is_a_module_as_well():
    run = subprocess.run([sys.executable, "-m", "jaxsde", "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("usage: jaxsde COMMAND"), run.stderr
