"""The noise report against laws whose norms, tails and curvatures are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import jaxsde as js

SCALES = np.array([0.5, 1.0, 2.0, 0.1])
HESSIAN = np.array([3.0, 1.0, 0.5, 0.2])


def _report(noise, *, draws=20_000, x=(1.0, -1.0, 0.5, 2.0), **more):
    problem = js.Problem(js.Quadratic(jnp.asarray(HESSIAN)), noise)
    return js.noise_report(problem, jnp.asarray(x), draws=draws, **more)


def test_norms_and_rank_of_gaussian_noise():
    draws = 4000
    whole = _report(js.Gaussian(jnp.asarray(SCALES)), draws=draws).whole
    assert whole.gradient_norm == pytest.approx(np.linalg.norm(HESSIAN * [1.0, -1.0, 0.5, 2.0]), rel=1e-5)
    trace, trace_of_square = np.sum(SCALES**2), np.sum(SCALES**4)
    # Z'Z has variance 2 tr S^2, (Z'W)^2 less than twice its squared mean at first order of a U-statistic.
    assert abs(whole.noise_norm**2 - trace) < 5.5 * np.sqrt(2 * trace_of_square / draws)
    spread = 2 * np.sqrt(2 * np.sum(SCALES**8) / draws) / trace_of_square + 2 * np.sqrt(2 * trace_of_square / draws) / trace
    assert abs(whole.effective_rank / (trace**2 / trace_of_square) - 1) < 5.5 * spread


def test_effective_rank_beyond_the_number_of_draws():
    size, draws = 3000, 300
    problem = js.Problem(js.Quadratic(jnp.ones(size)), js.Gaussian(1.0))
    rank = js.noise_report(problem, jnp.ones(size), draws=draws).whole.effective_rank
    # The mean of (Z_i'Z_j)^2, each of mean d and variance about 2 d^2, over half draws^2 nearly independent pairs.
    assert abs(rank / size - 1) < 6 * 2 / draws


def _many(noise, size=50, **more):
    """A report of many coordinates, all alike, at the minimum."""
    return js.noise_report(js.Problem(js.Quadratic(jnp.ones(size)), noise), jnp.zeros(size), **more)


def test_gaussian_noise_has_no_kurtosis_and_the_tail_it_is_said_to_have():
    draws, size = 20_000, 50
    report = _many(js.Gaussian(jnp.linspace(0.1, 2.0, size)), draws=draws)
    assert abs(report.whole.kurtosis) < 5.5 * np.sqrt(24 / draws / size)
    assert abs(report.whole.tail_index / report.gaussian_tail_index - 1) < 6 / np.sqrt(0.01 * size * draws)


def test_gaussian_noise_has_no_sign_gap():
    draws, size = 500, 1000
    gap = _many(js.Gaussian(1.0), size, draws=draws).whole.sign_gap
    # Were chance not taken off, the square of the gap would be 1 / draws.
    assert gap**2 < 6 * np.sqrt(2 / size) / draws


def test_laplace_noise():
    draws, scale, x = 20_000, 1.0, (0.3, -1.0, 1.5, 2.0)
    whole = _report(js.Laplace(scale), draws=draws, x=x).whole
    # Its eighth moment is 8! / 2^4 variances^4: the fourth's standard error, from it.
    assert abs(whole.kurtosis - 3) < 6 * np.sqrt(40320 / 16 / draws / 4)
    gradient = HESSIAN * x
    exact = np.sign(gradient) * (1 - np.exp(-np.abs(gradient) / scale))
    normal = scipy.special.erf(gradient / (np.sqrt(2) * np.sqrt(2) * scale))
    gap = np.sqrt(np.mean((exact - normal) ** 2))
    assert abs(whole.sign_gap - gap) < 5.5 / np.sqrt(draws)
    assert gap > 10 / np.sqrt(draws)


def test_tail_of_students_noise():
    draws, size, df = 20_000, 50, 2.0
    index = _many(js.StudentT(df, 1.0), draws=draws).whole.tail_index
    # At the hundredth that counts, the tail is still some 3 % steeper than its power.
    assert abs(index / df - 1) < 6 / np.sqrt(0.01 * size * draws) + 0.04


def test_curvatures_and_learning_rates():
    sigma, x = 0.7, np.array([1.0, -1.0, 0.5, 2.0])
    report = _report(js.Gaussian(sigma), x=x, tolerance=0.1)
    adaptive = np.max(HESSIAN / np.sqrt(sigma**2 + (HESSIAN * x) ** 2))
    expected = {"SGD": 3.0, "SignSGD": 3.0 / sigma / np.sqrt(np.pi / 2), "RMSprop, Adam": adaptive}
    for name, value in expected.items():
        assert report.curvature[name] == pytest.approx(value, rel=0.03), name
        assert report.learning_rate[name] == pytest.approx(0.2 / value, rel=0.03), name


def test_up_to_its_learning_rate_sgds_sde_is_off_by_the_tolerance():
    problem = js.Problem(js.Quadratic(jnp.asarray(HESSIAN)), js.Gaussian(1.0))
    rate = js.noise_report(problem, jnp.ones(4), tolerance=0.05).learning_rate["SGD"]
    opt = js.SGD(rate)
    steepest = [law(opt, problem).covariance[0, 0] for law in (js.theory.stationary, js.theory.discrete_stationary)]
    assert steepest[0] / steepest[1] == pytest.approx(0.95, rel=1e-3)


def test_curvature_in_many_dimensions_is_iterated_for():
    hessian = jnp.asarray(np.r_[-7.0, np.random.default_rng(0).uniform(0.1, 5.0, 199)])
    report = js.noise_report(js.Problem(js.Quadratic(hessian), js.Gaussian(1.0)), jnp.ones(200), draws=16)
    assert report.curvature["SGD"] == pytest.approx(7.0, rel=0.02)


def test_mini_batches_array_by_array():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 3)) * [1.0, 2.0, 0.0]
    data = (jnp.asarray(features), jnp.asarray(rng.standard_normal(400)))
    loss = lambda p, example: 0.5 * (example[0] @ p["slope"] + p["offset"] - example[1]) ** 2
    problem = js.Problem.from_data(loss, data, batch_size=8)
    params = {"slope": jnp.ones(3), "offset": jnp.array(0.3)}
    draws = 200_000
    report = js.noise_report(problem, params, draws=draws, key=jax.random.key(1))
    variance = problem.noise.variance(params)
    by_name = {layer.name: layer for layer in report.layers}
    assert set(by_name) == {"['slope']", "['offset']"}
    for name, key in (("['slope']", "slope"), ("['offset']", "offset")):
        # One coordinate's variance has a relative standard error of a root of (2 + kurtosis) / draws.
        assert by_name[name].noise_norm ** 2 == pytest.approx(float(jnp.sum(variance[key])), rel=5.5 * np.sqrt(4 / draws))
    assert by_name["['slope']"].active == pytest.approx(2 / 3)
    covariance = np.asarray(problem.noise.covariance(params), float)
    assert report.whole.effective_rank == pytest.approx(np.trace(covariance) ** 2 / np.sum(covariance**2), rel=0.03)
    gradient = float(jnp.sum(jax.flatten_util.ravel_pytree(problem.gradient(params))[0] ** 2))
    assert report.critical_ratio == pytest.approx(np.trace(covariance) / gradient, rel=5.5 * np.sqrt(4 / draws))


def test_a_curvature_that_takes_too_many_products_is_said_to_be_a_lower_bound():
    """A thousand eigenvalues evenly spaced: a dozen products know the largest one to some per cent."""
    largest = 3.0
    problem = js.Problem(js.Quadratic(jnp.linspace(1e-3, largest, 1000)), js.Gaussian(1.0))
    few, many = (js.noise_report(problem, jnp.ones(1000), draws=16, curvature_products=n) for n in (12, 200))
    assert few.curvature_error["SGD"] > 0.01 >= many.curvature_error["SGD"]
    assert few.curvature["SGD"] < many.curvature["SGD"] <= largest * (1 + 1e-5)
    # Some eigenvalue is within the error; these ones are dense.
    assert largest - few.curvature["SGD"] < few.curvature_error["SGD"] * few.curvature["SGD"]
    assert many.curvature["SGD"] == pytest.approx(largest, rel=0.01)
    shown = [js.reporting.noise_table(report) for report in (few, many)]
    assert ["or more" in table for table in shown] == [True, False]


def test_the_work_is_that_of_the_products_and_draws_asked_for(monkeypatch):
    from jaxsde.estimation import _curvature, _noise_report

    class Bar:
        def __init__(self, wanted, total, unit):
            self.wanted, self.total, self.unit, self.done = wanted, total, unit, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def update(self, amount):
            assert amount >= 0
            self.done += amount

    bars, products, product = [], [], _curvature._product
    monkeypatch.setattr(_noise_report, "progress_bar", Bar)
    monkeypatch.setattr(_curvature, "_product", lambda *arguments: products.append(None) or product(*arguments))
    problem = js.Problem(js.Quadratic(jnp.linspace(1e-3, 3.0, 500)), js.Gaussian(1.0))
    for count, draws, progress in ((12, 100, True), (64, 33, False)):
        products.clear()
        js.noise_report(problem, jnp.ones(500), draws=draws, curvature_products=count, progress=progress)
        bar = bars.pop()
        assert bar.wanted is progress and bar.done == bar.total == draws + 3 * count
        assert 3 * 12 <= len(products) <= 3 * count


@pytest.mark.parametrize("draws", [24, 2000])
def test_several_arrays_are_as_one(draws):
    """Fewer draws than coordinates, and more; an array whose noise is always 0; and as many numbers as take several slabs."""
    rng = np.random.default_rng(1)
    features = (rng.standard_normal((60, 700)) * np.r_[np.zeros(5), np.ones(695)]).astype(np.float32)
    cut = lambda w: {"a": w[:5], "b": w[5:300], "c": w[300:]}
    flat_loss = lambda w, example: 0.5 * (example @ w - 1.0) ** 2
    loss = lambda p, example: flat_loss(jnp.concatenate([p["a"], p["b"], p["c"]]), example)
    start = jnp.full(700, 0.01)
    common = dict(draws=draws, key=jax.random.key(2), curvature_products=12)
    parts, one = (
        js.noise_report(js.Problem.from_data(f, jnp.asarray(features), batch_size=4), x, **common)
        for f, x in ((loss, cut(start)), (flat_loss, start))
    )
    assert parts.whole.active == one.whole.active == 695 / 700
    for field in ("gradient_norm", "noise_norm", "kurtosis", "tail_index", "effective_rank", "sign_gap"):
        assert getattr(parts.whole, field) == pytest.approx(getattr(one.whole, field), rel=2e-3), field
    np.testing.assert_allclose(parts.tail_levels, one.tail_levels, rtol=1e-3)
    assert parts.layers[0].active == 0 and np.isnan(parts.layers[0].kurtosis)
    assert sum(layer.noise_norm**2 for layer in parts.layers) == pytest.approx(one.whole.noise_norm**2, rel=1e-4)


def test_the_gaussian_tail_index_by_another_integral():
    from jaxsde.estimation._noise_report import _gaussian_tail_index

    level = scipy.special.ndtri(0.995)
    # E log(|Z| / q) given |Z| > q is the integral of P(|Z| > z) / (z P(|Z| > q)).
    above = lambda z: 2 * scipy.special.ndtr(-z) / 0.01 / z
    assert _gaussian_tail_index() == pytest.approx(1 / scipy.integrate.quad(above, level, level + 12)[0], rel=1e-4)


def test_table_and_picture():
    pytest.importorskip("matplotlib")
    report = _report(js.Gaussian(1.0), draws=64)
    table = js.reporting.noise_table(report)
    assert "params" in table and "learning rate" in table and f"{report.whole.signal_to_noise:.3g}" in table
    figure = js.reporting.plot_noise(report)
    assert len(figure.axes) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"draws": 3}, "draws must be at least 16, got 3"),
        ({"curvature_products": 3}, "curvature_products must be at least 12, got 3"),
        ({"tolerance": 0.0}, r"tolerance must lie in \(0, 1\), got 0.0"),
        ({"tolerance": 1.5}, r"tolerance must lie in \(0, 1\), got 1.5"),
        ({"x": (1.0,)}, r"cannot be evaluated at x0 with shapes \(1,\)"),
    ],
)
def test_bad_arguments_raise(more, message):
    with pytest.raises(ValueError, match=message):
        _report(js.Gaussian(1.0), **more)
