"""Covariances between times, against NumPy's of the same samples and the exact ones of SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import Compilations

import jaxsde as js
from jaxsde.estimation._statistics import jackknife_stderr
from jaxsde.simulation import _work

KEY = jax.random.key(0)
ETA, HESSIAN = 0.1, np.array([1.0, 2.0])
CHAIN = js.SGD(ETA).chain(js.Problem(js.Quadratic(HESSIAN), js.Gaussian(0.5)))
LAGS = (0, 1, 4)
RUN = dict(steps=60, every=3, seeds=1001, key=KEY, progress=False)


def _run(reduce=None, process=CHAIN, observe=lambda x: x, **more):
    reduce = js.Covariances(LAGS) if reduce is None else reduce
    return js.simulate(process, jnp.ones(2), **RUN | dict(observe={"x": observe}, reduce=reduce) | more)["x"]


def _of_samples(values, lag, n, kept=slice(None)):
    return [np.cov(values[n, kept, k], values[n - lag, kept, k]) for k in range(values.shape[2])]


@pytest.mark.parametrize("chunk", [1001, 250, 64])
def test_covariances_are_numpys(chunk):
    found, values = _run(chunk=chunk), np.asarray(_run(js.Samples()).values, float)
    for i, lag in enumerate(LAGS):
        assert np.all(np.isnan(found.covariance[:lag, i])) and np.all(found.count[:lag, i] == 0)
        assert np.all(found.count[lag:, i] == 1001)
        for n in (lag + 1, 20):
            exact = _of_samples(values, lag, n)
            np.testing.assert_allclose(found.covariance[n, i], [c[0, 1] for c in exact], rtol=2e-5)
            correlation = [c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in exact]
            np.testing.assert_allclose(found.correlation[n, i], correlation, rtol=2e-5)


def test_covariances_and_their_errors_are_those_of_an_autoregression():
    """Cov(x_k, x_(k - l)) = (1 - eta h)^l Var(x_(k - l)); the errors are those of jointly normal values."""
    found = _run(seeds=20_000)
    decay = 1 - ETA * HESSIAN
    for i, lag in enumerate(LAGS):
        for n in (5, 10, 20):
            steps = 3 * (n - lag)
            variance = (ETA * 0.5) ** 2 * (1 - decay ** (2 * steps)) / (1 - decay**2)
            off = np.asarray(found.covariance[n, i]) - decay ** (3 * lag) * variance
            assert np.all(np.abs(off) < 5.5 * np.asarray(found.stderr[n, i]))
            assert np.all(found.stderr[n, i] < 0.02 * variance)
    parts = _run(js.Jackknife(js.Covariances(LAGS), 40), seeds=20_000)
    spread = jackknife_stderr(np.asarray(parts.left_out.covariance)[:, 10:])
    assert np.median(spread / np.asarray(found.stderr)[10:]) == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(parts.total.covariance[-1], found.covariance[-1], rtol=1e-4)
    assert parts.left_out.covariance.shape == (40, 21, 3, 2) and parts.without[0].count.shape == (21, 3)


def test_the_lattice_of_an_sdes_increments_does_not_matter():
    sde = js.SGD(ETA).sde(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.5)))
    two, normal = (
        js.simulate(sde, jnp.zeros(1), reduce=js.Covariances(4), substeps=2, increments=name, **RUN | dict(seeds=20_000))["x"]
        for name in (None, "gaussian")
    )
    off = np.abs(np.asarray(two.covariance[-1] - normal.covariance[-1]))
    assert np.all(off < 5.5 * np.hypot(two.stderr[-1], normal.stderr[-1]))
    assert js.Covariances(4).moments_only


def test_seeds_without_a_value_at_either_time_are_left_out():
    """Below zero the observable is nan: so some seeds have a value now and none then."""
    observe = lambda x: jnp.log(x)
    found, values = _run(observe=observe), np.asarray(_run(js.Samples(), observe=observe).values, float)
    n, lag = 20, 4
    kept = np.all(np.isfinite(values[n]) & np.isfinite(values[n - lag]), axis=1)
    assert 20 < kept.sum() < 900 and found.count[n, 2] == kept.sum()
    exact = [c[0, 1] for c in _of_samples(values, lag, n, kept)]
    np.testing.assert_allclose(found.covariance[n, 2], exact, rtol=1e-4)


def test_with_other_reducers_and_of_pytrees():
    lagged, short = js.Covariances(LAGS), js.Covariances(1)
    both = _run(js.Several(lagged=lagged, short=short, law=js.Histogram([0.0, 0.5]), moments=js.Moments()))
    np.testing.assert_allclose(both["lagged"].covariance[:, 1], both["short"].covariance[:, 0], rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(both["law"].counts, _run(js.Histogram([0.0, 0.5])).counts)
    np.testing.assert_allclose(both["moments"].variance[1:], both["lagged"].covariance[1:, 0], rtol=1e-5, atol=1e-9)
    tree = _run(observe=lambda x: {"a": x, "b": jnp.outer(x, x)})
    assert jax.tree.map(jnp.shape, tree.covariance) == {"a": (21, 3, 2), "b": (21, 3, 2, 2)}
    one = js.simulate(CHAIN, jnp.ones(2), reduce={"loss": js.Covariances(2)}, **RUN)
    assert one["loss"].covariance.shape == (21, 1) and one["x"].mean.shape == (21, 2)


def test_a_run_that_was_cut_off_remembers(tmp_path, monkeypatch):
    settings = dict(chunk=250, checkpoint=tmp_path)
    whole = _run(chunk=250)
    _run(**settings, steps=30)
    longer = _run(**settings)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), whole, longer)))
    with pytest.raises(ValueError, match="every must be 3, as for the checkpoint: lags count records, got 6"):
        _run(**settings, steps=120, every=6)
    monkeypatch.setattr(_work.Task, "advance", None)
    np.testing.assert_array_equal(_run(**settings).covariance, whole.covariance)


def test_they_are_saved_and_loaded(tmp_path):
    ensemble = js.simulate(CHAIN, jnp.ones(2), reduce=js.Covariances(LAGS), **RUN)
    ensemble.save(tmp_path / "run.nc")
    found = js.load(tmp_path / "run.nc")["x"]
    np.testing.assert_array_equal(found.covariance, ensemble["x"].covariance)
    np.testing.assert_array_equal(found.lags, LAGS)


def test_no_program_is_compiled_anew():
    _run()
    another = jax.random.key(1)
    with Compilations() as compiled:
        _run(key=another)
    assert compiled.count == 0


BAD = {
    "half": (lambda: js.Covariances(1.5), TypeError, r"lags must be a whole number \(an int\), got 1.5"),
    "negative": (lambda: js.Covariances([1, -1]), ValueError, "lags must be at least 0, got -1"),
    "none": (lambda: js.Covariances([]), ValueError, "lags must be one number of records or more"),
    "long": (lambda: js.Covariances(1001), ValueError, "lags must be at most 1000"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lags(name):
    bad, error, message = BAD[name]
    with pytest.raises(error, match=message):
        bad()
