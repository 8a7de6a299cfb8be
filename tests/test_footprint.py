"""How many seeds run at a time, with arrays counted by hand."""

import jax
import jax.numpy as jnp
import pytest

import jaxsde as js
from jaxsde.simulation import _simulate
from jaxsde.simulation._footprint import largest_array_per_seed

KEY = jax.random.key(0)


def _outer(key):
    x = jax.random.normal(key, (30,))
    return jnp.sum(x[:, None] * x)


def _in_a_scan(key):
    return jax.lax.scan(lambda total, i: (total + _outer(jax.random.fold_in(key, i)), i), 0.0, jnp.arange(2000))[0]


def _in_a_branch(key):
    return jax.lax.cond(_outer(key) > 0, _outer, lambda key: 0.0, key)


@pytest.mark.parametrize("program", [_outer, jax.jit(_outer), jax.checkpoint(_outer), _in_a_scan, _in_a_branch])
def test_the_largest_array_that_grows_with_the_seeds(program):
    assert largest_array_per_seed(jax.vmap(program), KEY) == 30 * 30


def test_what_seeds_share_does_not_count():
    shared = jnp.ones((500, 500))
    assert largest_array_per_seed(jax.vmap(lambda key: jax.random.normal(key, (500,)) @ (shared * shared)), KEY) == 500


def test_fewer_seeds_at_a_time_where_arrays_are_large():
    limit, most = _simulate._CHUNK_ARRAY, _simulate._LARGEST_CHUNK
    assert _simulate._fitting(10, 1, 1) == 10
    assert _simulate._fitting(10 * most, 1, 1) == most
    assert _simulate._fitting(100, 1, limit // 10) == 10
    assert _simulate._fitting(100, 1, 2 * limit) == 1
    assert _simulate._fitting(15, 1, limit // 10) == 8  # two chunks of about the same size


def test_the_seeds_of_a_large_loss_run_a_few_at_a_time(monkeypatch):
    """Each seed's gradient holds 64 matrices of 100 x 100, and a chunk's arrays may have as many numbers as four of these."""
    data = jnp.ones((64, 100))
    problem = js.Problem.from_data(lambda w, row: jnp.sum(jnp.tanh(row[:, None] * w) @ w), data, batch_size=4)
    monkeypatch.setattr(_simulate, "_CHUNK_ARRAY", 4 * 64 * 100 * 100)
    taken = []
    run = _simulate._run_chunk

    def measured(plan, recorder, x0, key, ids, bar):
        taken.append(len(ids))
        return run(plan, recorder, x0, key, ids, bar)

    monkeypatch.setattr(_simulate, "_run_chunk", measured)
    opt = js.SGD(1e-6)
    js.simulate(opt.sde(problem), jnp.ones((100, 100)), steps=1, seeds=12, key=KEY, observe={"loss": problem.loss})
    assert taken == [4, 4, 4]
