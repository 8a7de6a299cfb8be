"""Control variates: exact where they claim to be, unbiased where the approximation is far off, and worth their cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxsde as js
from jaxsde.estimation._control import couple, linear_noise_law
from jaxsde.simulation._run import _seed_axes

H = np.array([[2.0, 0.6], [0.6, 1.2]])
Q = np.array([[1.0, -0.3], [-0.3, 0.6]])
SECOND = {"xx": lambda x: jnp.outer(x, x)}


def test_the_linear_noise_law_is_that_of_a_linear_recursion():
    eta, steps, substeps, x0 = 0.05, 30, 3, np.array([1.0, -0.5])
    problem = js.Problem(js.Quadratic(H), js.Gaussian(covariance=Q))
    companion = couple(js.SGD(eta).sde(problem), jnp.asarray(x0), substeps)
    law = linear_noise_law(companion, steps, jnp.arange(4) * 10)
    h = eta / substeps
    flow = np.eye(2) - h * H
    mean, covariance = x0, np.zeros((2, 2))
    for n in range(steps * substeps + 1):
        if n % (10 * substeps) == 0:
            np.testing.assert_allclose(law.mean[n // (10 * substeps)], mean, rtol=1e-4)
            np.testing.assert_allclose(law.covariance[n // (10 * substeps)], covariance, rtol=1e-4, atol=1e-9)
        mean, covariance = flow @ mean, flow @ covariance @ flow.T + h * eta * Q


def test_sgd_needs_hardly_any_seeds():
    eta = 0.1
    problem = js.Problem(js.Quadratic(H), js.Gaussian(covariance=Q))
    run = js.expectations(js.SGD(eta).chain(problem), jnp.zeros(2), SECOND, steps=300, seeds=4, key=jax.random.key(0))
    flow = np.eye(2) - eta * H
    exact = scipy.linalg.solve_discrete_lyapunov(flow, eta**2 * Q)
    np.testing.assert_allclose(run["xx"].mean[-1].reshape(2, 2), exact, rtol=1e-4)


@pytest.mark.parametrize("kind", ["chain", "sde"])
@pytest.mark.sweep
def test_estimates_are_unbiased_where_the_tangent_is_far_off(kind):
    # Starts and minima far from quadratic: the linear noise approximation is a poor companion, but its mean stays exact.
    problem = js.Problem(js.EmbeddedSaddle(), js.Gaussian(0.3))
    opt, x0 = js.SGD(0.05), jnp.array([0.05, 0.4])
    process, more = (opt.chain(problem), {}) if kind == "chain" else (opt.sde(problem), {"substeps": 2})
    functions = {"x": lambda x: x, "xx": lambda x: x**2, "loss": problem.loss}
    common = {"steps": 60, "every": 20, "seeds": 40_000, **more}
    fine = js.expectations(process, x0, functions, key=jax.random.key(1), **common)
    plain = js.simulate(process, x0, observe=functions, key=jax.random.key(2), **common)
    for name in functions:
        difference = fine[name].mean - np.asarray(plain[name].mean)
        spread = np.hypot(fine[name].stderr, np.asarray(plain[name].stderr))
        assert np.all(np.abs(difference)[1:] < 5 * spread[1:])
    assert fine["loss"].reduction[1] > 5  # while the noise is small
    assert np.all(fine["loss"].reduction >= 1)


@pytest.mark.parametrize("eta", [0.01, 0.05])
@pytest.mark.parametrize("kind", ["sign_sgd", "rmsprop", "adamw"])
def test_variance_of_stationary_covariances_falls_a_hundredfold(kind, eta):
    problem = js.Problem(js.Quadratic(jnp.array([1.0, 2.0])), js.Gaussian(1.0))
    opt = {
        "sign_sgd": js.SignSGD(eta),
        "rmsprop": js.RMSprop(eta, 0.99, initial_scale=1.0),
        "adamw": js.AdamW(eta, b1=0.9, b2=0.999, weight_decay=0.1),
    }[kind]
    run = dict(steps=round(6 / eta), seeds=1000, key=jax.random.key(3), substeps=2)
    law = js.expectations(opt.sde(problem), jnp.zeros(2), {"xx": lambda x: x**2}, **run)
    assert np.all(law["xx"].reduction[-1] > 100)


def test_a_mean_over_data_has_a_control_as_any_loss():
    """SGD's SDE is linear on squared distances, so nearly all of the noise goes; the loss holds its data in float32."""
    data = jnp.asarray(np.random.default_rng(0).normal(size=(32, 2)), jnp.float32)
    problem = js.Problem.from_data(lambda w, example: 0.5 * jnp.sum((w - example) ** 2), data, batch_size=4)
    run = js.expectations(
        js.SGD(0.1).sde(problem),
        jnp.ones(2),
        {"loss": problem.loss},
        steps=20,
        seeds=200,
        key=jax.random.key(0),
        progress=False,
    )
    mean, variance = np.mean(data, axis=0), np.var(data, axis=0)
    start = (1 - mean) * 0.9**20
    around = 0.01 * variance / 4 * (1 - 0.81**20) / 0.19
    exact = 0.5 * np.sum(start**2 + around + variance)
    assert run["loss"].reduction[-1] > 1e4
    assert abs(run["loss"].mean[-1] - exact) < 6 * run["loss"].stderr[-1] < 1e-4


