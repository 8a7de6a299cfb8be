"""Laws over seeds, against NumPy's histograms and quantiles of the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from common import PROBLEM

import jaxsde as js

KEY = jax.random.key(0)
CHAIN = js.SGD(0.05).chain(PROBLEM)
RUN = dict(steps=40, seeds=301, every=20, key=KEY, progress=False)


def _run(reduce, process=CHAIN, **more):
    return js.simulate(process, jnp.ones(2), **(RUN | dict(observe={"x": lambda x: x}, reduce=reduce) | more))["x"]


@pytest.fixture(scope="module")
def values():
    """The samples themselves: times, seeds, coordinates."""
    return np.asarray(_run(js.Samples()).values)


def test_a_histogram_counts_as_numpy_does(values):
    edges = np.array([[0.0, 0.3, 0.7, 1.0, 1.2], [-0.2, 0.1, 0.2, 0.8, 0.9]], np.float32)
    law = _run(js.Histogram(edges), chunk=50)
    for c in range(2):
        for n in range(3):
            np.testing.assert_array_equal(law.counts[n, c], np.histogram(values[n, :, c], edges[c])[0])
            assert int(law.below[n, c]) == np.sum(values[n, :, c] < edges[c, 0])
            assert int(law.above[n, c]) == np.sum(values[n, :, c] > edges[c, -1])
            below = [*(np.mean(values[n, :, c] < edge) for edge in edges[c, :-1]), np.mean(values[n, :, c] <= edges[c, -1])]
            np.testing.assert_allclose(law.cdf[n, c], below, rtol=1e-6)
    np.testing.assert_array_equal(law.count, 301)
    np.testing.assert_allclose(law.density, law.counts / 301 / np.diff(edges), rtol=1e-6)


def test_the_last_bin_holds_its_upper_edge():
    counter = js.Histogram([0.0, 1.0, 2.0])
    points = jnp.array([[-1e-7], [0.0], [1.0], [2.0], [2.0000002], [jnp.nan]])
    counts = counter.update(counter.init(points[0]), points, jnp.isfinite(points[:, 0]))
    np.testing.assert_array_equal(counts, [[1, 1, 2, 1]])


def test_a_joint_histogram_counts_as_numpy_does(values):
    first, second = np.linspace(0.0, 1.2, 5, dtype=np.float32), np.linspace(-0.2, 0.9, 4, dtype=np.float32)
    law = _run(js.JointHistogram((first, second), pairs=[(1, 0), (0, 1)]), chunk=64)
    for n in range(3):
        for p, (a, b) in enumerate([(1, 0), (0, 1)]):
            exact = np.histogram2d(values[n, :, a], values[n, :, b], (first, second))[0]
            np.testing.assert_array_equal(law.counts[n, p], exact)
            assert int(law.outside[n, p]) == 301 - exact.sum()
    area = np.diff(first)[:, None] * np.diff(second)
    np.testing.assert_allclose(law.density, law.counts / 301 / area, rtol=1e-6)


def test_quantiles_are_numpys_within_the_bound(values):
    q = [0.0, 0.1, 0.5, 0.7, 1.0]
    law = _run(js.Quantiles(q), chunk=50)
    exact = np.quantile(values, q, axis=1, method="inverted_cdf").swapaxes(0, 1)
    np.testing.assert_allclose(law.quantiles, exact, rtol=0.01)
    np.testing.assert_allclose(law.quantile(0.25)[:, 0], np.quantile(values, 0.25, axis=1, method="inverted_cdf"), rtol=0.01)
    np.testing.assert_array_equal(law.count, 301)


@pytest.mark.parametrize("n", [10, 1000])
def test_a_share_of_the_seeds_is_a_rank_however_it_is_rounded(n):
    """0.7 of ten seeds is the seventh, and so with all shares that are whole numbers of seeds."""
    points, ranks = jnp.arange(1.0, n + 1)[:, None], np.arange(1, n + 1)
    counter = js.Quantiles(ranks / n, 1e-4)
    stats = counter.update(counter.init(points[0]), points, jnp.ones(n, bool))
    law = counter.result(stats[None], jnp.zeros(1), jax.ShapeDtypeStruct((1,), np.float32), n)
    np.testing.assert_allclose(law.quantiles[0, :, 0], ranks, rtol=1e-4)


def _laws(n):
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], n)
    return {
        "Cauchy": rng.standard_cauchy(n),
        "Pareto": signs * (1 + rng.pareto(0.3, n)),
        "two clusters": rng.normal(size=n) + 1e4 * (rng.random(n) < 0.3),
        "constant": np.full(n, -3.7),
        "zeros": rng.normal(size=n) * (rng.random(n) < 0.4),
        "tiny": signs * 10 ** rng.uniform(-8, 2, n),
    }


def _check_sketch(n, parts):
    """Every permille's error, and the counts of parts that are merged in another order."""
    names, columns = zip(*_laws(n).items(), strict=True)
    points = np.array(columns, np.float32).T
    points = points[np.all(np.abs(points) < 1e9, axis=1)]
    q = np.linspace(0, 1, 1001)
    counter = js.Quantiles(q)
    update = jax.jit(lambda part: counter.update(counter.init(part[0]), part, jnp.ones(len(part), bool)))
    counted = [update(jnp.asarray(part)) for part in np.array_split(points, parts)]
    total = jax.tree.map(lambda *a: sum(a), *counted)
    order = np.random.default_rng(1).permutation(len(counted))
    shuffled = counted[order[0]]
    for i in order[1:]:
        shuffled = counter.merge(counted[i], shuffled)
    np.testing.assert_array_equal(total, shuffled)
    np.testing.assert_array_equal(total.sum(axis=1), len(points))
    shape = jax.ShapeDtypeStruct((len(names),), np.float32)
    law = counter.result(total[None], jnp.zeros(1), shape, len(points))
    exact = np.quantile(points, q, axis=0, method="inverted_cdf").astype(float)
    found = np.asarray(law.quantiles[0], float)
    # A share in single precision, of so many seeds, may be a few ranks off in the middle of the law.
    ranks = np.clip(np.ceil(np.round(q * len(points), 6)), 1, len(points)) - 1
    slack = np.ceil(1e-6 * np.minimum(ranks, len(points) - 1 - ranks))
    for c, name in enumerate(names):
        ordered = np.sort(points[:, c]).astype(float)
        low, high = (ordered[(ranks + side * slack).astype(int)] for side in (-1, 1))
        error = np.maximum(low - found[:, c], found[:, c] - high)
        assert np.all(error <= 0.01 * np.abs(exact[:, c]) + 1e-9), name


