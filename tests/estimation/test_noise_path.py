"""Noise along a run, and in batches that a loop of one's own sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js

KEY = jax.random.key(0)
FEATURES = jax.random.normal(KEY, (96, 3))
DATA = FEATURES, FEATURES @ jnp.ones(3) + jax.random.normal(jax.random.key(1), (96,))
PROBLEM = js.Problem.from_data(lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2, DATA, batch_size=4)
X0 = jnp.full(3, 5.0)


def _loss(w, batch):
    features, target = batch
    return jnp.mean(0.5 * (features @ w["w"] - target) ** 2)


def _batches(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        rows = rng.integers(0, 96, 4)
        yield tuple(np.asarray(leaf)[rows] for leaf in DATA)


def _trace(w, draws):
    """The trace of the covariance at `w`, and the standard error of its estimate from so many draws."""
    gradients = np.stack([np.asarray(jax.grad(_loss)({"w": w}, batch)["w"], float) for batch in _batches(500, seed=9)])
    lengths = np.sum((gradients - np.asarray(PROBLEM.gradient(w))) ** 2, axis=1)
    return float(jnp.trace(PROBLEM.noise.covariance(w))), np.std(lengths) / np.sqrt(draws)


def _least_squares():
    features, target = (np.asarray(leaf, float) for leaf in DATA)
    return jnp.asarray(np.linalg.lstsq(features, target, rcond=None)[0], jnp.float32)


def test_a_path_is_the_optimizers_run_with_a_report_at_each_place():
    opt = js.SGD(0.05)
    way = js.noise_path(PROBLEM, opt, X0, steps=60, every=20, key=KEY, draws=512, progress=False)
    assert way.steps.tolist() == [0, 20, 40, 60] and len(way.reports) == 4
    training, _ = jax.random.split(KEY)
    run = js.simulate(
        opt.chain(PROBLEM), X0, steps=60, every=20, seeds=1, key=training, observe={"x": lambda x: x, "g": PROBLEM.gradient},
        reduce=js.Samples(), progress=False,
    )  # fmt: skip
    for n, report in enumerate(way.reports):
        np.testing.assert_allclose(report.gradient, run["g"].values[n, 0], rtol=1e-4, atol=1e-5)
        assert way.loss[n] == pytest.approx(float(PROBLEM.loss(run["x"].values[n, 0])), rel=1e-5)
        trace, stderr = _trace(run["x"].values[n, 0], draws=512)
        assert abs(report.whole.noise_norm**2 - trace) < 6 * stderr
    assert way.signal_to_noise[0] > 1.5 * way.signal_to_noise[-1]
    np.testing.assert_allclose(way.critical_batch, 4 / way.signal_to_noise**2)
    hessian = np.asarray(FEATURES.T @ FEATURES, float) / 96
    np.testing.assert_allclose(way.curvature["SGD"], np.linalg.eigvalsh(hessian)[-1], rtol=1e-3)
    assert way.tail_index.shape == way.sign_gap.shape == (4,)


def test_by_default_there_are_eight_reports_after_the_start():
    line = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    way = js.noise_path(line, js.SGD(0.1), jnp.ones(1), steps=16, draws=16, progress=False)
    assert way.steps.tolist() == list(range(0, 17, 2))
    assert way.batch_size is None and np.all(way.critical_batch == 1 / way.signal_to_noise**2)


def test_a_run_that_diverges_says_so():
    with pytest.raises(ValueError, match="training diverged within 200 steps"):
        js.noise_path(PROBLEM, js.SGD(10.0), X0, steps=200, draws=16, progress=False)


def test_batches_of_ones_own_loop_have_the_noise_of_the_problem():
    params = {"w": X0}
    report = js.batch_noise(_loss, params, _batches(4000), draws=4000, progress=False)
    known = js.noise_report(PROBLEM, X0, draws=4000, key=KEY, progress=False)
    gradient = np.asarray(PROBLEM.gradient(X0))
    trace, stderr = _trace(X0, draws=4000)
    assert report.draws == 4000 and report.layers[0].name == "['w']"
    assert abs(report.whole.noise_norm**2 - trace) < 6 * stderr
    length = np.linalg.norm(gradient)
    assert abs(report.whole.gradient_norm - length) < 6 * np.sqrt(trace / 4000)
    assert report.whole.effective_rank == pytest.approx(known.whole.effective_rank, rel=0.1)
    np.testing.assert_allclose(report.variance, np.diag(PROBLEM.noise.covariance(X0)), rtol=0.15)


def test_at_a_minimum_the_mean_of_the_draws_is_no_gradient():
    """The mean of n gradients has a square of tr / n in the mean, which is taken off."""
    params = {"w": _least_squares()}
    squares, naive = [], []
    for seed in range(40):
        report = js.batch_noise(_loss, params, _batches(32, seed), progress=False)
        squares.append(report.whole.gradient_norm**2)
        naive.append(np.sum(report.gradient.astype(float) ** 2))
    trace = float(jnp.trace(PROBLEM.noise.covariance(params["w"])))
    assert abs(np.mean(naive) - trace / 32) < 6 * np.std(naive) / np.sqrt(40)
    # Taken as 0 where it would be negative, it stays above 0 in the mean, by less than half of what is taken off.
    assert np.mean(squares) < 0.55 * np.mean(naive)


def test_the_curvature_is_that_of_the_first_batch():
    batches = list(_batches(16))
    report = js.batch_noise(_loss, {"w": X0}, batches, progress=False)
    hessian = batches[0][0].T @ batches[0][0] / 4
    assert report.curvature["SGD"] == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: js.batch_noise(_loss, {"w": X0}, _batches(15)), ValueError, "at least 16, got 15"),
        (lambda: js.batch_noise("loss", {"w": X0}, _batches(20)), TypeError, "loss must be callable"),
        (lambda: js.batch_noise(lambda w, b: jnp.sum(w) / 0.0, X0, range(20)), ValueError, "not finite"),
        (lambda: js.noise_path(PROBLEM, "sgd", X0, steps=2), TypeError, "opt must be"),
        (lambda: js.noise_path(PROBLEM, js.SGD(0.1), X0, steps=2, every=3), ValueError, "every"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_picture_has_six_panels():
    pytest.importorskip("matplotlib")
    way = js.noise_path(PROBLEM, js.AdamW(0.05), X0, steps=16, draws=64, progress=False)
    figure = js.reporting.plot_noise_path(way)
    assert [ax.get_title() for ax in figure.axes][2] == "Critical batch size"
    assert all(len(ax.lines) for ax in figure.axes)


def test_flax_modules_are_pytrees_as_any():
    flax = pytest.importorskip("flax.nnx")
    model = flax.Linear(3, 1, rngs=flax.Rngs(0))
    structure, state = flax.split(model)

    def loss(state, batch):
        features, target = batch
        return jnp.mean(0.5 * (flax.merge(structure, state)(features)[:, 0] - target) ** 2)

    report = js.batch_noise(loss, state, _batches(64), progress=False)
    assert report.whole.size == 4 and len(report.layers) == 2
