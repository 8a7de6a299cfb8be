"""How many seeds run at a time, with arrays counted by hand."""

import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import pytest
from common import ONE_DEVICE

import jaxsde as js
from jaxsde.simulation import _chunk, _work
from jaxsde.simulation._footprint import largest_array, largest_array_per_seed
from jaxsde.simulation._jackknife import _leave_one_out

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


def test_the_largest_array_of_a_program():
    assert largest_array(jax.jit(lambda x: jnp.sum(x[:, None] * x)), jnp.ones(30)) == 30 * 30


def test_chunks_of_about_the_same_size():
    assert _chunk._even(10, 20) == 10
    assert _chunk._even(100, 10) == 10
    assert _chunk._even(100, 0) == 1
    assert _chunk._even(15, 10) == 8


@pytest.mark.parametrize("limit, chunks", [(2**25, [12]), (4 * 64 * 100 * 100, [4, 4, 4]), (1, [1] * 12)])
def test_the_seeds_of_a_large_loss_run_a_few_at_a_time(monkeypatch, limit, chunks):
    """Each seed's gradient holds 64 matrices of 100 x 100, and a chunk's arrays may have so many numbers."""
    data = jnp.ones((64, 100))
    problem = js.Problem.from_data(lambda w, row: jnp.sum(jnp.tanh(row[:, None] * w) @ w), data, batch_size=4)
    monkeypatch.setattr(_chunk, "_CHUNK_ARRAY", limit)
    monkeypatch.setattr(_chunk, "_SIZES", OrderedDict())
    taken, begin = [], _work.Task.begin

    def measured(task, first):
        taken.append(task.chunk)
        return begin(task, first)

    monkeypatch.setattr(_work.Task, "begin", measured)
    run = dict(steps=1, seeds=12, key=KEY, observe={"loss": problem.loss}, mesh=ONE_DEVICE)
    js.simulate(js.SGD(1e-6).sde(problem), jnp.ones((100, 100)), **run)
    assert taken == chunks


def test_what_is_left_without_each_group_takes_no_more_than_it_is():
    """Covariances of many groups: beside the statistics that are given and returned, those of a group or two are held."""
    reducer, times, groups = js.Moments(covariance=True), 3, 12
    stats = jax.tree.map(lambda leaf: jnp.zeros((times, groups, *leaf.shape), leaf.dtype), reducer.init(jnp.zeros(60)))
    memory = jax.jit(functools.partial(_leave_one_out, reducer)).lower(stats).compile().memory_analysis()
    assert memory.output_size_in_bytes < 1.2 * memory.argument_size_in_bytes  # that of all groups is returned as well
    assert memory.temp_size_in_bytes < 4 * memory.argument_size_in_bytes / groups
