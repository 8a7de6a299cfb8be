"""Signs that are 0 with positive probability, against enumeration; derivatives of mean signs, against SciPy's densities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import jaxsde as js
from jaxsde.problems._mean_loss import CHUNK

# Scales, the last two coordinates without noise.
SCALES = jnp.array([0.7, 2.0, 0.0, 0.0])
QUIET = {
    "gaussian": js.Gaussian(SCALES),
    "covariance": js.Gaussian(covariance=jnp.diag(SCALES**2).at[0, 1].set(0.5).at[1, 0].set(0.5)),
    "student": js.StudentT(2.0, SCALES),
    "student-2.5": js.StudentT(2.5, SCALES),
    "laplace": js.Laplace(SCALES),
    "uniform": js.Uniform(SCALES),
    "stable": js.AlphaStable(1.5, SCALES),
}


@pytest.mark.parametrize("noise", QUIET.values(), ids=QUIET)
def test_a_sign_is_zero_where_gradient_and_noise_are(noise):
    g = jnp.array([0.3, 0.0, 0.0, -4.0])
    assert noise.prob_nonzero(g, g).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert noise.prob_negative(g, g)[1:].tolist() == [0.5, 0.0, 1.0]
    covariance = np.asarray(noise.sign_covariance(g, g))
    assert not covariance[2:].any() and not covariance[:, 2:].any()
    assert np.all(np.diag(covariance)[:2] > 0.5)
    signs = noise.signs(g, g)
    root = np.asarray(jax.jacfwd(signs.sqrt_covariance)(noise.sign_increments_like(g)))
    np.testing.assert_allclose(root @ root.T, covariance, atol=1e-6)


def test_signs_of_gradients_so_large_that_the_ratio_is_infinite():
    """In several coordinates without noise: certain signs, and no difference of infinities between them."""
    noise = QUIET["covariance"]
    for g in ([0.3, 0.0, 5.0, 5.0], [0.3, 0.0, 5.0, -5.0], [1e25, -1e25, 0.0, 0.0]):
        assert np.all(np.isfinite(noise.sign_covariance(jnp.array(g), jnp.zeros(4))))


@pytest.mark.parametrize("name", ["gaussian", "covariance", "laplace"])
def test_coordinates_without_noise_or_gradient_stay_where_they_are(name):
    problem = js.Problem(js.Quadratic([1.0, 1.0, 0.0, 0.0]), QUIET[name])
    x = js.simulate(js.SignSGD(0.1).sde(problem), jnp.ones(4), steps=8, seeds=16, key=jax.random.key(0))["x"]
    assert x.variance[-1][2:].tolist() == [0.0, 0.0] and x.mean[-1][2:].tolist() == [1.0, 1.0]
    assert np.all(np.asarray(x.variance[-1])[:2] > 0)


ROWS = np.array([[1.0, 0.0, 0.0], [-0.5, 0.0, 0.0], [2.0, 3.0, 0.0], [-1.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.7, -1.0, 0.0]])


def _linear(w, row):
    return w @ row


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_the_probability_of_a_batch_without_gradient_against_all_batches(shuffle, batch_size):
    every = itertools.combinations(ROWS, batch_size) if shuffle else itertools.product(ROWS, repeat=batch_size)
    batches = np.array(list(every))
    nonzero = np.any(batches != 0, axis=1).mean(axis=0)
    problem = js.Problem.from_data(_linear, jnp.asarray(ROWS), batch_size=batch_size, shuffle=shuffle)
    noise, w = problem.noise, jnp.zeros(3)
    g = problem.gradient(w)
    np.testing.assert_allclose(noise.prob_nonzero(g, w), nonzero, rtol=1e-6)
    # Normal given that it is not 0, with the first two moments of all batches.
    means = batches.mean(axis=1)
    some = np.maximum(nonzero, 1e-300)
    center, square = means.mean(axis=0) / some, (means**2).mean(axis=0) / some
    spread = np.sqrt(np.maximum(square - center**2, 1e-300))
    mean = nonzero * (2 * scipy.stats.norm.cdf(center / spread) - 1)
    np.testing.assert_allclose(noise.mean_sign(g, w), mean, atol=1e-5)
    np.testing.assert_allclose(noise.prob_negative(g, w), nonzero * scipy.stats.norm.cdf(-center / spread), atol=1e-5)
    deviation = np.asarray(noise.signs(g, w).sqrt_covariance(jnp.ones(3)))
    np.testing.assert_allclose(deviation**2, nonzero - mean**2, atol=1e-5)
    np.testing.assert_allclose(noise.sign_covariance(g, w), np.diag(nonzero - mean**2), atol=1e-5)


def _rare(count, seed=0):
    """Linear regression of 20 features, each active in 2 % of the examples, and one that is nowhere."""
    rng = np.random.default_rng(seed)
    features = np.where(rng.random((count, 21)) < 0.02, rng.standard_normal((count, 21)), 0.0)
    features[:, 20] = 0
    return features, rng.standard_normal(count)


@pytest.mark.parametrize("shuffle", [False, True])
def test_signs_of_rare_features_have_the_variance_of_drawn_batches(shuffle):
    """The variance came out 7 times too large when a sign was never 0."""
    count, batch_size, draws = 2 * CHUNK + 88, 8, 40_000
    features, targets = _rare(count)
    data = tuple(jnp.asarray(a, jnp.float32) for a in (features, targets))
    problem = js.Problem.from_data(lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2, data, batch_size=batch_size, shuffle=shuffle)
    w = jnp.zeros(21)
    g, noise = problem.gradient(w), problem.noise
    each = -features * targets[:, None]
    rng = np.random.default_rng(1)
    if shuffle:
        drawn = np.stack([rng.permutation(count)[:batch_size] for _ in range(draws)])
    else:
        drawn = rng.integers(0, count, (draws, batch_size))
    signs = np.sign(each[drawn].sum(axis=1))
    nonzero = np.abs(signs).mean(axis=0)
    stderr = np.sqrt(nonzero * (1 - nonzero) / draws)
    assert np.all(np.abs(np.asarray(noise.prob_nonzero(g, w)) - nonzero) <= 5.5 * stderr)
    claimed = np.asarray(noise.signs(g, w).sqrt_covariance(jnp.ones(21))) ** 2
    # What the normal law gets wrong is the mean, of which the variance holds the square alone.
    assert np.all(np.abs(claimed - signs.var(axis=0)) <= 5.5 * stderr + 0.06 * nonzero)
    assert claimed[20] == 0 and noise.prob_negative(g, w)[20] == 0
    # The docstring says by how much: more than half of the size of the means.
    off = np.asarray(noise.mean_sign(g, w)) - signs.mean(axis=0)
    assert 0.4 < np.sqrt(np.mean(off[:20] ** 2) / np.mean(signs.mean(axis=0)[:20] ** 2)) < 0.8


def test_signs_of_drawn_batches_count_their_zeros():
    rows = np.where(np.random.default_rng(0).random((40, 3)) < 0.1, 1.0, 0.0)
    noise = js.Problem.from_data(_linear, jnp.asarray(rows), batch_size=3, sign_batches=200).noise
    drawn = np.asarray(jax.vmap(noise.draw)(jax.random.split(jax.random.key(0), 200)))
    signs = np.sign(rows[drawn].mean(axis=1))
    w = jnp.zeros(3)
    np.testing.assert_allclose(noise.prob_nonzero(w, w), np.abs(signs).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.diag(noise.sign_covariance(w, w)), signs.var(axis=0), atol=1e-6)


def test_a_subset_that_has_none_of_a_features_examples():
    """The feature is taken to be in half an example of the subset, and not in every batch or in none."""
    rows = np.zeros((100, 2))
    rows[:, 0], rows[1, 1] = np.linspace(-1, 2, 100), 100.0
    problem = js.Problem.from_data(_linear, jnp.asarray(rows), batch_size=4, covariance_examples=10)
    w = jnp.zeros(2)
    signs = problem.noise.signs(problem.gradient(w), w)
    q = 1 - (1 - 1 / 20) ** 4
    assert signs.mean[1] == pytest.approx(q, rel=1e-5)
    assert float(signs.sqrt_covariance(jnp.ones(2))[1]) == pytest.approx(np.sqrt(q - q * q), rel=1e-5)


def test_blank_pixels_have_finite_derivatives():
    """The variance's root has none at 0."""
    problem = js.Problem.from_data(lambda w, row: 0.5 * (w @ row - 1) ** 2, jnp.asarray(ROWS), batch_size=2)
    drift = js.SignSGD(0.1).sde(problem).drift
    assert np.all(np.isfinite(jax.jacfwd(lambda w: drift(0.0, w))(jnp.zeros(3))))
    assert np.all(np.isfinite(jax.jacrev(lambda w: drift(0.0, w))(jnp.zeros(3))))


