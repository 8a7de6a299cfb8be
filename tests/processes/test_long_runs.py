"""Runs of up to 2^31 - 1 steps of an optimizer, and of more solver steps than an int32 counts: numbers, times and noise."""

import dataclasses
import functools
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde import _random, _threefry

LAST = 2**31 - 1
LAWS = {
    "two-point": js.TwoPointIncrements(),
    "three-point": js.ThreePointIncrements(),
    "gaussian": js.GaussianIncrements(),
}
DIMENSION, RATE = 3, 0.25
FLAT = js.Problem(js.Quadratic(jnp.zeros(DIMENSION)), js.Gaussian(1.0))
KEY = jax.random.key(1)


def _process(law, substeps=1, group=None):
    process = js.SGD(RATE).sde(FLAT).discretised(substeps, LAWS[law])
    return process if group is None else dataclasses.replace(process, group=jnp.asarray(group, jnp.int32))


def _seed_words(seed):
    return _threefry.key_words(_random.brownian_key(_random.seed_key(_random.stream_key(KEY), jnp.asarray(seed))))


def _noise(law, words, group, steps):
    """The increments of a group's solver steps `steps`, from JAX's own generator."""
    if group:
        tagged = words.at[0].set(words[0] ^ 0x70617274)
        words = jax.extend.random.threefry_2x32(tagged, jnp.array([0, group], jnp.uint32))
    return np.asarray(_increments(law, words, jnp.asarray(steps, jnp.int32)))