def test_a_random_start_has_plain_means():
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    run = js.expectations(
        js.SGD(0.1).chain(problem), lambda key: jax.random.normal(key, (1,)), {"loss": problem.loss},
        steps=5, seeds=100, key=jax.random.key(0),
    )  # fmt: skip
    assert np.all(run["loss"].reduction == 1) and run["loss"].mean.shape == (2,)


def test_a_kink_at_the_mean_gives_plain_means():
    problem = js.Problem(js.Quadratic([1.0, 1.0]), js.Gaussian(1.0))
    run = js.expectations(
        js.SGD(0.1).chain(problem), jnp.zeros(2), {"norm": jnp.linalg.norm}, steps=20, seeds=2000, key=jax.random.key(0)
    )
    # The norm of a normal vector in two dimensions: sqrt(pi / 2) times its deviation.
    deviation = np.sqrt(0.1 * (1 - 0.9**40) / 1.9)
    assert run.diverged[-1] == 0
    assert abs(run["norm"].mean[-1] - np.sqrt(np.pi / 2) * deviation) < 5 * run["norm"].stderr[-1]


def test_a_tangent_that_is_not_finite_loses_no_seed():
    """The gradient |x|^(1/2) sign(x) has an infinite derivative where the noiseless trajectory rests, the chain has none."""
    problem = js.Problem(lambda x: jnp.sum(jnp.abs(x) ** 1.5), js.Gaussian(0.5))
    run = dict(steps=40, seeds=20_000, key=jax.random.key(0))
    law = js.expectations(js.SGD(0.1).chain(problem), jnp.zeros(1), {"xx": lambda x: x[0] ** 2}, **run)
    assert law.diverged[-1] == 0 and law["xx"].reduction[-1] == 1
    rng, x = np.random.default_rng(0), np.zeros(200_000)
    for _ in range(40):
        x = x - 0.1 * (1.5 * np.sqrt(np.abs(x)) * np.sign(x) + 0.5 * rng.standard_normal(x.size))
    spread = np.hypot(law["xx"].stderr[-1], np.std(x**2) / np.sqrt(x.size))
    assert abs(law["xx"].mean[-1] - np.mean(x**2)) < 5 * spread
    found = js.stationary(js.SGD(0.1).chain(problem), jnp.zeros(1), key=jax.random.key(1), seeds=2000, progress=False)
    assert found.diverged == 0 and abs(found.covariance[0, 0] - np.mean(x**2)) < 6 * np.hypot(
        spread, found.stderr.covariance[0, 0]
    )


