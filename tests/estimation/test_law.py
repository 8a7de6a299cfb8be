"""Laws in bins: against NumPy, SciPy, exact laws, and the scatter of many runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsde as js
from jaxsde.estimation._law import bins_for
from jaxsde.estimation._time_averages import PairedMeans, averages

KEY = jax.random.key(0)
ONE = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
GROUPS = 25


def _binned(values, bins, groups=GROUPS):
    """The law of values of shape (n, k), whose rows go to groups in turn; counted by NumPy."""
    counts = np.zeros((groups, values.shape[1], bins.edges.shape[1] + 1), int)
    for group in range(groups):
        for i, edges in enumerate(bins.edges):
            places = np.searchsorted(edges, values[group::groups, i], side="right")
            counts[group, i] = np.bincount(places, minlength=counts.shape[-1])
    return bins.law(counts)


def _normal(seed, n=20_000, k=2):
    return np.random.default_rng(seed).normal(size=(n, k)) * np.array([1.0, 3.0])[:k]


def test_density_cdf_and_quantiles_of_a_normal_law():
    pilot, values = _normal(0, 4000), _normal(1, 200_000)
    law = _binned(values, bins_for(pilot))
    assert not law.on_points.any()
    q = np.array([0.01, 0.3, 0.5, 0.99])
    for i, scale in enumerate((1.0, 3.0)):
        exact = scipy.stats.norm(scale=scale)
        z = (law.cdf[i] - exact.cdf(law.edges[i])) / np.maximum(law.cdf_stderr[i], 1e-6)
        assert np.all(np.abs(z[(law.cdf[i] > 1e-3) & (law.cdf[i] < 1 - 1e-3)]) < 5.5)
        mass = np.diff(exact.cdf(law.edges[i])) / np.diff(law.edges[i])
        filled = law.counts[i] > 100
        assert filled.sum() > 100
        assert np.all(np.abs(law.density[i] - mass)[filled] < 5.5 * law.density_stderr[i][filled])
        # The standard error is that of a binomial law, known to 1 / sqrt(2 * groups).
        binomial = np.sqrt(mass * np.diff(law.edges[i]) / len(values)) / np.diff(law.edges[i])
        assert np.median(law.density_stderr[i][filled] / binomial[filled]) == pytest.approx(1, abs=0.1)
        np.testing.assert_allclose(law.quantile(q)[:, i], np.quantile(values[:, i], q), atol=0.03 * scale)
        assert np.all(np.abs(law.quantile(q)[:, i] - exact.ppf(q)) < 5.5 * law.quantile_stderr(q)[:, i])
    assert np.sum(law.counts) + np.sum(law.below) + np.sum(law.above) == values.size
    assert law.effective_samples == pytest.approx(len(values), rel=0.9)


def test_distances_are_scipys():
    values = _normal(2, 50_000, 1)
    law, exact = _binned(values, bins_for(values[:4000])), scipy.stats.norm(0.05, 1.1)
    assert law.kolmogorov(exact.cdf).value == pytest.approx(scipy.stats.kstest(values[:, 0], exact.cdf).statistic, rel=0.03)
    other_side = scipy.stats.norm(-0.05, 1.1)
    assert law.kolmogorov(other_side.cdf).value == pytest.approx(
        scipy.stats.kstest(values[:, 0], other_side.cdf).statistic, rel=0.03
    )
    points = exact.ppf((np.arange(200_000) + 0.5) / 200_000)
    assert law.wasserstein(exact.cdf).value == pytest.approx(scipy.stats.wasserstein_distance(values[:, 0], points), rel=0.01)
    other = _binned(_normal(3, 50_000, 1) * 1.2, bins_for(_normal(4, 4000, 1)))
    both = scipy.stats.wasserstein_distance(values[:, 0], _normal(3, 50_000, 1)[:, 0] * 1.2)
    assert law.wasserstein(other).value == pytest.approx(both, rel=0.01)
    assert other.wasserstein(law).value == pytest.approx(both, rel=0.01)


def test_errors_of_distances_are_those_of_many_runs():
    """Over runs of one law: the standard error against another law, and how often equal laws exceed chance."""
    bins = bins_for(_normal(5, 4000, 1))
    laws = [_binned(_normal(100 + i, 2000, 1), bins) for i in range(200)]
    exact, far = scipy.stats.norm(), scipy.stats.norm(0.3, 1.2)
    for name in ("kolmogorov", "wasserstein"):
        equal = [getattr(law, name)(exact.cdf) for law in laws]
        share = np.mean([d.value > d.chance for d in equal])
        assert abs(share - 0.05) < 5.5 * np.sqrt(0.05 * 0.95 / len(laws)) + 0.01  # 25 groups make it a little larger
        other = [getattr(law, name)(far.cdf) for law in laws]
        spread = np.std([d.value for d in other])
        assert np.mean([d.stderr for d in other]) == pytest.approx(spread, rel=0.15)
        pairs = [getattr(a, name)(b) for a, b in zip(laws[::2], laws[1::2], strict=True)]
        share = np.mean([d.value > d.chance for d in pairs])
        assert abs(share - 0.05) < 5.5 * np.sqrt(0.05 * 0.95 / len(pairs)) + 0.01


def test_a_lattice_has_edges_between_its_points():
    random = np.random.default_rng(6)
    steps = random.binomial(40, 0.5, (4000, 1))
    values = (0.3 + 0.1 * steps + 1e-7 * random.normal(size=steps.shape)).astype(np.float32)
    bins = bins_for(values)
    places = (bins.edges[0] - 0.3) / 0.1
    np.testing.assert_allclose(places - np.floor(places), 0.5, atol=0.02)
    assert bins.on_points.all()
    law, q = _binned(values, bins), np.array([0.05, 0.5, 0.99])
    np.testing.assert_allclose(law.quantile(q)[:, 0], np.quantile(values, q, method="inverted_cdf"), atol=1e-3)
    exact = scipy.stats.binom(40, 0.5)
    assert law.kolmogorov(lambda x: exact.cdf((x - 0.3) / 0.1)).value < 1.63 / np.sqrt(len(values))
    # A wide lattice has several points to a bin.
    wide = bins_for(random.integers(0, 1000, (20_000, 1)).astype(float))
    assert not wide.on_points.any()
    np.testing.assert_allclose(wide.edges % 1, 0.5)


CASES = {
    "continuous": np.random.default_rng(7).normal(size=4000),
    "heavy tails": np.random.default_rng(8).standard_cauchy(4000),
    "one far away": np.append(np.random.default_rng(9).normal(size=4000), 1e9),
    "two clusters": np.random.default_rng(10).choice([-1.0, 1.0], 4000) * (1 + 0.1 * np.random.default_rng(11).random(4000)),
    "not negative": np.random.default_rng(12).chisquare(1, 4000),
    "two values": np.random.default_rng(13).choice([-1.0, 1.0], 4000),
    "few": np.array([1.0, 2.0]),
    "one": np.array([5.0]),
    "a constant": np.full(100, -3.0),
    "zero": np.zeros(100),
    "digits at the end": 1e4 + 1e-3 * np.random.default_rng(14).normal(size=4000),
    "tiny": 1e-30 * np.random.default_rng(15).normal(size=4000),
    "not finite": np.array([np.nan, np.inf, 1.0, 2.0, 2.5]),
    "nothing": np.array([np.nan]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_hold_the_middle_of_any_law(name, dtype):
    values = CASES[name].astype(dtype)[:, None]
    bins = bins_for(values)
    assert bins.edges.dtype == dtype and np.all(np.diff(bins.edges) > 0) and np.all(np.isfinite(bins.edges))
    assert not bins.on_points.any()
    finite = values[np.isfinite(values)]
    if finite.size:
        inside = (bins.edges[0, 0] <= finite) & (finite <= bins.edges[0, -1])
        assert inside.mean() > 0.99
    if name == "not negative":
        assert np.min(np.abs(bins.edges - values.min())) <= 1e-6
    with jax.enable_x64(dtype == np.float64):
        js.Histogram(bins.edges)  # it takes them


def test_quantiles_beyond_the_bins_are_infinite():
    bins = bins_for(_normal(16, 4000, 1))
    law = _binned(np.concatenate([_normal(17, 900, 1), np.full((50, 1), 1e9), np.full((50, 1), -1e9)]), bins)
    assert law.quantile([0.01, 0.99])[:, 0].tolist() == [-np.inf, np.inf]
    assert np.isnan(law.quantile_stderr([0.01, 0.99])).all() and np.isfinite(law.quantile_stderr(0.5)).all()
    assert law.below == law.above == 50


BAD = {
    "a probability": (lambda law: law.quantile(1.5), ValueError, "q must lie in"),
    "another law": (lambda law: law.kolmogorov(3.0), TypeError, "other must be a law with a cdf, or a function, got 3.0"),
    "a coordinate": (lambda law: law.wasserstein(law, 2), ValueError, "coordinate must be below 2"),
    "no coordinate": (lambda law: law.kolmogorov(law, "x"), TypeError, "coordinate must be a whole number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    bad, error, message = BAD[name]
    with pytest.raises(error, match=message):
        bad(_binned(_normal(18, 500), bins_for(_normal(19, 500))))


OTHERS = [js.Gaussian(1.0), js.StudentT(3.0, 1.0), js.Uniform(2.0)]


def _law(process, x0=None, **more):
    settings = dict(key=KEY, seeds=4000, diagnostic_seeds=128, progress=False) | more
    return js.stationary(process, jnp.zeros(1) if x0 is None else x0, **settings)


def test_the_law_of_sgd_is_normal_and_that_of_its_loss_chi_squared():
    law = _law(js.SGD(0.1).chain(ONE))
    std = np.sqrt(0.1 / 1.9)
    x, loss = law.laws["x"], law.laws["loss"]
    exact = scipy.stats.norm(scale=std)
    assert x.kolmogorov(exact.cdf).value < 1.3 * x.kolmogorov(exact.cdf).chance < 0.02
    assert loss.kolmogorov(lambda v: scipy.stats.chi2(1).cdf(2 * v / std**2)).value < 0.02
    q = np.array([0.01, 0.25, 0.75, 0.99])
    assert np.all(np.abs(x.quantile(q)[:, 0] - exact.ppf(q)) < 5.5 * x.quantile_stderr(q)[:, 0])
    assert np.all(x.quantile_stderr(q) < 0.02 * std)
    # All seeds at all times that count, and no more independent values than these.
    records = len(law.ts) - int(np.searchsorted(law.ts, law.burn_in))
    assert x.counts.sum() + x.below.sum() + x.above.sum() == 4000 * records
    assert 4000 < x.effective_samples[0] < 4000 * records
    assert law.variance == pytest.approx(np.diag(law.covariance))


@pytest.mark.parametrize(
    "noise",
    [js.StudentT(1.0, 1.0), *(pytest.param(n, marks=pytest.mark.sweep) for n in OTHERS)],
)
def test_sign_sgds_laws_are_the_exact_ones(noise):
    """The chain's, on its lattice with both parities; the SDE's up to its solver's step."""
    problem, opt = js.Problem(js.Quadratic([1.0]), noise), js.SignSGD(0.1)
    law = _law(opt.chain(problem)).laws["x"]
    distance = law.kolmogorov(js.theory.birth_death(opt, problem, 0.0))
    assert law.on_points.all() and distance.value < 1.3 * distance.chance < 0.03
    sde = opt.sde(problem)
    law = _law(sde, substeps=4).laws["x"]
    distance = law.kolmogorov(js.theory.density(sde))
    assert distance.value < 1.3 * distance.chance + 0.005 < 0.03