@functools.partial(jax.jit, static_argnums=0)
def _increments(law, words, steps):
    increments, like = LAWS[law], jnp.zeros(DIMENSION)

    def one(n):
        block = increments.draw_block(words, n // increments.period, like)
        return increments.read_step(block, n % increments.period, jnp.ones(()), like)

    return jax.vmap(one)(steps)


class _Seen(NamedTuple):
    """What each of some steps began at and was driven by."""

    count: jax.Array
    t: jax.Array
    step: jax.Array
    driver: jax.Array


def _look(process, state, start, stop, key, number, like):
    """The times, numbers and drivers of the steps from `start` to `stop`, of which there are `number`."""

    def move(seen, now, driver):
        put = lambda buffer, value: buffer.at[seen.count].set(value)
        # What a chain's gradient was drawn with comes last, and is not looked at.
        looked_at = driver[:2] if isinstance(driver, tuple) else driver
        return _Seen(seen.count + 1, put(seen.t, now.t), put(seen.step, now.step), jax.tree.map(put, seen.driver, looked_at))

    driver = jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape), leaf.dtype), like)
    seen = _Seen(jnp.asarray(0), jnp.zeros(number), jnp.zeros(number, jnp.int32), driver)
    bounds = jnp.asarray(start, jnp.int32), jnp.asarray(stop, jnp.int32)
    state, seen = eqx.filter_jit(lambda p, *rest: p.run_beside(move, *rest))(process, state, seen, *bounds, key)
    assert int(seen.count) == number
    return state, seen


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("substeps", "group"), [(1, 37), (5, 7), (3, 1)])
def test_the_groups_of_a_run_follow_each_other_and_it_may_be_cut_anywhere(law, substeps, group):
    process, steps, zero = _process(law, substeps, group), 105, jnp.zeros(DIMENSION)
    run = dict(steps=steps, seeds=2, key=KEY, reduce=js.Samples(), progress=False)
    fine = js.simulate(process, zero, every=1, **run)["x"].values
    for every in (5, 35, 105):
        np.testing.assert_array_equal(js.simulate(process, zero, every=every, **run)["x"].values, fine[::every])
    for seed in range(2):
        numbers = np.arange(group * substeps)
        noise = np.concatenate([_noise(law, _seed_words(seed), g, numbers) for g in range(-(-steps // group))])
        expected = noise[: steps * substeps].reshape(steps, substeps, DIMENSION).sum(axis=1) * RATE / np.sqrt(substeps)
        np.testing.assert_allclose(-np.diff(fine[:, seed], axis=0), expected, atol=2e-5)


def test_the_groups_of_usual_runs_are_one():
    """However long the run: up to the largest number of solver steps that an int32 counts."""
    for substeps in (1, 2, 3, 1000, 2**30, LAST):
        group = int(_process("gaussian", substeps).group)
        assert group * substeps <= LAST < (group + 1) * substeps


@pytest.mark.parametrize("law", LAWS)
def test_noise_is_fresh_in_every_group(law):
    steps, seeds, group = 300, 200, 3
    run = js.simulate(
        _process(law, 1, group), jnp.zeros(DIMENSION), steps=steps, every=1, seeds=seeds, key=KEY, reduce=js.Samples(),
        progress=False,
    )  # fmt: skip
    z = np.rint(np.diff(np.asarray(run["x"].values, float), axis=0) / RATE * 2**12) / 2**12
    if law == "gaussian":
        assert len(np.unique(np.asarray(run["x"].values)[1])) == seeds * DIMENSION
        words = np.concatenate([_noise(law, _seed_words(s), g, np.arange(group)) for s in range(4) for g in range(100)])
        assert len(np.unique(words)) > 0.99 * words.size  # of 24-bit floats, a few coincide
    limit = 5.5 / np.sqrt(z.size)
    assert abs(z.mean()) < limit
    assert abs(np.mean(z**2) - 1) < limit * np.sqrt(2) + 1e-3
    for lag in (1, 2, 3, 4, 6, 9, 32, 96):
        assert abs(np.mean(z[lag:] * z[:-lag])) < limit * np.sqrt(steps / (steps - lag)), lag


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("substeps", "begin", "stop"), [
    (1, LAST // 32 * 32 - 32, LAST),
    (7, LAST // 7 // 32 * 32, LAST // 7 + 9),  # from one group to the next
    (1000, LAST // 1000 * 1000 + 576, LAST),
])  # fmt: skip
def test_the_last_steps_of_the_longest_runs(law, substeps, begin, stop):
    """Step numbers are exact, times right to rounding, the noise is that of the group, and a cut changes nothing."""
    process, words, group = _process(law, substeps), _seed_words(0), LAST // substeps
    assert begin % group * substeps % LAWS[law].period == 0  # so that no block has been drawn before
    state = process.init(jnp.zeros(DIMENSION), KEY)
    like, number = jnp.zeros(DIMENSION), (stop - begin) * substeps
    whole, seen = _look(process, state, begin, stop, words, number, like)
    cut, run = state, eqx.filter_jit(lambda p, *rest: p.run(*rest))
    for a, b in ((begin, stop - 8), (stop - 8, stop - 3), (stop - 3, stop)):
        cut = run(process, cut, jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32), words)
    straight = run(process, state, jnp.asarray(begin, jnp.int32), jnp.asarray(stop, jnp.int32), words)
    np.testing.assert_array_equal(cut.y, straight.y)
    np.testing.assert_allclose(straight.y, whole.y, rtol=1e-5)  # by another program, which may round otherwise
    n = np.arange(number)
    np.testing.assert_array_equal(seen.step, begin + n // substeps)
    exact = (begin + n / substeps) * RATE
    assert np.max(np.abs(np.asarray(seen.t, float) / exact - 1)) < 3 * np.finfo(np.float32).eps
    places = begin * substeps + n  # beyond an int32
    size = group * substeps
    expected = np.concatenate([_noise(law, words, g, places[places // size == g] % size) for g in np.unique(places // size)])
    np.testing.assert_allclose(seen.driver, expected * np.sqrt(RATE / substeps), rtol=1e-6)


def test_an_sde_starts_in_whichever_group_its_start_lies():
    """Adam's SDE starts after a step: with groups of one step, in the second."""
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5))
    adam = js.Adam(0.1, 0.8, 0.9).sde(problem)
    assert adam.start_steps > 0
    process = dataclasses.replace(adam.discretised(3, "two-point"), group=jnp.asarray(1, jnp.int32))
    state = process.init(jnp.ones(1), KEY)
    words, steps = _seed_words(0), 6
    _, seen = _look(process, state, 0, steps, words, 3 * (steps - adam.start_steps), jnp.zeros(1))
    tagged = words.at[0].set(words[0] ^ 0x70617274)
    for i, group in enumerate(range(adam.start_steps, steps)):
        key = jax.extend.random.threefry_2x32(tagged, jnp.array([0, group], jnp.uint32))
        word = LAWS["two-point"].draw_block(key, 0, jnp.zeros(1))[0]
        signs = [1 if (int(word) >> place) & 1 else -1 for place in range(3)]
        np.testing.assert_array_equal(np.sign(seen.driver[3 * i : 3 * i + 3, 0]), signs)


@pytest.mark.parametrize("kind", ["fresh", "with replacement", "epochs"])
def test_the_last_steps_of_the_longest_chain(kind):
    """Each step's draw is that of its own number: no two are the same, and a cut changes nothing."""
    x, problem = jnp.zeros(2), js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))
    if kind != "fresh":
        data = jnp.asarray(np.random.default_rng(0).standard_normal((40, 2)), jnp.float32)
        loss = lambda x, example: 0.5 * jnp.sum((x - example) ** 2)
        problem = js.Problem.from_data(loss, data, batch_size=7, shuffle=kind == "epochs")
    chain, stream, source = js.SGD(0.0625).chain(problem), _random.gradient_key(KEY), problem.noise.source
    number = 100
    begin = LAST - number
    state, seen = _look(chain, chain.init(x), begin, LAST, stream, number, (x, x))
    np.testing.assert_array_equal(seen.step, begin + np.arange(number))
    points, gradients = seen.driver

    @jax.vmap
    def gradient(point, block_number, place):
        block = source.draw_block(jax.random.fold_in(stream, block_number))
        return problem.stochastic_gradient(point, source.read_step(block, place))

    blocks, places = np.divmod(np.arange(begin, LAST), source.period)
    np.testing.assert_allclose(gradients, gradient(points, blocks, places), rtol=1e-4, atol=1e-5)
    noise = np.asarray(gradients - jax.vmap(problem.gradient)(points), float)
    assert len(np.unique(np.round(noise, 4), axis=0)) == number
    cut = chain.init(x)
    for a, b in ((begin, LAST - 33), (LAST - 33, LAST)):
        cut = chain.run(cut, jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32), stream)
    np.testing.assert_allclose(cut.x, state.x, rtol=1e-6)


def test_steps_may_be_counted_in_int64():
    """As they are by plain numbers where float64 is the default; batches without replacement have a place in their epoch."""
    with jax.enable_x64(True):
        data = jnp.asarray(np.random.default_rng(0).normal(size=(12, 2)))
        batches = js.Problem.from_data(lambda w, row: jnp.sum((w - row) ** 2), data, batch_size=4, shuffle=True)
        chain = js.SGD(0.1).chain(batches)
        counts = [
            chain.run(chain.init(jnp.ones(2)), jnp.asarray(0, n), jnp.asarray(5, n), KEY).x for n in (jnp.int32, jnp.int64)
        ]
        np.testing.assert_array_equal(*counts)


def test_optax_counts_to_the_last_step():
    chain = js.Adam(0.1, 0.9, 0.99).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0)))
    state = chain.init(jnp.ones(1))
    state = state._replace(transform=optax.tree.set(state.transform, count=jnp.asarray(LAST - 5, jnp.int32)))
    end = chain.run(state, jnp.asarray(LAST - 5, jnp.int32), jnp.asarray(LAST, jnp.int32), _random.gradient_key(KEY))
    counts = [leaf for leaf in jax.tree.leaves(end.transform) if leaf.dtype == jnp.int32]
    assert counts and all(int(count) == LAST for count in counts)
    assert bool(jnp.all(jnp.isfinite(end.x))) and float(end.x[0]) < 1


class _Counter(js.AbstractProcess):
    """A process whose position is the number of steps made, in two parts that float32 holds exactly, at no cost a step."""

    problem: js.Problem
    learning_rate: jax.Array = eqx.field(default_factory=lambda: jnp.asarray(0.5))

    def init(self, params, key):
        return params, jnp.zeros((), jnp.int32)

    def noise_key(self, key):
        return key

    def run(self, state, start, stop, key):
        return state[0], state[1] + (stop - start)

    def position(self, state):
        return state[0] * 0 + jnp.stack([state[1] >> 16, state[1] & 0xFFFF]).astype(jnp.float32)


@pytest.mark.parametrize("every", [(LAST - 1) // 6, (LAST - 1) // 22, LAST - 1])
@pytest.mark.parametrize("progress", [False, True])
def test_records_and_times_of_the_longest_run(every, progress, monkeypatch):
    from jaxsde.simulation import _loop

    # Pieces that end anywhere, also just before the last step.
    monkeypatch.setattr(_loop, "_FIRST_SHARE", 1 - 1e-9 if progress else 1 / 3)
    steps, process = LAST - 1, _Counter(js.Problem(js.Quadratic(jnp.zeros(2)), js.Gaussian(1.0)))
    observe = {"x": lambda x: x}
    run = js.simulate(
        process, jnp.zeros(2), steps=steps, every=every, seeds=2, key=KEY, observe=observe, progress=progress
    )  # fmt: skip
    expected = np.arange(0, steps + 1, every)
    np.testing.assert_array_equal(np.asarray(run.steps, np.int64), expected)
    np.testing.assert_allclose(run.ts, expected * 0.5, rtol=1e-6)
    made = np.asarray(run["x"].mean, np.int64)
    np.testing.assert_array_equal(made[:, 0] * 2**16 + made[:, 1], expected)


def test_a_run_of_one_record_at_the_largest_step():
    process = _Counter(js.Problem(js.Quadratic(jnp.zeros(2)), js.Gaussian(1.0)))
    run = js.simulate(process, jnp.zeros(2), steps=LAST, seeds=2, key=KEY, observe={"x": lambda x: x}, progress=False)
    assert run.steps.tolist() == [0, LAST]
    assert run["x"].mean[-1].tolist() == [LAST >> 16, LAST & 0xFFFF]


@pytest.mark.parametrize(
    ("first", "error", "message"),
    [
        (-1, ValueError, "first must be at least 0, got -1"),
        (2**31, ValueError, r"first must be below 2\*\*31, got 2147483648"),
        (1.5, TypeError, "first must be a whole number"),
    ],
)
def test_indices_of_a_solver_that_are_refused(first, error, message):
    with pytest.raises(error, match=message):
        js.IndexedEuler(0.1, KEY, first=first)


@pytest.mark.parametrize("law", LAWS)
def test_a_solver_passes_the_largest_int32(law):
    sde, number = js.SGD(RATE).sde(FLAT), 40
    solver = js.IndexedEuler(RATE, KEY, LAWS[law], first=LAST - 7)
    saves = diffrax.SaveAt(steps=True)
    solution = diffrax.diffeqsolve(
        sde.term, solver, 0.0, number * RATE, RATE, jnp.zeros(DIMENSION), saveat=saves, max_steps=number,
        adjoint=diffrax.ForwardMode(),
    )  # fmt: skip
    z = -np.diff(np.asarray(solution.ys), axis=0) / RATE
    words, increments = _threefry.key_words(KEY), LAWS[law]
    n = (LAST - 7 + 1 + np.arange(number - 1)).astype(np.int64)
    signed = (n + 2**31) % 2**32 - 2**31
    block = lambda m: increments.draw_block(words, jnp.asarray(m // increments.period, jnp.int32), jnp.zeros(DIMENSION))
    read = lambda m: increments.read_step(block(m), int(m % increments.period), jnp.ones(()), jnp.zeros(DIMENSION))
    np.testing.assert_allclose(z, np.stack([read(m) for m in signed]), atol=2e-5)