def test_a_trajectory_that_rounding_has_led_astray_is_no_control():
    """From a ridge, to rounding: in float32 and in float64 the noiseless trajectory leaves it at different times, so the
    exact law is not that of the process beside the seeds."""
    x0 = jnp.array([1 / 3 - 1e-8])  # the maximum of the loss lies at 1/3, which float32 does not hold
    problem = js.Problem(lambda x: -0.5 * jnp.sum((x - 1 / 3) ** 2) + 0.25 * jnp.sum((x - 1 / 3) ** 4), js.Gaussian(1e-4))
    functions = {"x": lambda x: x[0], "xx": lambda x: x[0] ** 2}
    run = dict(steps=400, every=50, seeds=20_000)
    fine = js.expectations(js.SGD(0.1).chain(problem), x0, functions, key=jax.random.key(1), **run)
    plain = js.simulate(js.SGD(0.1).chain(problem), x0, observe=functions, key=jax.random.key(2), **run)
    for name in functions:
        spread = np.hypot(fine[name].stderr, np.asarray(plain[name].stderr))
        assert np.all(np.abs(fine[name].mean - np.asarray(plain[name].mean)) < 5 * spread)


LAWS = {
    "gaussian": js.Gaussian(0.6),
    "uniform": js.Uniform(0.6),
    "laplace": js.Laplace(0.6),
    "student-3": js.StudentT(3.0, 0.6),
    "student-6": js.StudentT(6.0, 0.6),
    "stable-1.5": js.AlphaStable(1.5, 0.6),
    "stable-2": js.AlphaStable(2.0, 0.6),
}


@pytest.mark.sweep
@pytest.mark.parametrize("law", LAWS)
def test_sign_sgds_control_is_unbiased_for_every_law(law):
    """Against the exact law of the lattice chain. Beyond the support of uniform noise the sign is certain: a control that
    stood still there would put the variance off by several per cent, at many standard errors."""
    problem, opt = js.Problem(js.Quadratic([1.0]), LAWS[law]), js.SignSGD(0.2)
    exact = js.theory.birth_death(opt, problem, 0.0)
    found = js.stationary(opt.chain(problem), jnp.zeros(1), key=jax.random.key(7), seeds=4000, progress=False)
    assert found.reduction.covariance[0, 0] > 1  # it is the control that is tried
    assert found.stderr.covariance[0, 0] < 0.004 * exact.variance
    assert abs(found.covariance[0, 0] - exact.variance) < 5 * found.stderr.covariance[0, 0]


@pytest.mark.parametrize(
    ("kind", "law"),
    [("sgd", law) for law in ("gaussian", "uniform", "laplace", "student-6", "stable-2")]
    + [("rmsprop", "gaussian"), ("rmsprop", "uniform"), ("adamw", "gaussian")],
)
@pytest.mark.sweep
def test_controls_of_methods_with_a_variance_are_unbiased(kind, law):
    """Against plain means over many more seeds of their own, from a start far enough for the noise to vary in weight."""
    noise = LAWS[law]
    problem = js.Problem(js.EmbeddedSaddle((1.0, 2.0), 0.5, 0.3), noise)
    variance = float(noise.variance(jnp.zeros(1))[0])
    opt = {
        "sgd": js.SGD(0.1),
        "rmsprop": js.RMSprop(0.1, 0.9, initial_scale=variance),
        "adamw": js.AdamW(0.1, b1=0.8, b2=0.9, weight_decay=0.1),
    }[kind]
    functions = {"x": lambda x: x, "xx": lambda x: x**2}
    run = dict(steps=20, every=10)
    fine = js.expectations(opt.chain(problem), jnp.full(2, 0.8), functions, seeds=4000, key=jax.random.key(1), **run)
    plain = js.simulate(
        opt.chain(problem), jnp.full(2, 0.8), observe=functions, seeds=100_000, key=jax.random.key(2), progress=False, **run
    )
    for name in functions:
        spread = np.hypot(fine[name].stderr, np.asarray(plain[name].stderr))
        assert np.all(np.abs(fine[name].mean - np.asarray(plain[name].mean))[1:] < 5 * spread[1:])
        assert np.any(fine[name].reduction[1] > 1)


