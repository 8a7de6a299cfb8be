"""The generator and the increments: known answers, laws, and no draw that repeats or leans on another."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsde as js
from jaxsde import _random, _threefry

LAWS = {
    "two-point": js.TwoPointIncrements(),
    "three-point": js.ThreePointIncrements(),
    "gaussian": js.GaussianIncrements(),
}


def _draws(increments, steps, seeds, dimension, key=0):
    """Increments of shape (steps, seeds, dimension), as the simulation makes them."""
    like, one, period = jnp.zeros(dimension), jnp.ones(()), increments.period
    keys = jax.vmap(lambda i: _threefry.key_words(_random.brownian_key(_random.seed_key(_random.stream_key(key), i))))

    def block(b, words):
        supply = increments.draw_block(words, b, like)
        return jax.vmap(lambda place: increments.read_step(supply, place, one, like))(jnp.arange(period))

    key = jax.random.key(key)
    blocks = -(-steps // period)
    words = keys(jnp.arange(seeds))
    drawn = jax.jit(jax.vmap(jax.vmap(block, (0, None)), (None, 0), 2))(jnp.arange(blocks), words)
    return np.asarray(drawn).reshape(blocks * period, seeds, dimension)[:steps]


@pytest.mark.parametrize(
    "key, counter, expected",
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_answers(key, counter, expected):
    """Those of the Random123 library, and of JAX's own generator."""
    key, counter = (jnp.array(words, jnp.uint32) for words in (key, counter))
    assert tuple(int(w) for w in _threefry.hashed(tuple(key), tuple(counter))) == expected
    assert tuple(jax.extend.random.threefry_2x32(key, counter).tolist()) == expected


def test_words_are_those_of_their_key_number_and_place():
    """Each coordinate's counter is (its place in the pytree, n), under a key that is not the user's own."""
    key = jnp.array([5, 7], jnp.uint32)
    one, other = _threefry.words(key, 11, 6, (2, 3))
    tagged = key.at[0].set(key[0] ^ 0x6A787364)
    for i in range(6):
        expected = jax.extend.random.threefry_2x32(tagged, jnp.array([6 + i, 11], jnp.uint32))
        assert [int(one.ravel()[i]), int(other.ravel()[i])] == expected.tolist()
    assert not np.any(_threefry.words(key, 11, 6, (2, 3), sort=1)[0] == one)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normals_are_normal_far_into_the_tails(dtype):
    with jax.enable_x64(dtype == "float64"):
        z = np.asarray(_threefry.normal(jnp.array([1, 2], jnp.uint32), 3, 0, (4_000_000,), jnp.dtype(dtype)))
    assert z.dtype == dtype
    z = z.astype(float)
    for power in range(1, 9):
        # E z^p and its variance, from the moments (p - 1)!! of the normal law.
        mean, square = (scipy.stats.norm.moment(k) for k in (power, 2 * power))
        assert abs(np.mean(z**power) - mean) < 5 * np.sqrt((square - mean**2) / len(z)), power
    assert scipy.stats.kstest(z, "norm").pvalue > 1e-4
    for edge in (3.0, 4.0, 4.75):
        p = scipy.stats.norm.sf(edge)
        for beyond in (z > edge, z < -edge):
            assert abs(beyond.mean() - p) < 5 * np.sqrt(p / len(z))


@pytest.mark.parametrize("dtype, bound", [("float32", 4e-7), ("float64", 2e-15)])
def test_the_cosine_of_the_normals(dtype, bound):
    with jax.enable_x64(dtype == "float64"):
        turn = np.linspace(-0.5, 0.5, 200_001).astype(dtype)
        series = _threefry._SINE_32 if dtype == "float32" else _threefry._SINE_64
        above, below = _threefry._cosine(jnp.asarray(turn), series)
        error = np.abs(np.asarray(above / below, dtype=float) + np.cos(2 * np.pi * turn.astype(float)))
    assert error.max() < bound


def test_the_logarithm_of_the_normals():
    """Relative to the exact one, for all words with one bit set or few, and random ones."""
    shifts = np.arange(32, dtype=np.uint32)
    drawn = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint32)
    root = np.uint32(np.sqrt(0.5) * 2**32)  # where one power of two ends and the next begins
    words = np.concatenate([1 << shifts, (1 << shifts) - 1, ~(1 << shifts), drawn, root + np.arange(-2000, 2000)])
    words = words.astype(np.uint32)
    got = np.asarray(jax.jit(_threefry._minus_twice_log)(jnp.asarray(words)), dtype=float)
    u = ((words >> 1).astype(np.float32) + np.float32(0.5)).astype(float) / 2**31
    exact = -2 * np.log(u)
    assert np.all(np.abs(got - exact) <= 2e-7 * exact)