def test_the_law_of_an_sde_is_pooled_from_runs_with_gaussian_increments():
    """Those of `simulate` with the same key, beside whose seeds the linear companion runs."""
    sde = js.SignSGD(0.3).sde(ONE)
    law = _law(sde, seeds=300, steps=64, substeps=1, observe={"x": lambda x: x})
    records, edges = len(law.ts) - 1, law.laws["x"].edges
    run = js.simulate(
        sde, jnp.zeros(1), steps=law.steps, every=law.steps // records, seeds=300, key=KEY, increments="gaussian",
        reduce={"x": js.Histogram(edges)}, progress=False,
    )["x"]  # fmt: skip
    late = np.asarray(run.counts)[np.asarray(run.ts) >= law.burn_in].sum(axis=0)
    assert np.abs(law.laws["x"].counts - late).sum() <= 4  # values that another program rounds across an edge
    assert late.sum() > 300 * records * 0.4


def test_variances_are_about_the_mean_and_not_about_the_reference():
    curves = {
        "mean": PairedMeans(np.full((4, 65), 0.5), np.full((8, 4, 65), 0.5), np.ones((4, 65))),
        "second": PairedMeans(np.full((4, 65), 1.25), np.full((8, 4, 65), 1.25), np.ones((4, 65))),
        "loss": PairedMeans(np.ones((4, 1)), np.ones((8, 4, 1)), np.ones((4, 1))),
    }
    values, errors = averages(curves, np.full(65, 10.0), np.float32)
    assert values.covariance is None and errors.covariance is None
    np.testing.assert_allclose(values.variance, 1.0)
    np.testing.assert_allclose(values.mean, 10.5)