@pytest.mark.parametrize("share", [1e-2, 1e-7, 0.0])
def test_the_control_knows_the_noise_of_a_covariance_that_is_nearly_singular(share):
    rotation = np.array([[0.8, -0.6], [0.6, 0.8]])
    covariance = rotation @ np.diag([1.0, share]) @ rotation.T
    problem = js.Problem(js.Quadratic([1.0, 1.0]), js.Gaussian(covariance=covariance))
    run = js.expectations(js.SGD(0.1).chain(problem), jnp.zeros(2), SECOND, steps=100, seeds=50, key=jax.random.key(0))
    exact = 0.1**2 * np.asarray(problem.noise.matrix, float) * (1 - 0.9**200) / (1 - 0.9**2)
    found = rotation.T @ run["xx"].mean[-1].reshape(2, 2) @ rotation
    np.testing.assert_allclose(np.diag(found), np.diag(rotation.T @ exact @ rotation), rtol=1e-3, atol=1e-8)


def test_sign_sgd_on_mini_batches_has_no_control():
    """The law of the signs is an approximation there, so that no control of known expectation follows from it."""
    data = jax.random.normal(jax.random.key(0), (40, 2))
    problem = js.Problem.from_data(lambda w, row: 0.5 * jnp.sum((w - row) ** 2), data, batch_size=4)
    run = js.expectations(
        js.SignSGD(0.1).chain(problem), jnp.zeros(2), {"w": lambda w: w}, steps=10, seeds=50, key=jax.random.key(0)
    )
    assert np.all(run["w"].reduction == 1)


def test_where_seeds_diverge_means_are_plain():
    """The control's expectation is one over all seeds, and the estimate one over those that are left: no control."""
    problem = js.Problem(lambda x: -jnp.sum(jnp.sqrt(1 - x**2)), js.Gaussian(1.5))  # nan beyond 1
    run = dict(steps=100, seeds=20_000, key=jax.random.key(0))
    fine = js.expectations(js.SGD(0.1).chain(problem), jnp.zeros(1), {"xx": lambda x: x[0] ** 2}, **run)
    assert 0 < fine.diverged[-1] < 2000 and fine["xx"].reduction[-1] == 1
    plain = js.simulate(
        js.SGD(0.1).chain(problem), jnp.zeros(1), observe={"xx": lambda x: x[0] ** 2}, **run | {"key": jax.random.key(1)}
    )
    spread = np.hypot(fine["xx"].stderr[-1], float(plain["xx"].stderr[-1]))
    assert abs(fine["xx"].mean[-1] - float(plain["xx"].mean[-1])) < 5 * spread
    law = js.stationary(js.SGD(0.1).chain(problem), jnp.zeros(1), key=jax.random.key(0), seeds=2000, steps=100, progress=False)
    assert law.diverged > 0 and not law.settled and np.all(law.reduction.covariance == 1)
    assert "NOT stationary" in js.reporting.stationary_table({"optimizer": law}, {})


def test_a_loss_of_one_precision_alone_has_no_control():
    """Its exact law would take float64, which the loss refuses; the means are plain ones."""

    def loss(x):
        return jax.lax.scan(lambda c, _: (c + 0.5 * jnp.sum(x**2), None), jnp.zeros((), jnp.float32), None, length=1)[0]

    problem, single = js.Problem(loss, js.Gaussian(1.0)), jnp.zeros(1, jnp.float32)
    run = js.expectations(js.SGD(0.1).chain(problem), single, {"x": lambda x: x}, steps=5, seeds=20, key=jax.random.key(0))
    assert run["x"].reduction[-1, 0] == 1
    # So it is with a function of one precision beside a loss of any.
    both = js.expectations(
        js.SGD(0.1).chain(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))), single,
        {"one": loss, "any": lambda x: x[0] ** 2}, steps=5, seeds=20, key=jax.random.key(0),
    )  # fmt: skip
    assert both["one"].reduction[-1] == 1 and both["any"].reduction[-1] > 1