def test_the_lattice_law_of_a_chain_that_may_stand_still():
    """It is stationary under the moves up, down and none."""
    curvature = np.where(np.arange(30) % 10 == 0, 1.0, 0.0)
    slope = np.where(curvature > 0, np.array([-1.0, 0.5, 1.5]).repeat(10), 0.0)
    loss = lambda w, e: jnp.sum(0.5 * e[0] * w * w - e[1] * w)
    problem = js.Problem.from_data(loss, (jnp.asarray(curvature), jnp.asarray(slope)), batch_size=4)
    law = js.theory.birth_death(js.SignSGD(0.1), problem, offset=0.03)
    x = law.points
    each = curvature[:, None] * x - slope[:, None]
    q = 1 - np.mean(each == 0, axis=0) ** 4
    center, square = each.mean(axis=0) / q, (each.var(axis=0) / 4 + each.mean(axis=0) ** 2) / q
    up = q * scipy.stats.norm.cdf(-center / np.sqrt(square - center**2))
    down = q - up
    moved = law.probabilities * (1 - q)
    moved[1:] += (law.probabilities * up)[:-1]
    moved[:-1] += (law.probabilities * down)[1:]
    assert np.max(np.abs(1 - q)) > 0.5
    np.testing.assert_allclose(moved, law.probabilities, atol=1e-7)