def test_observables_and_their_names_are_the_users():
    """A name that `stationary` records under itself does no harm; no law costs no Gaussian increments."""
    sde = js.SignSGD(0.1).sde(ONE)
    observe = {"mean": lambda x: jnp.abs(x), "second": lambda x: {"a": x, "b": x**2}}
    law = _law(sde, observe=observe, seeds=512)
    assert list(law.laws) == ["mean", "second"] and law.laws["second"].edges.shape[0] == 2
    assert np.all(law.laws["mean"].quantile([0.01, 0.9]) > 0)
    plain = _law(sde, observe={}, seeds=512)
    assert plain.laws == {} and plain.covariance != law.covariance
    with pytest.raises(TypeError, match="observe must be a dictionary of functions"):
        _law(sde, observe=[jnp.abs])
    with pytest.raises(ValueError, match="observe.'wide'. has 300 numbers, of which laws are kept for at most 256"):
        _law(sde, observe={"wide": lambda x: jnp.zeros(300)})


def test_many_coordinates_have_variances_and_the_laws_that_are_asked_for():
    d, scale = 100, np.linspace(0.5, 2.0, 100)
    problem = js.Problem(js.Quadratic(jnp.ones(d)), js.Gaussian(jnp.asarray(scale)))
    direction = np.ones(d) / np.sqrt(d)
    observe = {"along": lambda x: x @ jnp.asarray(direction, x.dtype)}
    law = _law(js.SGD(0.1).chain(problem), jnp.zeros(d), observe=observe, seeds=2000, steps=400)
    exact = 0.1 / 1.9 * scale**2
    assert law.covariance is None and law.stderr.covariance is None and law.reduction.covariance is None
    assert np.all(np.abs(law.variance - exact) < 5.5 * law.stderr.variance)
    assert np.median(law.stderr.variance / exact) < 0.02
    assert np.all(np.abs(law.mean) < 5.5 * law.stderr.mean)
    assert law.r_hat.shape == law.effective_samples.shape == (64,) and law.samples.shape[-1] == 64
    normal = scipy.stats.norm(scale=np.sqrt(exact @ direction**2))
    assert law.laws["along"].kolmogorov(normal.cdf).value < 0.02
    assert set(_law(js.SGD(0.1).chain(problem), jnp.zeros(d), seeds=8, steps=8).laws) == {"loss"}
    text = js.reporting.stationary_table({"optimizer": law}, {})
    assert "variance[0]" in text and "covariance" not in text
    both = js.estimation.extrapolate_law(law, law)
    assert both.covariance is None and np.allclose(both.variance, law.variance)