def regression(batch_size=8, **more):
    """Least squares on data that it does not fit, so that the noise of batches depends on the parameters; and its data."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]])
    labels = 0.5 * rng.standard_t(3, size=60)  # the minimum is near 0, so second moments are mostly those of the noise
    data = jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.float32)
    problem = js.Problem.from_data(lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2, data, batch_size=batch_size, **more)
    return problem, *(np.asarray(part, float) for part in data)


def test_sgd_on_mini_batches_has_the_second_moments_of_its_recursion():
    """The mean of a batch is linear in the parameters, so the moments of SGD follow from those of one example."""
    eta, batch_size, steps, x0 = 0.1, 8, 40, np.array([1.5, 0.0])
    problem, features, labels = regression(batch_size)
    found = js.expectations(
        js.SGD(eta).chain(problem), jnp.asarray(x0, jnp.float32), {"x": lambda x: x, **SECOND},
        steps=steps, every=10, seeds=20_000, key=jax.random.key(0), progress=False,
    )  # fmt: skip
    hessians = features[:, :, None] * features[:, None]
    slopes = -features * labels[:, None]
    mean, second = x0, np.outer(x0, x0)
    for n in range(steps + 1):
        if n % 10 == 0:
            for name, exact in (("x", mean), ("xx", second.ravel())):
                value, stderr = found[name].mean[n // 10].ravel(), found[name].stderr[n // 10].ravel()
                assert np.all(np.abs(value - exact) <= 6 * stderr + 1e-6 * np.abs(exact))
        g = hessians @ mean + slopes
        gg = np.einsum("nij,jk,nlk->il", hessians, second, hessians) + np.einsum("nij,j,nk->ik", hessians, mean, slopes)
        gg = gg + np.einsum("nij,j,nk->ki", hessians, mean, slopes) + slopes.T @ slopes
        one, whole = gg / len(labels), (hessians.mean(0), slopes.mean(0))
        between = whole[0] @ second @ whole[0] + np.outer(whole[0] @ mean, whole[1])
        between = between + np.outer(whole[1], whole[0] @ mean) + np.outer(whole[1], whole[1])
        cross = second @ whole[0].T + np.outer(mean, whole[1])
        square = one / batch_size + (1 - 1 / batch_size) * between
        mean, second = mean - eta * g.mean(0), second - eta * (cross + cross.T) + eta**2 * square
    assert np.all(found["x"].reduction[1:] > 10) and np.all(found["xx"].reduction[1:] > 10)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "rmsprop", "adamw"])
def test_chains_on_mini_batches_have_controls_that_leave_means_alone(kind):
    problem, *_ = regression()
    opt = {
        "sgd": js.SGD(0.05),
        "momentum": js.Momentum(0.01, 0.9),
        "rmsprop": js.RMSprop(0.01, 0.99, initial_scale=1.0),
        "adamw": js.AdamW(0.01, b1=0.9, b2=0.99, weight_decay=0.1),
    }[kind]
    functions, start, common = {"x": lambda x: x, **SECOND}, jnp.array([-0.2, 0.1]), dict(steps=60, progress=False)
    fine = js.expectations(opt.chain(problem), start, functions, seeds=4000, key=jax.random.key(1), **common)
    plain = js.simulate(opt.chain(problem), start, observe=functions, seeds=40_000, key=jax.random.key(2), **common)
    for name in functions:
        pairs = (fine[name].mean, fine[name].stderr, plain[name].mean, plain[name].stderr)
        value, error, other, its_error = (np.ravel(np.asarray(pair)[-1]) for pair in pairs)
        assert np.all(np.abs(value - other) < 6 * np.hypot(error, its_error))
        assert np.all(fine[name].reduction[-1] > 2)


class Swaying(js.problems.AbstractNoise):
    """Correlated noise that grows away from 0, with heavier tails than normal noise: known by its root alone."""

    def sample(self, params, key):
        return self.sqrt_covariance(params)(jax.random.laplace(key, params.shape, params.dtype) / np.sqrt(2))

    def sqrt_covariance(self, params):
        root = jnp.asarray([[1.0, 0.0], [0.8, 0.6]], params.dtype)
        return lambda dw: 0.5 * jnp.sqrt(1 + jnp.sum(params**2)) * (root @ dw)


def test_a_users_correlated_noise_has_a_control():
    problem = js.Problem(js.Quadratic(H), Swaying())
    eta, steps, x0 = 0.05, 50, np.array([0.5, 0.2])
    found = js.expectations(
        js.SGD(eta).chain(problem), jnp.asarray(x0), SECOND, steps=steps, seeds=4000, key=jax.random.key(0), progress=False
    )
    flow, unit = np.eye(2) - eta * H, 0.25 * np.array([[1.0, 0.8], [0.8, 1.0]])
    second = np.outer(x0, x0)
    for _ in range(steps):
        second = flow @ second @ flow.T + eta**2 * (1 + np.trace(second)) * unit
    assert np.all(np.abs(found["xx"].mean[-1].ravel() - second.ravel()) < 6 * found["xx"].stderr[-1].ravel())
    assert np.all(found["xx"].reduction[-1] > 10)


@pytest.mark.parametrize(
    "problem",
    [
        regression(shuffle=True)[0],
        regression(covariance_examples=10)[0],
        js.Problem.one_pass(lambda w, a: 0.5 * (w @ a - 1) ** 2, lambda key: jax.random.normal(key, (2,))),
    ],
    ids=["shuffled", "subset", "one pass"],
)
def test_noise_of_unknown_moments_has_no_control(problem):
    """Batches of an epoch depend on each other; a subset or a sample of the data has a covariance of its own."""
    run = js.expectations(
        js.SGD(0.05).chain(problem), jnp.ones(2), {"x": lambda x: x}, steps=14, seeds=50, key=jax.random.key(0), progress=False
    )
    assert np.all(run["x"].reduction == 1)


def test_a_companion_that_costs_more_than_it_saves_is_left_out():
    """Its derivatives go over all data at each step; a chain's go over a batch."""

    def companion(examples):
        data = jnp.ones((examples, 2))
        problem = js.Problem.from_data(lambda w, e: 0.5 * jnp.sum((w - e) ** 2), data, batch_size=1)
        return couple(js.SGD(0.1).chain(problem), jnp.zeros(2))

    assert companion(1000) is not None and companion(1001) is None


