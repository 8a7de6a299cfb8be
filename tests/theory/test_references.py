"""Exact references against SciPy, brute force, and the published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.linalg
import scipy.special
import scipy.stats

import jaxsde as js
from jaxsde.theory import discrete_moments, discrete_stationary
from jaxsde.theory._closed_forms import (
    lemma_3_7,
    lemma_3_8,
    lemma_c52,
    lemma_c57,
    rmspropw_transient,
    stationary_loss_adam_l2,
    stationary_loss_adamw,
    stationary_loss_sgdw,
)
from jaxsde.theory._linear import LinearRecursion
from jaxsde.theory._references import birth_death, density

ETA, THETA, EPS, B1 = 0.05, 0.3, 0.1, 0.8
H = np.array([[2.0, 0.7, -0.3], [0.7, 1.0, 0.2], [-0.3, 0.2, 0.6]])
Q = np.array([[1.0, -0.4, 0.3], [-0.4, 0.5, 0.1], [0.3, 0.1, 0.8]])
LOW = np.array([0.3, 0.1, -0.2])
X0 = np.array([1.0, -2.0, 0.5])
COUPLED = js.Problem(js.Quadratic(H, minimum=jnp.asarray(LOW)), js.Gaussian(covariance=Q))
SLOPE = np.sqrt(2 / np.pi)
D = np.sqrt(np.diag(Q))
INDEPENDENT = js.Problem(js.Quadratic(H, minimum=jnp.asarray(LOW)), js.Gaussian(jnp.asarray(D)))


def _line(noise, loss=None):
    return js.Problem(js.Quadratic([1.0]) if loss is None else loss, noise)


# One dimension.


@pytest.mark.parametrize(("eta", "chain", "sde"), [(0.1, 6.465e-2, 6.208e-2), (0.01, 6.2862e-3, 6.2611e-3)])
def test_sign_sgd_on_a_line(eta, chain, sde):
    opt, problem = js.SignSGD(eta), _line(js.Gaussian(1.0))
    assert birth_death(opt, problem).variance == pytest.approx(chain, rel=1e-4)
    assert density(opt.sde(problem)).variance == pytest.approx(sde, rel=1e-4)


@pytest.mark.parametrize("df", [None, 2.5])
def test_the_lattice_law_is_the_eigenvector_of_the_transition_matrix(df):
    eta, offset, scale, low = 0.3, 0.1, 0.6, 5.0
    noise = js.Gaussian(scale) if df is None else js.StudentT(df, scale)
    law = birth_death(js.SignSGD(eta), _line(noise, js.Quadratic([2.0], minimum=low)), offset=offset)
    points = offset + eta * np.arange(-40, 80)
    tail = (scipy.stats.norm if df is None else scipy.stats.t(df)).cdf(-2.0 * (points - low) / scale)
    step = np.diag(tail[:-1], 1) + np.diag(1 - tail[1:], -1)
    step[0, 0], step[-1, -1] = 1 - tail[0], tail[-1]
    system = np.vstack([step.T - np.eye(len(points)), np.ones(len(points))])
    expected = np.linalg.lstsq(system, np.append(np.zeros(len(points)), 1.0), rcond=None)[0]
    got = np.interp(points, law.points, law.probabilities)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert law.mean == pytest.approx(np.sum(points * expected), rel=1e-6)
    assert law.expectation(np.ones_like) == pytest.approx(1.0)


def test_without_an_offset_all_lattices_are_averaged():
    opt, problem = js.SignSGD(1.0), _line(js.Gaussian(0.1))
    each = [birth_death(opt, problem, offset=u).variance for u in (np.arange(8) + 0.5) / 8]
    assert np.ptp(each) > 0.1
    # Far below the step's scale, the law is the two points on both sides of the minimum, each half the time.
    assert birth_death(opt, _line(js.Gaussian(1e-3))).variance == pytest.approx(1 / 4 + 1 / 12, rel=2e-3)


def test_a_density_has_the_moments_of_a_quadrature_of_its_own():
    eta, df, scale = 0.2, 2.5, 0.7
    sde = js.SignSGD(eta).sde(_line(js.StudentT(df, scale), js.EmbeddedSaddle(hessian=jnp.array([-1.0]))))
    law = density(sde)

    nodes = np.linspace(-2.2, 2.2, 10_001)
    sign = 2 * scipy.stats.t.cdf((-nodes + nodes**3 - 0.1 * nodes**2) / scale, df) - 1
    slope = -sign / (eta / 2 * (1 - sign**2))
    log = scipy.integrate.cumulative_simpson(slope, x=nodes, initial=0) - np.log(1 - sign**2)
    values = np.exp(log - log.max())
    values /= values.sum()
    assert law.mean == pytest.approx(np.sum(values * nodes), rel=1e-5)
    assert law.variance == pytest.approx(np.sum(values * nodes**2) - np.sum(values * nodes) ** 2, rel=1e-5)
    assert law.expectation(np.cos) == pytest.approx(np.sum(values * np.cos(nodes)), rel=1e-5)


def test_sgds_density_is_normal_wherever_it_lies():
    eta, h, sigma, low = 1e-3, 4.0, 0.5, 123.0
    law = density(js.SGD(eta).sde(_line(js.Gaussian(sigma), js.Quadratic([h], minimum=low))))
    normal = scipy.stats.norm(low, np.sqrt(eta * sigma**2 / (2 * h)))
    assert law.mean == pytest.approx(low, abs=1e-6)
    assert law.variance == pytest.approx(normal.var(), rel=1e-6)
    np.testing.assert_allclose(law.values, normal.pdf(law.points), rtol=1e-3, atol=1e-6 * law.values.max())
    q = np.array([0.001, 0.3, 0.9])
    np.testing.assert_allclose(law.quantile(q), normal.ppf(q), atol=1e-5 * normal.std())
    np.testing.assert_allclose(law.cdf(law.quantile(q)), q, rtol=1e-6)


def test_any_callable_of_a_scalar_is_a_loss():
    # Density exp(-2 f / (eta sigma^2)) with f = x^4 / 4.
    law = density(js.SGD(0.5).sde(_line(js.Gaussian(2.0), lambda x: x**4 / 4)))
    expected = np.sqrt(0.5 * 4 / 2 * 4) * scipy.special.gamma(3 / 4) / scipy.special.gamma(1 / 4)
    assert law.variance == pytest.approx(expected, rel=1e-7)


# Chains on quadratics.


def test_a_recursion_by_squaring_is_the_recursion_step_by_step():
    rng = np.random.default_rng(0)
    a, c, root = rng.normal(size=(2, 3, 3)) / 3, rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 3))
    recursion, z0 = LinearRecursion(a, c, root @ root.swapaxes(1, 2)), rng.normal(size=(2, 3))
    means, covariances = recursion.transient(z0, np.array([5, 0, 12, 1]))
    for i, k in enumerate([5, 0, 12, 1]):
        mean, covariance = z0, np.zeros((2, 3, 3))
        for _ in range(k):
            mean = np.einsum("sij,sj->si", a, mean) + c
            covariance = a @ covariance @ a.swapaxes(1, 2) + recursion.noise
        np.testing.assert_allclose(means[i], mean, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(covariances[i], covariance, rtol=1e-10, atol=1e-12)
    recursion.check_stable()
    mean, covariance = recursion.stationary()
    for s in range(2):
        np.testing.assert_allclose(covariance[s], scipy.linalg.solve_discrete_lyapunov(a[s], recursion.noise[s]), rtol=1e-9)
        np.testing.assert_allclose(mean[s], np.linalg.solve(np.eye(3) - a[s], c[s]), rtol=1e-9)
    with pytest.raises(ValueError, match="no stationary law: one step of the linear recursion multiplies a direction by 1"):
        LinearRecursion(np.eye(1), np.zeros(1), np.eye(1)).check_stable()


def _direction(opt):
    """The optimizer with V held at the variance of the noise, as an Optax transform."""
    p = jnp.asarray(1 / (D + EPS))
    if isinstance(opt, js.SGD):
        return optax.sgd(ETA)
    scaled = optax.stateless(lambda updates, params: p * updates)
    average = optax.ema(B1, debias=True) if isinstance(opt, (js.Adam, js.AdamW)) else optax.identity()
    decay = optax.add_decayed_weights(THETA) if isinstance(opt, (js.RMSpropW, js.AdamW)) else optax.identity()
    return optax.chain(average, scaled, decay, optax.scale(-ETA))


OPTIMIZERS = [
    js.SGD(ETA),
    js.RMSpropW(ETA, eps=EPS, weight_decay=THETA),
    js.AdamW(ETA, b1=B1, eps=EPS, weight_decay=THETA),
]
WITHOUT_DECAY = [js.RMSprop(ETA, eps=EPS), js.Adam(ETA, b1=B1, eps=EPS)]


@pytest.mark.parametrize("opt", OPTIMIZERS + WITHOUT_DECAY, ids=lambda opt: type(opt).__name__)
def test_moments_of_a_chain_are_those_of_its_unrolled_steps(opt):
    # The parameters are a linear function of all noise: its Jacobian gives the exact covariance.
    transform, steps = _direction(opt), 7

    def unrolled(noise):
        def step(carry, z):
            x, state = carry
            updates, state = transform.update(jnp.asarray(H) @ (x - LOW) + z, state, x)
            return (x + updates, state), x + updates

        x0 = jnp.asarray(X0, float)
        return jax.lax.scan(step, (x0, transform.init(x0)), noise)[1]

    silence = jnp.zeros((steps, 3))
    mean, jacobian = np.asarray(unrolled(silence)), np.asarray(jax.jacfwd(unrolled)(silence), float)
    covariance = np.einsum("kilm,mn,kjln->kij", jacobian, Q, jacobian)
    law = discrete_moments(opt, COUPLED, X0, [7, 1, 4, 0])
    np.testing.assert_allclose(law.mean[:3], mean[[6, 0, 3]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(law.covariance[:3], covariance[[6, 0, 3]], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(law.mean[3], X0, rtol=1e-6)
    assert law.mean.dtype == jnp.result_type(float)


def _step_matrix(opt):
    """The step of (x, m), or of x, as matrix and noise factor, and the SDE's drift matrix and noise factor."""
    p, one, none = np.diag(1 / (D + EPS)), np.eye(3), np.zeros((3, 3))
    theta = THETA if isinstance(opt, (js.RMSpropW, js.AdamW)) else 0.0
    if isinstance(opt, js.SGD):
        return one - ETA * H, ETA * one, H, np.sqrt(ETA) * one
    if isinstance(opt, (js.RMSprop, js.RMSpropW)):
        drift = p @ H + theta * one
        return one - ETA * drift, ETA * p, drift, np.sqrt(ETA) * p
    new, rho = 1 - B1, (1 - B1) / ETA
    chain = np.block([[(1 - ETA * theta) * one - ETA * new * p @ H, -ETA * B1 * p], [new * H, B1 * one]])
    drift = np.block([[theta * one, p], [-rho * H, rho * one]])
    return chain, np.vstack([-ETA * new * p, new * one]), drift, np.vstack([none, np.sqrt(ETA) * rho * one])


