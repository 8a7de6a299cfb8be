"""Closed forms against the formulas as published, SciPy, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import jaxsde as js

LAM, SIGMA, ETA, THETA = np.array([0.5, 2.0]), np.array([1.5, 0.7]), 0.01, 0.3
PROBLEM = js.Problem(js.Quadratic(LAM), js.Gaussian(jnp.asarray(SIGMA)))
RHO = (1 - 0.9) / ETA


def _sign_rates(slope=0.7978845608):  # sqrt(2 / pi)
    a = slope * LAM / SIGMA
    return a, ETA / 2 * slope**2 * LAM**2 / SIGMA**2


@pytest.mark.parametrize(
    ("opt", "variance"),
    [
        (js.SGD(ETA), ETA / 2 * SIGMA**2 / LAM),
        (js.SignSGD(ETA), ETA / 2 / sum(_sign_rates())),
        (js.RMSprop(ETA), ETA / 2 * SIGMA / LAM),
        (js.RMSpropW(ETA, weight_decay=THETA), ETA / 2 / (LAM / SIGMA + THETA)),
        (js.Adam(ETA, b1=0.9), ETA / 2 * SIGMA / LAM),
        (js.AdamW(ETA, b1=0.9, weight_decay=THETA), ETA / 2 / (LAM / SIGMA + THETA) * RHO / (RHO + THETA)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_stationary_laws(opt, variance):
    law = js.theory.stationary(opt, PROBLEM)
    np.testing.assert_allclose(law.covariance, np.diag(variance), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(law.mean, np.zeros(2), atol=1e-7)
    assert float(law.loss) == pytest.approx(0.5 * np.sum(LAM * variance), rel=1e-4)
    # The transient law tends to it.
    late = js.theory.moments(opt, PROBLEM, jnp.ones(2), jnp.array([200.0]))
    np.testing.assert_allclose(late.covariance[0], law.covariance, rtol=1e-3, atol=1e-9)


def test_lemma_3_7_along_the_way():
    ts, x0 = np.array([0.0, 0.7, 3.0]), np.array([0.4, -0.2])
    law = js.theory.moments(js.SignSGD(ETA), PROBLEM, jnp.asarray(x0), jnp.asarray(ts))
    a, b = _sign_rates()
    m = np.exp(-2 * np.outer(ts, a + b))
    variance = (m - np.exp(-2 * np.outer(ts, a))) * x0**2 + ETA / 2 / (a + b) * (1 - m)
    np.testing.assert_allclose(law.mean, np.exp(-np.outer(ts, a)) * x0, rtol=1e-4)
    np.testing.assert_allclose(np.diagonal(law.covariance, axis1=1, axis2=2), variance, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("df", [1.0, 2.5, 6.0])
def test_sign_sgd_under_student_noise_has_the_slope_of_the_t_law(df):
    slope = 2 * scipy.stats.t.pdf(0.0, df)
    problem = js.Problem(js.Quadratic(LAM), js.StudentT(df, jnp.asarray(SIGMA)))
    a, b = _sign_rates(slope)
    law = js.theory.stationary(js.SignSGD(ETA), problem)
    np.testing.assert_allclose(np.diag(law.covariance), ETA / 2 / (a + b), rtol=1e-3)


def test_adamw_of_coupled_coordinates():
    h, q, x0, t = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 0.5]]), np.array([1.0, -2.0]), 0.6
    opt = js.AdamW(ETA, b1=0.9, weight_decay=THETA)
    problem = js.Problem(js.Quadratic(h, minimum=jnp.array([0.3, 0.1])), js.Gaussian(covariance=q))
    p = np.diag(1 / np.sqrt(np.diag(q)))
    a = np.block([[THETA * np.eye(2), p], [-RHO * h, RHO * np.eye(2)]])
    noise = np.zeros((4, 4))
    noise[2:, 2:] = ETA * RHO**2 * q
    limit = scipy.linalg.solve_continuous_lyapunov(a, noise)
    pull = np.concatenate([np.zeros(2), -RHO * h @ [0.3, 0.1]])
    rest = np.linalg.solve(a, pull)
    law = js.theory.stationary(opt, problem)
    np.testing.assert_allclose(law.covariance, limit[:2, :2], rtol=1e-3)
    np.testing.assert_allclose(law.mean, rest[:2], rtol=1e-4)
    flow = scipy.linalg.expm(-a * t)
    start = np.concatenate([x0, h @ (x0 - [0.3, 0.1])])
    along = js.theory.moments(opt, problem, jnp.asarray(x0), jnp.array([t]))
    np.testing.assert_allclose(along.mean[0], (rest + flow @ (start - rest))[:2], rtol=1e-4)
    np.testing.assert_allclose(along.covariance[0], (limit - flow @ limit @ flow.T)[:2, :2], rtol=2e-3)


def test_a_diagonal_matrix_is_a_vector():
    opt, ts = js.Adam(ETA), jnp.array([0.5, 2.0])
    dense = js.Problem(js.Quadratic(jnp.diag(jnp.asarray(LAM))), PROBLEM.noise)
    one, other = (js.theory.moments(opt, problem, jnp.ones(2), ts) for problem in (PROBLEM, dense))
    np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-4, atol=1e-9)


def test_a_regression_is_its_quadratic():
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(50, 2)), rng.normal(size=50)
    problem = js.Problem(js.LinearRegression(features, targets), js.Gaussian(0.5))
    law = js.theory.stationary(js.SGD(ETA), problem)
    np.testing.assert_allclose(law.mean, np.linalg.lstsq(features, targets)[0], rtol=1e-3)
    limit = scipy.linalg.solve_continuous_lyapunov(features.T @ features / 50, ETA * 0.25 * np.eye(2))
    np.testing.assert_allclose(law.covariance, limit, rtol=1e-3, atol=1e-9)


def test_rates_and_floors_of_the_bounds():
    mu, smooth, trace, sigma = 0.5, 2.0, 2.5, 1.5
    kappa = np.sqrt(0.5) * scipy.stats.norm.cdf(np.sqrt(2)) * 2 - np.sqrt(0.5)  # erf(1) / sqrt 2
    cases = [
        (js.SGD(ETA), 2 * mu, trace * sigma**2),
        (js.SignSGD(ETA), 2 * mu * (kappa / sigma + ETA * mu * kappa**2 / sigma**2 / 2), trace),
        (js.AdamW(ETA, weight_decay=THETA), 2 * mu / sigma + THETA * (smooth + mu) / smooth, trace),
    ]
    for opt, rate, source in cases:
        bound = js.theory.loss_bound(opt, PROBLEM, jnp.full(2, 0.2), jnp.array([0.0, 1e3]))
        assert float(bound.rate) == pytest.approx(rate, rel=1e-4)
        assert float(bound.loss[0]) == pytest.approx(0.5 * 0.04 * trace, rel=1e-4)
        assert float(bound.loss[1]) == pytest.approx(ETA * source / 2 / rate, rel=1e-4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda: js.theory.stationary(js.SGD(ETA), js.Problem(js.EmbeddedSaddle(), js.Gaussian(1.0))),
            "Quadratic losses, got a EmbeddedSaddle",
        ),
        (
            lambda: js.theory.stationary(js.SGD(lambda k: 0.1, reference_rate=0.1), PROBLEM),
            "constant learning rate, not for a schedule",
        ),
        (
            lambda: js.theory.stationary(js.Adam(ETA), js.Problem(js.Quadratic(LAM), js.StudentT(2.0, 1.0))),
            "closed forms of Adam need noise of finite variance",
        ),
        (
            lambda: js.theory.moments(js.SGD(ETA), PROBLEM, jnp.ones(3), jnp.ones(1)),
            r"x0 must have shape \(2,\) like the Hessian, got \(3,\)",
        ),
        (lambda: js.theory.moments(js.SGD(ETA), PROBLEM, jnp.ones(2), -jnp.ones(1)), r"ts must lie in \[0, inf\), got \[-1.\]"),
        (
            lambda: js.theory.loss_bound(
                js.AdamW(ETA), js.Problem(js.Quadratic(LAM, minimum=1.0), PROBLEM.noise), jnp.ones(2), jnp.ones(1)
            ),
            "assumes the minimum at 0",
        ),
    ],
)
def test_a_failing_assumption_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


@pytest.mark.parametrize("form", ["moments", "stationary"])
@pytest.mark.parametrize(
    ("opt", "limit"),
    [
        (js.SGD, 2 / 4.0),
        (lambda rate: js.RMSprop(rate, 0.99), 2 * 0.5 / 4.0),
        (lambda rate: js.RMSpropW(rate, 0.99, weight_decay=1.0), 2 / (4.0 / 0.5 + 1.0)),
        # Of x and m: the characteristic polynomial is -1 - b1 + ... at z = -1, zero where eta h / s = 2 (1 + b1) / (1 - b1).
        (lambda rate: js.Adam(rate, 0.5, 0.99), 2 * 1.5 / 0.5 * 0.5 / 4.0),
        (js.SignSGD, 0.5 / (np.sqrt(2 / np.pi) * 4.0)),
    ],
    ids=["sgd", "rmsprop", "rmspropw", "adam", "sign_sgd"],
)
def test_closed_forms_end_at_the_optimizers_own_limit(opt, limit, form):
    """Beyond it the optimizer diverges, or outruns its noise, while the SDE's formula goes on with a small variance."""
    problem = js.Problem(js.Quadratic([1.0, 4.0]), js.Gaussian(0.5))
    more = (jnp.ones(2), jnp.ones(1)) if form == "moments" else ()
    assert np.isfinite(getattr(js.theory, form)(opt(0.98 * limit), problem, *more).covariance).all()
    with pytest.raises(ValueError, match="learning_rate .* is past the limit of"):
        getattr(js.theory, form)(opt(1.02 * limit), problem, *more)
    if form == "moments":  # a saddle is no matter of the learning rate
        saddle = js.Problem(js.Quadratic([-1.0, 4.0]), js.Gaussian(0.5))
        assert np.isfinite(js.theory.moments(opt(0.9 * limit), saddle, *more).covariance).all()


def test_the_limit_is_where_the_optimizer_diverges():
    problem = js.Problem(js.Quadratic([4.0]), js.Gaussian(0.5))
    run = dict(steps=300, seeds=50, key=jax.random.key(0), progress=False)
    below, above = (js.simulate(js.SGD(rate).chain(problem), jnp.zeros(1), **run)["x"].variance for rate in (0.49, 0.51))
    assert below[-1, 0] < 10 and above[-1, 0] > 100


@pytest.mark.parametrize("form", ["schedule_moments", "schedule_loss_bound", "loss_bound"])
def test_bounds_and_schedules_end_there_too(form):
    problem = js.Problem(js.Quadratic([4.0]), js.Gaussian(0.5))
    for peak in (0.4, 0.6):
        opt = js.SGD(peak) if form == "loss_bound" else js.SGD(lambda k, peak=peak: peak / (1 + k), reference_rate=0.1)
        if peak < 0.5:
            assert np.isfinite(getattr(js.theory, form)(opt, problem, jnp.ones(1), jnp.array([1.0])).loss).all()
            continue
        with pytest.raises(ValueError, match="past the limit of SGD"):
            getattr(js.theory, form)(opt, problem, jnp.ones(1), jnp.array([1.0]))