@pytest.mark.parametrize("name, moments", [("two-point", (1, 1)), ("three-point", (3, 9)), ("gaussian", (3, 15))])
def test_moments_of_the_increments(name, moments):
    z = _draws(LAWS[name], 1000, 100, 100).astype(float)  # 1e7 draws
    count = z.size
    fourth, sixth = moments
    assert abs(z.mean()) < 5 / np.sqrt(count)
    assert abs(np.mean(z**2) - 1) < 5 * np.sqrt((fourth - 1) / count) + 1e-6
    assert abs(np.mean(z**3)) < 5 * np.sqrt(sixth / count)
    assert abs(np.mean(z**4) - fourth) < 5 * np.sqrt((np.mean(z**8) - fourth**2) / count) + 1e-5
    assert abs(np.mean(z**5)) < 5 * np.sqrt(np.mean(z**10) / count)


@pytest.mark.parametrize("name", LAWS)
def test_no_correlation_between_steps_coordinates_or_seeds(name):
    """1e7 draws, and their squares where these vary: lags about the period, neighbours, and the mean over each axis."""
    z = _draws(LAWS[name], 1000, 100, 100, key=7)
    for values in (z,) if name == "two-point" else (z, z**2 - 1):
        spread = values.std()
        limit = 5 * spread**2 / np.sqrt(values.size)
        for lag in (1, 2, 3, 4, 5, 8, 31, 32, 33, 64, 127, 128, 500):
            assert abs(np.mean(values[lag:] * values[:-lag])) < limit * np.sqrt(1000 / (1000 - lag)), lag
        for axis in (1, 2):
            for lag in (1, 2, 3, 4, 25, 32):
                one, other = (np.moveaxis(values, axis, 0)[cut] for cut in (slice(lag, None), slice(None, -lag)))
                assert abs(np.mean(one * other)) < limit * np.sqrt(100 / (100 - lag)), (axis, lag)
        for axes in ((0, 1), (0, 2), (1, 2), (0,)):
            means = values.mean(axes).ravel()
            share = values.size / means.size
            # The sum of squared standardised means is chi-squared; 6 of its standard deviations.
            assert abs(np.sum(means**2) * share / spread**2 - means.size) < 6 * np.sqrt(2 * means.size) + 1