LAWS = {
    "gaussian": (lambda s: js.Gaussian(s), scipy.stats.norm()),
    "student-1": (lambda s: js.StudentT(1.0, s), scipy.stats.t(1)),
    "student-2": (lambda s: js.StudentT(2.0, s), scipy.stats.t(2)),
    "student-2.5": (lambda s: js.StudentT(2.5, s), scipy.stats.t(2.5)),
    "student-0.3": (lambda s: js.StudentT(0.3, s), scipy.stats.t(0.3)),
    "student-3": (lambda s: js.StudentT(3.0, s), scipy.stats.t(3)),
    "student-4": (lambda s: js.StudentT(4.0, s), scipy.stats.t(4)),
    "student-80": (lambda s: js.StudentT(80.0, s), scipy.stats.t(80)),
    "laplace": (lambda s: js.Laplace(s), scipy.stats.laplace()),
    "uniform": (lambda s: js.Uniform(s), scipy.stats.uniform(-1, 2)),
    "stable-0.7": (lambda s: js.AlphaStable(0.7, s), scipy.stats.levy_stable(0.7, 0)),
    "stable-1": (lambda s: js.AlphaStable(1.0, s), scipy.stats.cauchy()),
    "stable-1.5": (lambda s: js.AlphaStable(1.5, s), scipy.stats.levy_stable(1.5, 0)),
    "stable-2": (lambda s: js.AlphaStable(2.0, s), scipy.stats.norm(scale=np.sqrt(2))),
}
RATIOS = np.array([0.0, 1e-30, 1e-3, 0.3, 0.99, 3.0, 50.0])


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("build, law", LAWS.values(), ids=LAWS)
def test_mean_signs_have_twice_the_density_for_derivative(build, law, double):
    scale = 0.7
    with jax.enable_x64(double):
        noise, g = build(scale), jnp.asarray(scale * RATIOS)
        mean = lambda g: noise.mean_sign(g, jnp.zeros_like(g))
        exact = 2 * law.pdf(RATIOS) / scale
        assert float(noise.slope) / scale == pytest.approx(exact[0], rel=1e-6)
        found = {
            "forward": jax.jvp(mean, (g,), (jnp.ones_like(g),))[1],
            "jacobian": jnp.diagonal(jax.jacfwd(mean)(g)),
            "reverse": jnp.diagonal(jax.jacrev(mean)(g)),
            "each": jax.jit(jax.vmap(jax.grad(mean)))(g),
        }
        # Stable densities are interpolated, those of SciPy integrals.
        rtol = 3e-5 if not double or isinstance(noise, js.AlphaStable) else 1e-9
        for name, derivative in found.items():
            assert derivative.dtype == g.dtype
            np.testing.assert_allclose(derivative, exact, rtol=rtol, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("build, law", LAWS.values(), ids=LAWS)
def test_derivatives_against_finite_differences(build, law):
    """By the gradient and by the scale. Stable laws are straight between the places of a table."""
    with jax.enable_x64(True):
        step, atol = (1e-3, 3e-4) if isinstance(build(1.0), js.AlphaStable) else (1e-5, 1e-5)
        point = jnp.array([0.0, 1e-3, 0.1, 0.5, 2.0]), jnp.ones(5)
        mean = lambda g, s: build(s).mean_sign(g, jnp.zeros_like(g))
        for which in range(2):
            along = tuple(jnp.full(5, float(i == which)) for i in range(2))
            ahead, behind = (mean(*(p + h * v for p, v in zip(point, along, strict=True))) for h in (step, -step))
            np.testing.assert_allclose(jax.jvp(mean, point, along)[1], (ahead - behind) / (2 * step), atol=atol)


@pytest.mark.parametrize("build, law", LAWS.values(), ids=LAWS)
def test_the_sdes_drift_is_linearised_rightly_at_the_minimum(build, law):
    problem = js.Problem(js.Quadratic([1.0, 3.0]), build(0.7))
    drift = js.SignSGD(0.1).sde(problem).drift
    flow = jax.jit(jax.jacfwd(lambda x: drift(0.0, x)))(jnp.zeros(2))
    np.testing.assert_allclose(flow, np.diag([-1.0, -3.0]) * float(problem.noise.slope) / 0.7, rtol=1e-5)


def test_degrees_of_freedom_that_are_traced():
    derivative = jax.jit(lambda df: jax.grad(lambda g: js.StudentT(df, 0.5).mean_sign(g, jnp.zeros(())))(jnp.zeros(())))
    for df in (1.0, 2.7):
        assert float(derivative(df)) == pytest.approx(4 * scipy.stats.t(df).pdf(0), rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_derivatives_by_a_scale_of_nearly_nothing_are_those_of_certain_signs(scale):
    for build in (js.Gaussian, js.Laplace, lambda s: js.StudentT(2.0, s)):
        mean = lambda s, g, build=build: build(s).mean_sign(g, jnp.zeros(()))
        by_scale, by_gradient = jax.grad(mean, argnums=(0, 1))(jnp.asarray(scale), jnp.asarray(1.0))
        assert abs(by_scale) < 1e-6 and abs(by_gradient) < 1e-6


@pytest.mark.parametrize("alpha", [0.98, 0.999, 1.0001, 1.01])
def test_stable_laws_next_to_cauchys(alpha):
    """Where the power in Zolotarev's integral tends to infinity."""
    x = np.array([1e-3, 0.05, 0.3, 1.0, 3.0])
    wave = lambda t, at: np.sin(at * t) / t * np.exp(-(t**alpha))
    exact = [2 / np.pi * scipy.integrate.quad(wave, 0, 60, args=(at,), limit=500)[0] for at in x]
    found = js.AlphaStable(alpha, 1.0).mean_sign(jnp.asarray(x), jnp.zeros(5))
    np.testing.assert_allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize("df", [0.5, 5.0, 39.0, 41.0, 1e3, 1e5, 1e7])
def test_the_slope_of_student_noise_at_any_degrees_of_freedom(df):
    """For many of them it is that of normal noise, and no difference of large logarithms."""
    assert float(js.StudentT(df, 1.0).slope) == pytest.approx(2 * scipy.stats.t(df).pdf(0), rel=1e-6)


def test_a_batch_of_all_the_data_has_no_sign_where_its_gradient_is_0():
    problem = js.Problem.from_data(lambda w, row: w[0] * row, jnp.array([1.0, -1.0]), batch_size=2, shuffle=True)
    gradient, w = problem.gradient(jnp.zeros(1)), jnp.zeros(1)
    noise = problem.noise
    assert float(gradient[0]) == 0
    for law in (noise.prob_nonzero, noise.prob_negative, noise.mean_sign):
        assert float(law(gradient, w)[0]) == 0
    assert float(noise.signs(gradient, w).sqrt_covariance(jnp.ones(1))[0]) == 0
