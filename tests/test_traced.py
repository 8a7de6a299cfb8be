"""Users' functions are known by what they compute: fresh ones share programs, and leave nothing behind."""

import gc
import os
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import Compilations

import jaxsde as js
from jaxsde._traced import is_lasting, is_traced, traced

X0 = jnp.array([1.0, -1.0])
QUADRATIC = js.Problem(js.Quadratic([2.0, 1.0]), js.Gaussian(0.3))


def _run(process, x0=X0, **more):
    arguments = dict(steps=4, seeds=8, key=jax.random.key(0)) | more
    return js.simulate(process, x0, **arguments)


def _fresh_observables(k):
    return _run(js.SignSGD(0.01).sde(QUADRATIC), observe={"x": lambda x: x, "norm": lambda x: jnp.sum(x**2)})


def _fresh_loss(k):
    centre = jnp.full(2, float(k))
    return _run(js.AdamW(0.01).sde(js.Problem(lambda x: jnp.sum(jnp.cosh(x - centre)), js.Gaussian(0.1))))


def _fresh_numpy_data(k):
    centre = np.full(2, k, np.float32)
    return _run(js.SGD(0.01).chain(js.Problem(lambda x: jnp.sum((x - centre) ** 2), js.StudentT(5.0, 0.1))))


def _fresh_compiled_function(k):
    centre = jnp.full(2, float(k))
    squares = jax.jit(lambda x: jnp.sum((x - centre) ** 2))
    return _run(js.SGD(0.01).chain(js.Problem(lambda x: squares(x) / 2, js.Gaussian(0.1))))


def _fresh_rule_for_derivatives(k):
    return _run(js.SGD(0.01).chain(js.Problem(lambda x: jnp.sum(jax.nn.softplus(x) + jax.nn.relu(x)), js.Gaussian(0.1))))


def _fresh_example_loss(k):
    data = jax.random.normal(jax.random.key(k), (20, 2))
    problem = js.Problem.from_data(lambda w, row: 0.5 * (row @ w) ** 2, data, batch_size=4)
    return _run(js.RMSprop(0.01).sde(problem))


def _fresh_schedule(k):
    table = jnp.linspace(0.1, 0.01 * (k + 1), 5)
    opt = js.Adam(lambda step: table[step], reference_rate=0.1)
    _run(opt.sde(QUADRATIC))
    return _run(opt.chain(QUADRATIC))


def _fresh_optax_schedule(k):
    return _run(js.SGD(optax.linear_schedule(0.1, 0.01, 4), reference_rate=0.1).chain(QUADRATIC))


def _fresh_transform(k):
    return _run(js.Chain(lambda: optax.lion(0.01), QUADRATIC, jnp.asarray(0.01)))


def _fresh_start(k):
    centre = jnp.full(2, float(k))
    return _run(js.SGD(0.01).chain(QUADRATIC), lambda key: centre + jax.random.normal(key, (2,)))


def _fresh_expectations(k):
    centre = jnp.full(2, float(k))
    problem = js.Problem(lambda x: jnp.sum((x - centre) ** 2), js.Gaussian(0.1))
    functions = {"far": lambda x: jnp.sum((x - centre) ** 4)}
    return js.expectations(js.SignSGD(0.01).chain(problem), X0, functions, steps=4, seeds=8, key=jax.random.key(k))


FRESH = [value for name, value in list(globals().items()) if name.startswith("_fresh_")]


@pytest.mark.parametrize("fresh", FRESH, ids=lambda f: f.__name__[7:])
def test_fresh_functions_that_compute_the_same_share_programs(fresh):
    fresh(0), fresh(1)  # the second time, small programs of JAX's own are there too
    with Compilations() as compiled:
        for k in range(2, 5):
            fresh(k)
    assert compiled.count == 0


def test_a_hundred_lambdas_share_one_program():
    _fresh_observables(0)
    with Compilations() as compiled:
        for k in range(100):
            _fresh_observables(k)
    assert compiled.count == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the resident memory as Linux tells it")
def test_memory_is_flat_over_fresh_problems_with_much_data():
    """Fifty problems, each over 20 MB of its own."""

    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def fresh(k):
        data = np.full((50_000, 100), k, np.float32)
        rows = jnp.asarray(data)
        problem = js.Problem(lambda w: jnp.mean((rows @ w) ** 2), js.Gaussian(0.1))
        _run(js.SGD(1e-9).chain(problem), jnp.ones(100), seeds=2, steps=1)

    for k in range(5):
        fresh(k)
    before = resident()
    for k in range(50):
        fresh(k)
    assert resident() - before < 3 * 20


def test_nothing_keeps_a_function_or_its_data_alive():
    data = jnp.ones(2)
    loss = lambda x: jnp.sum((x - data) ** 2)
    gone = weakref.ref(loss)
    _run(js.SGD(0.01).sde(js.Problem(loss, js.Gaussian(0.1))), observe={"loss": loss})
    del loss
    gc.collect()
    assert gone() is None


