"""Steps that are written for compiled programs to be made in place: the same as Euler's, and without a copy."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import BY_NAME, PROBLEM

import jaxsde as js
from jaxsde import _random
from jaxsde.processes import Instant
from jaxsde.processes._euler import euler

ETA = 0.1
MATRIX = np.array([[1.0, 0.3], [0.3, 0.5]])
DATA = np.random.default_rng(0).normal(size=(16, 2))
PROBLEMS = {
    "correlated": lambda: js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(covariance=MATRIX)),
    "mini-batches": lambda: js.Problem.from_data(lambda w, e: 0.5 * jnp.sum(w * e) ** 2, jnp.asarray(DATA), batch_size=4),
}
RATES = {"constant": (ETA, {}), "schedule": (lambda k: ETA * 0.9**k, dict(reference_rate=ETA))}
MAKERS = {
    "Adam": lambda rate, **more: js.Adam(rate, 0.8, 0.95, **more),
    "Adam, b1 = 0": lambda rate, **more: js.Adam(rate, 0.0, 0.95, **more),
    "AdamW": lambda rate, **more: js.AdamW(rate, 0.9, 0.9, 1e-3, 0.3, **more),
    "Momentum": lambda rate, **more: js.Momentum(rate, 0.9, **more),
}


def _drawn(draw, like):
    """Positive numbers, as V has."""
    return jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.5, 1.5, leaf.shape)), like)


@pytest.mark.parametrize("substeps", [1, 2, 7])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", MAKERS)
def test_an_ordered_step_is_eulers(name, rate, substeps):
    """In double precision, at random states of two problems, at times early and late."""
    with jax.enable_x64(True):
        for make in PROBLEMS.values():
            problem = make()
            schedule, more = RATES[rate]
            sde = MAKERS[name](schedule, **more).sde(problem)
            process = sde.discretised(substeps)
            draw = np.random.default_rng(1)
            shape = sde.noise_shaped(process.init(jnp.ones(2), jax.random.key(0)).y)
            for step in (1, 9):
                start = process.init(jnp.asarray(draw.normal(size=2)), jax.random.key(0)).y
                y, dw = _drawn(draw, start), _drawn(draw, shape)
                now = Instant(jnp.asarray(step * ETA), jnp.asarray(step))
                found, expected = process.step(y, now, dw), euler(sde.term, now, process.h, y, dw)
                assert sde.ordered_step is not None
                for a, b, c in zip(*(jax.tree.leaves(part) for part in (found, expected, y)), strict=True):
                    np.testing.assert_allclose(a - c, b - c, rtol=1e-11, atol=1e-14)


def test_runs_with_and_without_the_order_agree():
    optimizer = js.AdamW(optax.cosine_decay_schedule(0.05, 30), 0.9, 0.9, weight_decay=0.2, reference_rate=0.05)
    sde = optimizer.sde(PROBLEM)
    plain = eqx.tree_at(lambda s: s.ordered_step, sde, None, is_leaf=lambda leaf: leaf is sde.ordered_step)
    runs = [
        js.simulate(s, jnp.ones(2), steps=30, every=10, seeds=50, key=jax.random.key(0), substeps=3, progress=False)["x"]
        for s in (sde, plain)
    ]
    np.testing.assert_allclose(runs[0].mean, runs[1].mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(runs[0].variance, runs[1].variance, rtol=1e-3, atol=1e-9)


_SEEDS, _SIZE = 96, 112  # a shape that nothing else has
_KERNELS = [
    ("sgd", 1, 1),
    ("momentum", 2, 2),
    ("sign_sgd", 1, 1),
    ("rmsprop", 3, 2),
    ("rmspropw", 3, 2),
    ("adam", 4, 3),
    ("adamw", 4, 3),
]


def _loops(optimizer, kind):
    """The computations of the compiled program that makes steps, but for the one that calls them."""
    problem = js.Problem(js.Quadratic(jnp.ones(_SIZE)), js.Gaussian(0.5))
    process = optimizer.chain(problem) if kind == "chain" else optimizer.sde(problem).discretised(2)

    def advance(states, keys, start, stop):
        return jax.vmap(lambda state, key: process.run(state, start, stop, key))(states, keys)

    of_seed = lambda seed: _random.seed_key(_random.stream_key(jax.random.key(0)), seed)
    begin = lambda seed: (process.init(jnp.ones(_SIZE), of_seed(seed)), process.noise_key(of_seed(seed)))
    shapes = jax.eval_shape(jax.vmap(begin), jnp.arange(_SEEDS, dtype=jnp.int32))
    bound = jax.ShapeDtypeStruct((), jnp.int32)
    text = jax.jit(advance, donate_argnums=0).lower(*shapes, bound, bound).compile().as_text()
    parts = [part for part in re.split(r"\n(?=\S[^\n]*\{\n)", text) if not part.startswith("ENTRY")]
    return text, parts


on_processors = pytest.mark.skipif(jax.default_backend() != "cpu", reason="other compilers arrange their buffers in other ways")


@on_processors
@pytest.mark.parametrize("kind", ["chain", "sde"])
@pytest.mark.parametrize("name", BY_NAME)
def test_no_array_of_the_state_is_copied_at_a_step(name, kind):
    optimizer = BY_NAME[name]
    if kind == "sde" and not optimizer.models:
        pytest.skip("it has no SDE")
    _, loops = _loops(optimizer, kind)
    copies = [len(re.findall(rf"= f\d+\[{_SEEDS},{_SIZE}\]\S* copy\(", part)) for part in loops]
    assert len(loops) > 3 and not any(copies)


@on_processors
@pytest.mark.sweep
@pytest.mark.parametrize(("name", "of_chain", "of_sde"), _KERNELS)
def test_a_step_is_hardly_more_kernels_than_the_state_has_arrays(name, of_chain, of_sde):
    """One for each array of the state; chains of adaptive methods keep the stochastic gradient, which several read."""
    for kind, most in (("chain", of_chain), ("sde", of_sde)):
        text, loops = _loops(BY_NAME[name], kind)
        bodies = set(re.findall(r"body=%?([\w.-]+)", text))
        counts = [
            len(re.findall(rf"= f\d+\[{_SEEDS},{_SIZE}\]\S* (?:fusion|call|custom-call)\(", part))
            for part in loops
            if part.split()[0].lstrip("%") in bodies
        ]
        assert 0 < max(counts) <= most