def test_the_sketchs_error_is_within_its_bound():
    _check_sketch(200_000, 20)


@pytest.mark.sweep
def test_the_sketchs_error_is_within_its_bound_for_ten_million_values():
    _check_sketch(10_000_000, 40)


@pytest.mark.parametrize("accuracy", [0.3, 0.01, 1e-3])
def test_buckets_are_the_same_in_double_precision(accuracy):
    points = np.float32(np.random.default_rng(0).standard_cauchy(2000))
    counter = js.Quantiles(0.5, accuracy)
    single = counter._buckets.place(jnp.asarray(points))
    with jax.enable_x64(True):
        double = counter._buckets.place(jnp.asarray(points, jnp.float64))
        assert double.dtype == jnp.int32
    np.testing.assert_array_equal(single, double)
    there = counter._buckets.values()[np.asarray(single)]
    np.testing.assert_allclose(there, points, rtol=accuracy, atol=1e-9)


def test_values_beyond_the_magnitudes_are_zero_or_infinite():
    counter = js.Quantiles([0.0, 0.5, 1.0], magnitudes=(1e-3, 1e3))
    points = jnp.array([[-2e3], [1e-4], [5e3]])
    stats = counter.update(counter.init(points[0]), points, jnp.ones(3, bool))
    law = counter.result(stats[None], jnp.zeros(1), jax.ShapeDtypeStruct((1,), np.float32), 3)
    np.testing.assert_array_equal(law.quantiles[0, :, 0], [-np.inf, 0.0, np.inf])


