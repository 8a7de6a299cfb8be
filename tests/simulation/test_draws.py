"""What is drawn depends on key, seed and step alone: not on the precision of the day, nor on how the key was made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js

ROWS = np.random.default_rng(0).standard_normal((37, 3)).astype(np.float32)
NOISES = {
    "gaussian": lambda: js.Gaussian(0.5),
    "covariance": lambda: js.Gaussian(covariance=np.float32(0.3) * np.eye(3, dtype=np.float32) + np.float32(0.1)),
    "student": lambda: js.StudentT(2.5, 0.5),
    "laplace": lambda: js.Laplace(0.5),
    "uniform": lambda: js.Uniform(0.5),
    "stable": lambda: js.AlphaStable(1.5, 0.5),
    "batches": lambda: {},
    "epochs": lambda: {"shuffle": True},
    "signs": lambda: {"sign_batches": 20},
}


def _problem(name):
    noise = NOISES[name]()
    if not isinstance(noise, dict):
        return js.Problem(js.Quadratic(np.array([1.0, 2.0, 3.0], np.float32)), noise)
    return js.Problem.from_data(lambda w, row: jnp.tanh(w @ row) ** 2, ROWS, batch_size=4, **noise)


@pytest.mark.parametrize("kind", ["chain", "sde"])
@pytest.mark.parametrize("name", NOISES)
def test_paths_in_float32_do_not_depend_on_x64(name, kind):
    def run():
        problem, opt = _problem(name), js.SGD(0.1) if kind == "chain" or name != "signs" else js.SignSGD(0.1)
        if kind == "sde" and not problem.noise.has_variance:
            opt = js.SignSGD(0.1)
        process = getattr(opt, kind)(problem)
        start = np.ones(3, np.float32)
        ensemble = js.simulate(process, start, steps=12, seeds=3, every=4, key=jax.random.key(7), reduce=js.Samples())
        return np.asarray(ensemble["x"].values)

    single = run()
    with jax.enable_x64(True):
        double = run()
    assert double.dtype == np.float32
    # The same draws: to rounding, where constants are of another precision.
    np.testing.assert_allclose(double, single, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("more", [{}, {"shuffle": True}])
def test_drawn_examples_do_not_depend_on_x64(more):
    def drawn():
        noise = js.Problem.from_data(lambda w, row: w @ row, ROWS, batch_size=5, **more).noise
        return np.asarray(jax.vmap(noise.draw)(jax.random.split(jax.random.key(1), 50))).tolist()

    single = drawn()
    with jax.enable_x64(True):
        assert drawn() == single


def test_networks_start_at_the_same_parameters_with_x64():
    def built():
        key = jax.random.key(0)
        return [
            js.networks.MLP(4, 2, layers=2, width=3, key=key),
            js.networks.CNN((1, 8, 8), 10, channels=2, dense=4, key=key),
            js.networks.CharTransformer(5, length=6, width=4, depth=1, heads=2, key=key),
        ]

    single = [np.asarray(leaf) for leaf in jax.tree.leaves(built())]
    with jax.enable_x64(True):
        double = [np.asarray(leaf) for leaf in jax.tree.leaves(built())]
    for a, b in zip(single, double, strict=True):
        assert b.dtype == np.float64
        np.testing.assert_allclose(b, a, rtol=1e-6)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_raw_keys_of_any_implementation(implementation):
    """Made under one default and used under it or another: the stream of the typed key."""
    problem = _problem("gaussian")
    run = lambda key: js.simulate(js.SGD(0.1).chain(problem), jnp.ones(3), steps=3, seeds=4, key=key)["x"].mean
    with jax.default_prng_impl(implementation):
        raw, typed = jax.random.PRNGKey(3), jax.random.key(3)
        assert raw.shape == ((2,) if implementation == "threefry2x32" else (4,))
        there = run(raw)
        np.testing.assert_array_equal(there, run(typed))
    np.testing.assert_array_equal(run(typed), there)
    np.testing.assert_array_equal(run(raw), there)
    np.testing.assert_array_equal(run(np.asarray(raw)), there)


def test_raw_keys_of_another_implementation_where_they_are_split_further():
    """By `compare` and `weak_error`, before any simulation sees them."""
    with jax.default_prng_impl("rbg"):
        raw = jax.random.PRNGKey(3)
    opt, problem = js.SGD(0.1), js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5))
    js.compare(opt, problem, jnp.ones(1), steps=10, seeds=8, key=raw)
    js.weak_error(opt, problem, jnp.ones(1), T=0.4, learning_rates=(0.2, 0.1), key=raw, seeds=16)


@pytest.mark.parametrize("key", [jnp.zeros(3, jnp.uint32), jnp.zeros(2), np.zeros((5, 2), np.uint32)])
def test_arrays_that_are_no_keys(key):
    with pytest.raises(TypeError, match=r"jax\.random\.key\(0\).*got shape"):
        js.simulate(js.SGD(0.1).chain(_problem("gaussian")), jnp.ones(3), steps=1, seeds=1, key=key)