START = js.GaussianStart({"a": jnp.array([1.0, -1.0]), "b": jnp.array(0.5)}, {"a": 0.3, "b": 2.0})


def test_a_normal_start_draws_what_it_says():
    drawn = jax.vmap(START)(jax.random.split(jax.random.key(0), 100_000))
    rows = np.column_stack([drawn["a"], drawn["b"]])
    np.testing.assert_allclose(rows.mean(0), [1.0, -1.0, 0.5], atol=6 * 2.0 / np.sqrt(len(rows)))
    np.testing.assert_allclose(np.cov(rows.T), np.diag([0.09, 0.09, 4.0]), atol=6 * 4.0 * np.sqrt(2 / len(rows)))
    np.testing.assert_allclose(START.covariance(), np.diag([0.09, 0.09, 4.0]), rtol=1e-6)


@pytest.mark.parametrize("kind", ["chain", "sde"])
def test_the_noise_of_a_normal_start_is_taken_out(kind):
    """SGD is linear here, so a few seeds are exact: mean and variance of a start go through a recursion."""
    eta, steps, curvature = 0.1, 20, np.array([1.0, 2.0, 0.5])
    problem = js.Problem(lambda p: 0.5 * (p["a"][0] ** 2 + 2 * p["a"][1] ** 2 + 0.5 * p["b"] ** 2), js.Gaussian(0.4))
    process = getattr(js.SGD(eta), kind)(problem)
    found = js.expectations(
        process, START, {"loss": problem.loss}, steps=steps, every=10, seeds=6, key=jax.random.key(0), progress=False
    )
    mean, variance = np.array([1.0, -1.0, 0.5]), np.array([0.09, 0.09, 4.0])
    for n in range(steps + 1):
        if n % 10 == 0:
            exact = 0.5 * np.sum(curvature * (mean**2 + variance))
            np.testing.assert_allclose(found["loss"].mean[n // 10], exact, rtol=1e-5)
        flow = 1 - eta * curvature
        mean, variance = flow * mean, flow**2 * variance + eta**2 * 0.16


@pytest.mark.parametrize("kind", ["sign_sgd", "adamw"])
def test_a_normal_start_far_from_linear_is_unbiased(kind):
    """AdamW's SDE starts after optimizer steps, through which the deviation of the start is carried."""
    problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))
    opt = {"sign_sgd": js.SignSGD(0.02), "adamw": js.AdamW(0.02, b1=0.9, b2=0.99, weight_decay=0.1)}[kind]
    start, functions = js.GaussianStart(jnp.array([1.0, 0.5]), 0.2), {"loss": problem.loss, "x": lambda x: x}
    common = dict(steps=40, every=20, progress=False)
    fine = js.expectations(opt.sde(problem), start, functions, seeds=4000, key=jax.random.key(1), **common)
    plain = js.simulate(opt.sde(problem), start, observe=functions, seeds=100_000, key=jax.random.key(2), **common)
    for name in functions:
        spread = np.hypot(fine[name].stderr, np.asarray(plain[name].stderr))
        assert np.all(np.abs(fine[name].mean - np.asarray(plain[name].mean)) < 6 * spread)
        assert np.all(fine[name].reduction > 10)