def test_standard_errors_are_the_spread_of_repeated_runs():
    """Of the density and of quantiles of a normal law, over 400 runs of 500 seeds."""
    points = jnp.asarray(np.random.default_rng(0).normal(1.0, 0.1, (400, 500, 1)), jnp.float32)
    keep, times = jnp.ones(500, bool), jnp.zeros(1)
    shape = jax.ShapeDtypeStruct((1,), np.float32)

    def found(reducer, read):
        once = lambda part: read(reducer.result(reducer.update(reducer.init(part[0]), part, keep)[None], times, shape, 500))
        return jax.jit(jax.vmap(once))(points)

    edges = np.linspace(0.7, 1.3, 7)
    density, error = found(js.Histogram(edges), lambda law: (law.density[0, 0], law.stderr[0, 0]))
    spread = np.std(density, axis=0)
    np.testing.assert_allclose(np.sqrt(np.mean(np.asarray(error) ** 2, axis=0)), spread, rtol=6 / np.sqrt(800))
    exact = np.diff(scipy.stats.norm.cdf(edges, 1.0, 0.1)) / np.diff(edges)
    np.testing.assert_array_less(np.abs(np.mean(density, axis=0) - exact), 5 * spread / 20)
    quantiles, error = found(
        js.Quantiles([0.1, 0.5, 0.8], 1e-4, (0.25, 4.0)), lambda law: (law.quantiles[0, :, 0], law.stderr[0, :, 0])
    )
    # Woodruff's distances are rough themselves, by some 10 % at these numbers.
    np.testing.assert_allclose(np.sqrt(np.mean(np.asarray(error) ** 2, axis=0)), np.std(quantiles, axis=0), rtol=0.15)