@pytest.mark.parametrize("opt", OPTIMIZERS, ids=lambda opt: type(opt).__name__)
def test_stationary_covariances_solve_lyapunov_equations(opt):
    chain, kick, drift, spread = _step_matrix(opt)
    discrete = scipy.linalg.solve_discrete_lyapunov(chain, kick @ Q @ kick.T)[:3, :3]
    continuous = scipy.linalg.solve_continuous_lyapunov(drift, spread @ Q @ spread.T)[:3, :3]
    for law, expected in ((discrete_stationary(opt, COUPLED), discrete), (js.theory.stationary(opt, COUPLED), continuous)):
        np.testing.assert_allclose(law.covariance, expected, rtol=1e-4, atol=1e-7)
        away = np.asarray(law.mean) - LOW
        assert float(law.loss) == pytest.approx(0.5 * (np.trace(H @ expected) + away @ H @ away), rel=1e-4)
    late = discrete_moments(opt, COUPLED, X0, [20_000])
    np.testing.assert_allclose(late.covariance[0], discrete, rtol=1e-4, atol=1e-7)
    mean = discrete_stationary(opt, COUPLED).mean
    np.testing.assert_allclose(late.mean[0], mean, rtol=1e-4)


@pytest.mark.parametrize("opt", OPTIMIZERS, ids=lambda opt: type(opt).__name__)
def test_along_the_way_the_sde_has_the_flow_of_its_matrix(opt):
    _, _, drift, spread = _step_matrix(opt)
    t, n = 0.6, len(drift)
    pull = np.zeros(n)
    pull[-3:] = (drift[-3:, :3] @ LOW) if n == 6 else (1 / (D + EPS) if not isinstance(opt, js.SGD) else 1.0) * (H @ LOW)
    rest, limit = np.linalg.solve(drift, pull), scipy.linalg.solve_continuous_lyapunov(drift, spread @ Q @ spread.T)
    flow = scipy.linalg.expm(-drift * t)
    start = np.concatenate([X0, H @ (X0 - LOW)])[:n]
    law = js.theory.moments(opt, COUPLED, X0, [t])
    np.testing.assert_allclose(law.mean[0], (rest + flow @ (start - rest))[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(law.covariance[0], (limit - flow @ limit @ flow.T)[:3, :3], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("opt", "limit", "along", "when"),
    [
        (OPTIMIZERS[-1], discrete_stationary, discrete_moments, [0, 3, 40]),
        (js.SignSGD(ETA), discrete_stationary, discrete_moments, [0, 3, 40]),
        (js.SignSGD(ETA), js.theory.stationary, js.theory.moments, [0.0, 0.3, 4.0]),
    ],
)
def test_decoupled_coordinates_are_a_diagonal_matrix(opt, limit, along, when):
    h, noise = jnp.array([0.5, 2.0]), js.Gaussian(jnp.array([1.5, 0.7]))
    vector, matrix = (js.Problem(js.Quadratic(a), noise) for a in (h, jnp.diag(h)))
    np.testing.assert_allclose(limit(opt, vector).covariance, limit(opt, matrix).covariance, rtol=1e-4, atol=1e-9)
    one, other = (along(opt, problem, jnp.array([0.2, -0.1]), when) for problem in (vector, matrix))
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-3, atol=1e-7)


# SignSGD on coupled quadratics.

DRIFT = SLOPE * H / D[:, None]


def _by_vec(step, constant, start, k):
    """`k` steps of the affine recursion of a 3x3 matrix by `step`, and where it rests, by its matrix over the entries."""
    matrix = np.stack([step(e.reshape(3, 3)).ravel() for e in np.eye(9)], axis=1)
    rest = np.linalg.solve(np.eye(9) - matrix, constant.ravel())
    return (rest + np.linalg.matrix_power(matrix, k) @ (start.ravel() - rest)).reshape(3, 3), rest.reshape(3, 3)


def test_sign_sgd_with_independent_noise_keeps_the_term_of_second_order():
    x0, k, flow = LOW + np.array([0.1, -0.05, 0.02]), 30, np.eye(3) - ETA * DRIFT
    offset = x0 - LOW
    start = np.outer(offset, offset)

    def step(n):
        return flow @ n @ flow.T - ETA**2 * np.diag(np.diag(DRIFT @ n @ DRIFT.T))

    second, rest = _by_vec(step, ETA**2 * np.eye(3), start, k)
    away = np.linalg.matrix_power(flow, k) @ offset
    law = discrete_moments(js.SignSGD(ETA), INDEPENDENT, x0, [0, k])
    np.testing.assert_allclose(law.mean[1] - LOW, away, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(law.covariance[1], second - np.outer(away, away), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(discrete_stationary(js.SignSGD(ETA), INDEPENDENT).covariance, rest, rtol=1e-5)

    def generator(n):
        return -DRIFT @ n - n @ DRIFT.T - ETA * np.diag(np.diag(DRIFT @ n @ DRIFT.T))

    matrix = np.stack([generator(e.reshape(3, 3)).ravel() for e in np.eye(9)], axis=1)
    rest = np.linalg.solve(-matrix, ETA * np.eye(3).ravel())
    t = 1.5
    second = (rest + scipy.linalg.expm(matrix * t) @ (start.ravel() - rest)).reshape(3, 3)
    away = scipy.linalg.expm(-DRIFT * t) @ offset
    law = js.theory.moments(js.SignSGD(ETA), INDEPENDENT, x0, [t, 0.0, 200.0])
    np.testing.assert_allclose(law.mean[0] - LOW, away, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(law.covariance[1], np.zeros((3, 3)), atol=1e-9)
    np.testing.assert_allclose(law.covariance[0], second - np.outer(away, away), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(law.covariance[2], rest.reshape(3, 3), rtol=1e-4)
    np.testing.assert_allclose(js.theory.stationary(js.SignSGD(ETA), INDEPENDENT).covariance, rest.reshape(3, 3), rtol=1e-4)


def test_sign_sgd_with_correlated_noise_has_correlated_signs():
    signs = np.eye(3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        # E sign sign = 4 P(both negative) - 1 for a centred pair.
        pair = scipy.stats.multivariate_normal(np.zeros(2), Q[np.ix_([i, j], [i, j])])
        signs[i, j] = signs[j, i] = 4 * pair.cdf(np.zeros(2)) - 1
    flow = np.eye(3) - ETA * DRIFT
    continuous = scipy.linalg.solve_continuous_lyapunov(DRIFT, ETA * signs)
    discrete = scipy.linalg.solve_discrete_lyapunov(flow, ETA**2 * signs)
    opt = js.SignSGD(ETA)
    np.testing.assert_allclose(js.theory.stationary(opt, COUPLED).covariance, continuous, rtol=1e-4)
    np.testing.assert_allclose(discrete_stationary(opt, COUPLED).covariance, discrete, rtol=1e-4)
    decay = scipy.linalg.expm(-DRIFT * 1.5)
    law = js.theory.moments(opt, COUPLED, X0, [1.5])
    np.testing.assert_allclose(law.mean[0], LOW + decay @ (X0 - LOW), rtol=1e-4)
    np.testing.assert_allclose(law.covariance[0], continuous - decay @ continuous @ decay.T, rtol=1e-4)
    law = discrete_moments(opt, COUPLED, X0, [30])
    decay = np.linalg.matrix_power(flow, 30)
    np.testing.assert_allclose(law.mean[0], LOW + decay @ (X0 - LOW), rtol=1e-4)
    np.testing.assert_allclose(law.covariance[0], discrete - decay @ discrete @ decay.T, rtol=1e-4)


@pytest.mark.parametrize("problem", [INDEPENDENT, COUPLED], ids=["independent", "correlated"])
def test_the_linearised_signs_have_the_moments_of_the_signs(problem):
    rng, eta, seeds, steps = np.random.default_rng(1), 0.01, 20_000, 100
    start = LOW + np.array([0.05, -0.05, 0.02])
    x, root = np.tile(start, (seeds, 1)), np.linalg.cholesky(np.asarray(problem.noise.covariance(jnp.zeros(3)), float))
    for _ in range(steps):
        x = x - eta * np.sign((x - LOW) @ H + rng.standard_normal(x.shape) @ root.T)
    law = discrete_moments(js.SignSGD(eta), problem, start, [steps])
    variance = np.diag(law.covariance[0])
    assert np.all(np.abs(x.mean(axis=0) - law.mean[0]) < 5 * np.sqrt(variance / seeds) + 2e-4)
    # The linear mean sign is too large by a share of a sixth of the squared gradient over the noise's scale.
    error = np.sqrt((np.outer(variance, variance) + np.asarray(law.covariance[0]) ** 2) / seeds)
    bias = 0.015 * np.sqrt(np.outer(variance, variance))
    assert np.all(np.abs(np.cov(x.T) - law.covariance[0]) < 5 * error + bias)


def test_the_linearised_chain_is_the_chain_for_small_steps():
    law = discrete_stationary(js.SignSGD(0.01), _line(js.Gaussian(1.0)))
    assert float(law.covariance[0, 0]) == pytest.approx(0.01 / 2 / SLOPE, rel=1e-5)
    assert float(law.covariance[0, 0]) == pytest.approx(
        birth_death(js.SignSGD(0.01), _line(js.Gaussian(1.0))).variance, rel=6e-3
    )


# The published formulas.


def test_published_formulas_are_what_the_general_ones_give():
    lam, sigma, x0, ts, eta = np.array([0.5, 2.0]), np.array([1.5, 0.7]), np.array([0.4, -0.2]), np.array([0.0, 0.7, 3.0]), 0.01
    problem = js.Problem(js.Quadratic(lam), js.Gaussian(jnp.asarray(sigma)))
    cases = [
        (lemma_3_7(x0, lam, sigma, eta, ts), js.SignSGD(eta)),
        (lemma_3_8(x0, lam, sigma, eta, ts), js.SGD(eta)),
        (rmspropw_transient(x0, lam, sigma, eta, THETA, ts), js.RMSpropW(eta, weight_decay=THETA)),
    ]
    for published, opt in cases:
        law = js.theory.moments(opt, problem, x0, ts)
        np.testing.assert_allclose(published.mean, law.mean, rtol=1e-4)
        np.testing.assert_allclose(published.variance, np.diagonal(law.covariance, axis1=1, axis2=2), rtol=1e-3, atol=1e-8)
    adam, adamw = js.Adam(eta), js.AdamW(eta, b1=0.99, weight_decay=THETA)
    rho = 0.01 / eta
    np.testing.assert_allclose(lemma_c52(lam, sigma, eta), np.diag(js.theory.stationary(adam, problem).covariance), rtol=1e-4)
    law = js.theory.stationary(adamw, problem)
    lacking = rho / (rho + THETA)
    np.testing.assert_allclose(lacking * lemma_c57(lam, sigma, eta, THETA), np.diag(law.covariance), rtol=1e-4)
    assert lacking * float(stationary_loss_adamw(lam, sigma, eta, THETA)) == pytest.approx(float(law.loss), rel=1e-4)
    np.testing.assert_allclose(lemma_c57([0.0], [1.0], eta, THETA), eta / 2 / THETA, rtol=1e-6)


def test_losses_with_a_coupled_penalty_solve_lyapunov_equations():
    lam, sigma, eta, rho = np.array([0.5, 2.0]), np.array([1.5, 0.7]), 0.01, 10.0
    adam = sgd = 0.0
    for h, s in zip(lam, sigma, strict=True):
        drift = np.array([[0.0, 1 / s], [-rho * (h + THETA), rho]])
        adam += 0.5 * h * scipy.linalg.solve_continuous_lyapunov(drift, np.diag([0.0, eta * rho**2 * s**2]))[0, 0]
        sgd += 0.5 * h * eta * s**2 / 2 / (h + THETA)
    assert float(stationary_loss_adam_l2(lam, sigma, eta, THETA)) == pytest.approx(adam, rel=1e-5)
    assert float(stationary_loss_sgdw(lam, sigma, eta, THETA)) == pytest.approx(sgd, rel=1e-5)


FLAT = js.Problem(js.Quadratic(np.diag([1.0, 0.0])), js.Gaussian(1.0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda: birth_death(js.SignSGD(0.1), _line(js.Gaussian(1.0), js.Quadratic([-1.0]))),
            "no stationary law: the drift, -1 at",
        ),
        (
            lambda: birth_death(js.SignSGD(0.1), js.Problem(js.Quadratic([1.0, 1.0]), js.Gaussian(1.0))),
            "must be one-dimensional",
        ),
        (
            lambda: birth_death(js.SignSGD(lambda k: 0.1, reference_rate=0.1), _line(js.Gaussian(1.0))),
            "constant learning rate, not a schedule",
        ),
        (
            lambda: density(js.SGD(0.1).sde(_line(js.Gaussian(1.0), lambda x: -jnp.exp(-(x**2))))),
            "no stationary law: the drift, 0 at",
        ),
        (lambda: density(js.SGD(0.1).sde(_line(js.Gaussian(1.0), lambda x: 0.02 * jnp.log1p(x**2)))), "cannot be normalised"),
        (lambda: density(js.SGD(0.1).sde(_line(js.Gaussian(0.0)))), "the noise vanishes at"),
        (lambda: density(js.SGD(0.1).sde(_line(js.Gaussian(1.0)), model="ode")), "an ODE has no stationary density"),
        (lambda: density(js.RMSprop(0.1).sde(_line(js.Gaussian(1.0)))), "got the state RMSpropState"),
        (
            lambda: density(js.SGD(optax.cosine_decay_schedule(0.1, 100), reference_rate=0.1).sde(_line(js.Gaussian(1.0)))),
            "constant learning rate, not a schedule",
        ),
        (
            lambda: discrete_stationary(js.SGD(1.1), js.Problem(js.Quadratic([2.0]), js.Gaussian(1.0))),
            "multiplies a direction by 1.2 in size",
        ),
        (lambda: discrete_stationary(js.SignSGD(0.1), FLAT), "multiplies a direction by 1 in size"),
        (lambda: js.theory.stationary(js.SignSGD(0.1), FLAT), "contracts at the rate 0"),
        (lambda: js.theory.stationary(js.SignSGD(0.1), _line(js.Gaussian(0.0))), "need noise in every coordinate"),
        (lambda: discrete_moments(js.SGD(0.1), FLAT, jnp.ones(2), [-1]), r"steps must lie in \[0, inf\), got \[-1\]"),
        (
            lambda: lemma_3_7(np.ones(2), np.ones(2), np.ones(3), 0.1, np.ones(1)),
            r"scale must be a number or have shape \(2,\)",
        ),
        (lambda: lemma_c57([1.0], [0.0], 0.1, 0.1), r"scale must lie in \(0, inf\)"),
    ],
)
def test_a_failing_assumption_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


def test_wrong_kinds_of_arguments_are_named():
    with pytest.raises(ValueError, match="opt must be a jaxsde.SignSGD, whose chain lives on a lattice, got SGD"):
        birth_death(js.SGD(0.1), _line(js.Gaussian(1.0)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"steps must be whole numbers, got \[0.5\]"):
        discrete_moments(js.SGD(0.1), FLAT, jnp.ones(2), [0.5])