def test_a_law_as_a_table_a_picture_and_a_file(tmp_path):
    import xarray

    opt = js.SignSGD(0.1)
    laws = {
        "optimizer": _law(opt.chain(ONE), seeds=1000),
        "SDE": _law(opt.sde(ONE), seeds=1000, substeps=2),
    }
    exact = {"optimizer": js.theory.birth_death(opt, ONE, 0.0), "SDE": js.theory.density(opt.sde(ONE))}
    text = js.reporting.laws_table(laws, exact)
    assert "x[0], 50 %" in text and "loss, 99.9 %" in text and "exact SDE" in text
    assert "x[0]: optimizer from its exact law" in text and "loss: SDE from optimizer" in text
    assert max(map(len, text.split("\n"))) <= 100
    figure = js.reporting.plot_laws(laws, exact, title="laws")
    assert len(figure.axes) == 4 and figure.axes[1].get_yscale() == "log"
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == [
        "optimizer, simulated", "SDE, simulated", "optimizer, exact", "SDE, exact",
    ]  # fmt: skip
    js.reporting.plot_laws({"SDE": laws["SDE"]}).savefig(tmp_path / "one.png")
    js.reporting.save_laws(laws, tmp_path / "laws.nc")
    with xarray.open_dataset(tmp_path / "laws.nc", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data.optimizer_x_counts, laws["optimizer"].laws["x"].counts)
        np.testing.assert_allclose(data.sde_loss_cdf, laws["SDE"].laws["loss"].cdf)
        np.testing.assert_allclose(data.sde_covariance, laws["SDE"].covariance)