NOISES = {
    "Gaussian": js.Gaussian(1.0),
    "Cauchy": js.StudentT(1.0, 1.0),
    "Student-t 3": js.StudentT(3.0, 1.0),
    "uniform": js.Uniform(2.0),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", NOISES)
def test_histograms_of_sign_sgd_are_its_stationary_laws(name):
    """The SDE's against the exact density, the optimizer's against that of the birth-death chain, both parities of its lattice
    together: the largest distance of the distribution functions (Kolmogorov's), whose 99 % point is 1.63 over the root of the
    number of seeds. The solver's own step adds less than a tenth of that."""
    eta, seeds = 0.05, 100_000
    problem, opt = js.Problem(js.Quadratic([1.0]), NOISES[name]), js.SignSGD(eta)
    common = dict(seeds=seeds, key=KEY, progress=False)
    edges = jnp.linspace(-1.0, 1.0, 201)
    law = js.simulate(opt.sde(problem), jnp.zeros(1), steps=400, substeps=8, reduce={"x": js.Histogram(edges)}, **common)["x"]
    exact = js.theory.density(opt.sde(problem))
    assert np.max(np.abs(law.cdf[-1, 0] - exact.cdf(edges))) < 1.63 / np.sqrt(seeds)
    # Edges between the points of the lattice.
    between = eta * (np.arange(-24, 25) - 0.5)
    runs = [
        js.simulate(opt.chain(problem), jnp.zeros(1), steps=n, reduce={"x": js.Histogram(between)}, **common)
        for n in (400, 401)
    ]
    found = sum(np.asarray(run["x"].cdf[-1, 0], float) for run in runs) / 2
    lattice = js.theory.birth_death(opt, problem, 0.0)
    below = [np.sum(lattice.probabilities[lattice.points < edge]) for edge in between]
    assert np.max(np.abs(found - below)) < 1.63 / np.sqrt(seeds)


def test_seeds_without_a_finite_value_are_not_counted():
    observe = {"log": lambda x: jnp.log(x[0] - 0.75)}
    both = js.Several(law=js.Histogram([-20.0, 20.0]), median=js.Quantiles(0.5), moments=js.Moments())
    run = js.simulate(CHAIN, jnp.ones(2), **RUN, observe=observe, reduce=both)["log"]
    assert 0 < int(run["moments"].count[-1]) < 301
    for law in (run["law"], run["median"]):
        np.testing.assert_array_equal(law.count, run["moments"].count)
    np.testing.assert_array_equal(run["law"].counts[:, 0], run["moments"].count)
    nothing = js.simulate(CHAIN, jnp.ones(2), **RUN, observe={"no": lambda x: jnp.nan * x[0]}, reduce=both)["no"]
    assert np.isnan(nothing["median"].quantiles).all() and np.isnan(nothing["median"].stderr).all()
    assert np.isnan(nothing["law"].density).all()


def test_observables_are_pytrees():
    observe = {"both": lambda x: {"a": x[0], "b": jnp.outer(x, x)}}
    several = js.Several(law=js.Histogram([0.0, 0.5, 1.0]), quantiles=js.Quantiles([0.2, 0.4, 0.6]))
    run = js.simulate(CHAIN, jnp.ones(2), **RUN, observe=observe, reduce=several)["both"]
    assert jax.tree.map(jnp.shape, run["law"].counts) == {"a": (3, 2), "b": (3, 2, 2, 2)}
    assert jax.tree.map(jnp.shape, run["quantiles"].quantiles) == {"a": (3, 3), "b": (3, 3, 2, 2)}


def test_several_reducers_give_what_each_gives():
    parts = dict(moments=js.Moments(), law=js.Histogram([0.0, 0.5, 1.0]), groups=js.Jackknife(js.Moments(), 7))
    several = _run(js.Several(**parts), chunk=60)
    for name, reducer in parts.items():
        alone = _run(reducer, chunk=60)
        same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        jax.tree.map(same, several[name], alone) if name != "groups" else same(several[name].total.mean, alone.total.mean)


COUNTS = {
    "histogram": js.Histogram([0.0, 0.5, 1.0]),
    "joint histogram": js.JointHistogram([0.0, 0.5, 1.0]),
    "quantiles": js.Quantiles([0.2, 0.5]),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_groups_are_those_of_the_seeds_in_them(name):
    """In parts of 64 seeds, of which the last is not full; group i has every seventh seed, from i on."""
    found = _run(js.Jackknife(COUNTS[name], 7), chunk=70)
    values = _run(js.Samples()).values
    reducer = COUNTS[name]

    def of(chosen):
        one = lambda v: reducer.update(reducer.init(v[0]), v, jnp.ones(len(v), bool))
        stats = jnp.stack([one(v[chosen]) for v in values])
        return reducer.result(stats, found.ts, jax.ShapeDtypeStruct((2,), jnp.float32), len(chosen))

    everyone = np.arange(301)
    for part, chosen in ((found.total, everyone), *((p, everyone[everyone % 7 != i]) for i, p in enumerate(found.without))):
        expected = of(chosen)
        np.testing.assert_array_equal(part.count, expected.count)
        for field in ("counts", "density", "stderr", "quantiles", "cdf", "below", "outside"):
            if hasattr(expected, field):
                np.testing.assert_array_equal(getattr(part, field), getattr(expected, field))
    fields = [f for f in ("counts", "density", "cdf", "quantiles", "outside") if hasattr(found.total, f)]
    for field in fields:
        assert getattr(found.left_out, field).shape == (7, *getattr(found.total, field).shape)


def test_each_observable_may_have_a_reducer_of_its_own(tmp_path):
    reduce = {"loss": js.Histogram([0.0, 1.0, 4.0])}
    run = js.simulate(CHAIN, jnp.ones(2), **RUN, reduce=reduce, checkpoint=tmp_path / "state")
    again = js.simulate(CHAIN, jnp.ones(2), **RUN, reduce=reduce, checkpoint=tmp_path / "state")
    alone = js.simulate(CHAIN, jnp.ones(2), **RUN)
    assert run["loss"].counts.shape == (3, 2)
    np.testing.assert_array_equal(run["x"].mean, alone["x"].mean)  # moments, as they are without
    np.testing.assert_array_equal(run["loss"].counts, again["loss"].counts)
    assert run.provenance["reduce"]["loss"]["class"] == "jaxsde.simulation.Histogram"
    with pytest.raises(ValueError, match="another run|other run|reduce"):
        js.simulate(CHAIN, jnp.ones(2), **RUN, reduce={"loss": js.Moments()}, checkpoint=tmp_path / "state")


def test_new_edges_are_no_new_program():
    from common import Compilations

    _run(js.Histogram([0.0, 0.5, 1.0]))
    with Compilations() as compiled:
        js.simulate(CHAIN, jnp.ones(2), **RUN, observe={"x": lambda x: x}, reduce=js.Histogram([0.1, 0.6, 1.5]))
    assert compiled.count == 0


def test_laws_are_saved_and_loaded(tmp_path):
    several = js.Several(
        law=js.Histogram([0.0, 0.5, 1.0]), plane=js.JointHistogram([0.0, 1.0]), quantiles=js.Quantiles(0.5), all=js.Samples()
    )
    for i, reduce in enumerate((several, *several.reducers.values())):
        run = js.simulate(CHAIN, jnp.ones(2), **RUN, observe={"x": lambda x: x}, reduce=reduce)
        run.save(tmp_path / f"{i}.nc")
        back = js.load(tmp_path / f"{i}.nc")
        assert jax.tree.structure(back.statistics) == jax.tree.structure(run.statistics)
        jax.tree.map(np.testing.assert_array_equal, back.statistics, run.statistics)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: js.Histogram([1.0]), "edges must have two numbers or more"),
        (lambda: js.Histogram([0.0, 0.0, 1.0]), "edges must be finite and increase"),
        (lambda: js.Histogram([0.0, np.inf]), "edges must be finite and increase"),
        (lambda: js.Histogram("abc"), "edges must be"),
        (lambda: _run(js.Histogram(np.tile(np.arange(3.0), (5, 1)))), "edges must have one axis, or before it the shape"),
        (lambda: js.Quantiles([]), "q must be a probability or a list"),
        (lambda: js.Quantiles(1.5), "q must lie in"),
        (lambda: js.Quantiles(0.5, relative_accuracy=0.0), "relative_accuracy must lie in"),
        (lambda: js.Quantiles(0.5, magnitudes=(1.0, 0.1)), "magnitudes must be a small and a large number"),
        (lambda: js.JointHistogram([0.0, 1.0], pairs=[]), "pairs must be pairs"),
        (lambda: js.JointHistogram([0.0, 1.0], pairs=[(0, -1)]), "pairs must be at least 0"),
        (lambda: js.JointHistogram([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), "edges must be one list of numbers"),
        (lambda: _run(js.JointHistogram([0.0, 1.0], pairs=[(0, 2)])), "pairs must be of coordinates below 2"),
        (lambda: js.Several(), "Several needs a reducer"),
        (lambda: js.Several(law=3), "law must be a reducer"),
        (lambda: _run({"y": js.Moments()}), "reduce has 'y', which is not observed: observables are 'x'"),
        (lambda: _run({"x": js.Moments}), r"reduce\['x'\] must be a reducer"),
        (lambda: _run(js.Several(groups=js.Jackknife(js.Moments(), 400))), "groups must be at most seeds"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