def test_the_data_are_data():
    """The numbers that a function closes over enter: programs are shared, results are not."""
    first, second = (_fresh_loss(k)["loss"].mean for k in (1, 2))
    assert np.all(np.abs(first - second) > 0.1)
    centre = jnp.full(2, 2.0)
    exact = jnp.sum(jnp.cosh(X0 - centre))
    np.testing.assert_allclose(second[0], exact, rtol=1e-6)


def _doubled(slope, reverse=False):
    """2 x, with a rule of its own that claims another derivative."""
    if reverse:
        function = jax.custom_vjp(lambda x: 2 * x)
        function.defvjp(lambda x: (2 * x, None), lambda _, cotangent: (slope * cotangent,))
    else:
        function = jax.custom_jvp(lambda x: 2 * x)
        function.defjvp(lambda primals, tangents: (2 * primals[0], slope * tangents[0]))
    return lambda x: jnp.sum(function(x))


@pytest.mark.parametrize(
    "one, other",
    [
        (_doubled(2.0), _doubled(3.0)),
        (_doubled(2.0, reverse=True), _doubled(3.0, reverse=True)),
        (lambda x: jnp.sum(x**2), lambda x: jnp.sum(x**3)),
        (lambda x: jnp.sum(2.0 * x), lambda x: jnp.sum(3.0 * x)),
        (lambda x: x[0], lambda x: x[1]),
        (lambda x: jnp.sum(jax.nn.relu(x)), lambda x: jnp.sum(jnp.maximum(x, 0.0))),  # other derivatives at 0
        (lambda x: {"a": x}, lambda x: {"b": x}),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + x, x), lambda x: jax.lax.fori_loop(0, 4, lambda i, y: y + x, x)),
        (lambda x: jnp.where(x > 0, x, 0.0), lambda x: jnp.where(x > 0, x, -0.0)),
    ],
)
def test_functions_that_compute_something_else_are_told_apart(one, other):
    assert traced(one, X0).program != traced(other, X0).program
    assert traced(one, X0).program == traced(one, X0).program


@pytest.mark.parametrize("reverse", [False, True])
def test_fresh_rules_for_derivatives_that_compute_the_same_share_a_program(reverse):
    first, second = (traced(_doubled(3.0, reverse), X0) for _ in range(2))
    assert first.program is second.program
    np.testing.assert_array_equal(jax.grad(first)(X0), [3.0, 3.0])


def test_a_traced_function_and_its_derivatives_are_those_of_the_function():
    data = jax.random.normal(jax.random.key(0), (5, 2))
    inner = jax.jit(lambda w: jnp.tanh(data @ w))

    def function(w):
        total = jax.lax.scan(lambda c, row: (c + jnp.sin(row @ w), None), 0.0, data)[0]
        return total + jnp.sum(jax.nn.softplus(inner(w))) + jax.lax.cond(w[0] > 0, lambda: w[1], lambda: jnp.sum(data))

    known = traced(function, X0)
    assert is_traced(known)
    # Compiled apart, the function's parts round differently.
    for derivative in (lambda f: f, jax.grad, jax.hessian):
        np.testing.assert_allclose(derivative(known)(X0), derivative(function)(X0), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(known)(jnp.stack([X0, 2 * X0])), [function(X0), function(2 * X0)], rtol=1e-6)


def test_what_cannot_be_known_stays_as_it_is():
    def printing(x):
        jax.debug.print("{}", x)
        return jnp.sum(x)

    def calling_back(x):
        return jax.pure_callback(lambda x: np.sum(x), jax.ShapeDtypeStruct((), x.dtype), x)

    assert traced(printing, X0) is printing
    assert traced(calling_back, X0) is calling_back
    assert traced(jnp.sum, X0) is jnp.sum and is_lasting(js.Quadratic([1.0]))


def test_a_function_is_traced_once():
    count = []

    def loss(x):
        count.append(None)
        return jnp.sum(x**2)

    problem = js.Problem(loss, js.Gaussian(0.1))
    for seeds in (8, 9):
        _run(js.SGD(0.01).chain(problem), seeds=seeds)
    assert len(count) == 1
    with jax.enable_x64(not jax.config.jax_enable_x64):  # in another precision it is another program
        _run(js.SGD(0.01).chain(problem), np.ones(2))
    assert len(count) == 2


def test_arrays_that_a_callable_module_holds_are_data():
    class Loss(eqx.Module):
        scale: jax.Array
        shape: object = eqx.field(default=lambda x: x**2)

        def __call__(self, x):
            return jnp.sum(self.scale * self.shape(x))

    shape = lambda x: jnp.abs(x)
    first, second = (traced(Loss(jnp.asarray(scale), shape), X0) for scale in (1.0, 2.0))
    assert first.program is second.program and first(X0) * 2 == second(X0)


def test_a_traced_function_refuses_other_arguments():
    known = traced(lambda x: jnp.sum(x), X0)
    with pytest.raises(TypeError, match="was traced for arguments of the structure"):
        known(X0, X0)
    with pytest.raises(TypeError, match="was traced for"):
        known(X0.astype(jnp.bfloat16))