@pytest.mark.parametrize("name", LAWS)
def test_no_bit_serves_twice(name):
    """Different seeds, coordinates and blocks have different words; two-point steps are the bits of one, in turn."""
    z = _draws(LAWS[name], 64, 200, 50, key=3)
    if name == "gaussian":
        assert len(np.unique(z)) > 0.97 * z.size  # of 24-bit floats, a few coincide
        return
    period = LAWS[name].period
    if name == "two-point":
        words = np.packbits(z.reshape(2, 32, 200, 50) > 0, axis=1)
        assert len(np.unique(words.transpose(0, 2, 3, 1).reshape(-1, 4), axis=0)) == 2 * 200 * 50
    keys = jnp.arange(400, dtype=jnp.uint32).reshape(200, 2)
    supplies = jax.vmap(lambda k: jax.vmap(lambda b: LAWS[name].draw_block(k, b, jnp.zeros(50)))(jnp.arange(64 // period)))
    words = np.asarray(supplies(keys))
    assert len(np.unique(words)) > 0.999 * words.size


def test_leaves_of_a_pytree_are_independent():
    like = {"a": jnp.zeros(1000), "b": jnp.zeros(1000)}
    supply = js.GaussianIncrements().draw_block(jnp.array([1, 2], jnp.uint32), 5, like)
    assert abs(np.corrcoef(supply["a"], supply["b"])[0, 1]) < 5 / np.sqrt(1000)


@pytest.mark.parametrize("name", LAWS)
def test_a_run_in_pieces_has_the_noise_of_one_in_one_piece(name):
    """Also where records cut blocks, and where the host looks in at other steps."""
    problem = js.Problem(js.Quadratic(jnp.zeros(3)), js.Gaussian(1.0))
    sde = js.SGD(0.25).sde(problem)
    common = dict(steps=105, seeds=4, key=jax.random.key(1), increments=LAWS[name], reduce=js.Samples())
    fine = js.simulate(sde, jnp.zeros(3), every=1, **common)["x"].values
    for every in (5, 35, 105):
        np.testing.assert_array_equal(js.simulate(sde, jnp.zeros(3), every=every, **common)["x"].values, fine[::every])
    # With no gradient, the steps are the increments themselves, up to the sign that the equation gives its noise.
    steps, expected = np.diff(fine, axis=0), 0.25 * _draws(LAWS[name], 105, 4, 3, key=1)
    np.testing.assert_allclose(steps * np.sign(np.sum(steps * expected)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["two-point", "three-point"])
def test_moments_along_the_way_are_those_of_gaussian_increments(name):
    """SignSGD's SDE, where the noise is not additive: E x^2 and E x^4 agree to O(h) and to chance."""
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5))
    sde = js.SignSGD(0.05).sde(problem)
    observe = {"x2": lambda x: x**2, "x4": lambda x: x**4}
    run = dict(steps=40, every=10, seeds=100_000, substeps=4, observe=observe, key=jax.random.key(2))
    cheap, normal = (js.simulate(sde, jnp.array([0.6]), increments=law, **run) for law in (name, "gaussian"))
    for observed in observe:
        a, b = cheap[observed], normal[observed]
        gap = np.abs(np.asarray(a.mean) - np.asarray(b.mean))[1:]
        assert np.all(gap < 5 * np.hypot(a.stderr, b.stderr)[1:] + 0.0025 * np.abs(np.asarray(b.mean))[1:]), observed


@pytest.mark.parametrize("name, chances, order", [("two-point", [0.5, 0.5], 1), ("three-point", [1 / 6, 2 / 3, 1 / 6], 2)])
def test_weak_order_of_an_increment(name, chances, order):
    """One step X = 1 + sqrt(h) xi: E exp(X) by enumeration of the increment's values, against a normal one's."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    values, counts = np.unique(_draws(LAWS[name], 64, 20, 50), return_counts=True)
    assert scipy.stats.chisquare(counts, np.array(chances) * counts.sum()).pvalue > 1e-4
    rates = np.array([0.1, 0.05, 0.025])
    exact = [np.dot(weights / weights.sum(), np.exp(1 + np.sqrt(h) * nodes)) for h in rates]
    error = [abs(np.dot(chances, np.exp(1 + np.sqrt(h) * values.astype(float))) - e) for h, e in zip(rates, exact, strict=True)]
    slope = np.polyfit(np.log(rates), np.log(error), 1)[0]
    assert slope == pytest.approx(order + 1, abs=0.1)  # of one step: one more than of a whole run


@pytest.mark.parametrize("name", LAWS)
def test_weak_order_of_whole_runs(name):
    """SGD's SDE on a quadratic, whose law at time 1 is known: E cos x, in 4 million coordinates, as the step shrinks."""
    curvature, x0 = 2.0, 1.0
    problem = js.Problem(js.Quadratic(jnp.full(100, curvature)), js.Gaussian(2.0))
    sde = js.SGD(0.25).sde(problem)  # dX = -2 X dt + dW
    mean, variance = x0 * np.exp(-curvature), (1 - np.exp(-2 * curvature)) / (2 * curvature)
    exact = np.cos(mean) * np.exp(-variance / 2)
    substeps, errors, noise = np.array([2, 4, 8]), [], []
    for n in substeps:
        run = js.simulate(
            sde, jnp.full(100, x0), steps=4, substeps=int(n), seeds=40_000, key=jax.random.key(4), increments=LAWS[name],
            observe={"cosine": lambda x: jnp.mean(jnp.cos(x))},
        )["cosine"]  # fmt: skip
        errors.append(float(run.mean[-1]) - exact)
        noise.append(float(run.stderr[-1]))
    errors = np.abs(errors)
    assert np.all(errors > 20 * np.array(noise))  # so that the slope is the scheme's
    slope = -np.polyfit(np.log(substeps), np.log(errors), 1)[0]
    assert slope == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_numbers_in_rows_are_those_of_single_steps(dtype):
    """Bit by bit, for every step of a block, the last ones an int32 counts among them."""
    with jax.enable_x64(dtype == "float64"):
        like = {"a": jnp.zeros((2, 3), dtype), "b": jnp.zeros((), dtype)}
        single = js.GaussianIncrements()
        rows, key, scale = single.for_shape(like), jnp.asarray([3, 7], jnp.uint32), jnp.asarray(0.3, dtype)
        assert type(rows) is not js.GaussianIncrements
        for number in (0, 5, (2**31 - 1) // rows.period):
            block = rows.draw_block(key, jnp.asarray(number), like)
            for place in range(rows.period):
                n = jnp.asarray(number * rows.period + place)
                expected = single.read_step(single.draw_block(key, n, like), 0, scale, like)
                found = rows.read_step(block, place, scale, like)
                jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert single.for_shape(jnp.zeros(16)) is single.for_shape(jnp.zeros(1)) is single


def test_observables_are_evaluated_at_recorded_steps_only():
    """Not where the host looks in between: the loss of all data may cost as much as many steps."""
    seen = []

    def observed(x):
        jax.debug.callback(lambda x: seen.append(float(x[0])), x)
        return x

    chain = js.SGD(0.5).chain(js.Problem(js.Quadratic(jnp.ones(1)), js.Gaussian(0.0)))
    run = js.simulate(chain, jnp.ones(1), steps=64, every=16, seeds=1, key=jax.random.key(0), observe={"x": observed})
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen), sorted(0.5 ** np.arange(0, 65, 16)))
    np.testing.assert_allclose(run["x"].mean[:, 0], 0.5 ** np.arange(0, 65, 16))