def test_a_normal_start_serves_levels():
    """An Ornstein-Uhlenbeck process from a normal start is normal, so its fourth moment is known."""
    eta, steps, mean, std = 0.1, 20, 0.5, 0.3
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    start, functions = js.GaussianStart(jnp.array([mean]), std), {"fourth": lambda x: x[0] ** 4}
    found = js.multilevel(
        js.SGD(eta).sde(problem), start, functions, steps=steps, stderr=2e-4, key=jax.random.key(0), progress=False
    )["fourth"]
    t = eta * steps
    mean, variance = np.exp(-t) * mean, np.exp(-2 * t) * std**2 + eta / 2 * (1 - np.exp(-2 * t))
    exact = 3 * variance**2 + 6 * mean**2 * variance + mean**4
    assert abs(found.mean - exact) < 6 * found.stderr + 2 * found.bias


@pytest.mark.sweep
def test_a_normal_start_serves_the_stationary_law():
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    start = js.GaussianStart(jnp.array([0.5]), 0.3)
    law = js.stationary(js.SignSGD(0.05).sde(problem), start, seeds=500, key=jax.random.key(2), progress=False)
    assert law.settled and np.all(law.reduction.covariance > 10)


def test_all_seeds_share_the_noiseless_trajectory():
    """Its Jacobian is then computed once a step, and not for each seed."""
    problem = js.Problem(js.Quadratic(H), js.Gaussian(0.5))
    coupled = couple(js.SGD(0.1).chain(problem), jnp.ones(2))
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.vmap(lambda key: coupled.init(jnp.ones(2), key))(keys)
    axes = jax.tree.unflatten(jax.tree.structure(states), _seed_axes(coupled, states, jax.vmap(coupled.noise_key)(keys)))
    assert axes.companion.mean is None and axes.companion.deviation == 0 and axes.process.x == 0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: js.GaussianStart(jnp.ones(2), -1.0), "std must be finite and not negative"),
        (lambda: js.GaussianStart(jnp.ones(2), np.nan), "std must be finite and not negative"),
        (lambda: js.GaussianStart(jnp.ones(2), jnp.ones(3)), "std must be a number or shaped as mean"),
        (lambda: js.GaussianStart({}, 1.0), "at least one array"),
    ],
)
def test_starts_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
