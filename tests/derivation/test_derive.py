"""The derived SDE against laws that are known otherwise: SciPy's, sums over drawn noise, and exact linear recursions."""

import warnings

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.stats
from common import Compilations

import jaxsde as js
from jaxsde.derivation import DerivedState
from jaxsde.derivation._rules import JUMP, rule_for
from jaxsde.processes import Instant

RATE = 0.1
KEY = jax.random.key(0)


def one_dimensional(noise=None, curvature=1.0):
    return js.Problem(js.Quadratic(jnp.array([curvature])), js.Gaussian(1.0) if noise is None else noise)


def now(step=100, substeps=8, part=0):
    return Instant(jnp.asarray((step + part / substeps) * RATE), jnp.asarray(step))


LAWS = {
    "Gaussian": (js.Gaussian(1.0), scipy.stats.norm),
    "Student-t 2": (js.StudentT(2.0, 1.0), scipy.stats.t(2)),
    "Student-t 3.5": (js.StudentT(3.5, 1.0), scipy.stats.t(3.5)),
    "Laplace": (js.Laplace(1.0), scipy.stats.laplace),
    "uniform": (js.Uniform(1.0), scipy.stats.uniform(-1, 2)),
    "Cauchy": (js.AlphaStable(1.0, 1.0), scipy.stats.cauchy),
}


@pytest.mark.parametrize("name", LAWS)
def test_quantiles_are_those_of_scipy(name):
    law, exact = LAWS[name]
    p = np.array([1e-3, 0.02, 0.3, 0.5, 0.77, 0.999])
    found = [law.quantile(q, jnp.zeros(1)).item() for q in p]
    np.testing.assert_allclose(found, exact.ppf(p), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["Gaussian", "Student-t 2"])
def test_the_drift_of_a_sign_is_the_signs_mean(name):
    """Over the shifts of the nodes, to a thousandth of its scale from a signal to noise of 1e-3 to 5."""
    noise, exact = LAWS[name]
    ratio = np.geomspace(1e-3, 5, 25)
    problem = js.Problem(js.Quadratic(jnp.ones(25)), noise)
    sde = js.derive(optax.sign_sgd(RATE), problem, learning_rate=RATE, start=jnp.ones(25), order=1)
    y = DerivedState(jnp.asarray(ratio, jnp.float32), ())
    drift = jax.jit(jax.vmap(lambda n: sde.drift(Instant(n * RATE / 8, n // 8), y).x))(jnp.arange(4096))
    np.testing.assert_allclose(np.mean(drift, axis=0), 1 - 2 * exact.cdf(ratio), atol=1e-3)


def test_shifted_nodes_cover_the_whole_law():
    """Over as many steps as there are places, all nodes and the coarse ones alike: the mean of a step is its probability."""
    rule = rule_for(js.Gaussian(1.0), JUMP, 0, None)
    nodes = jax.vmap(lambda n: rule.at(n, jnp.zeros(())))(jnp.arange(16_384))
    for edge in (-1.7, 0.1, 0.6):
        exact = scipy.stats.norm.cdf(edge)
        assert np.mean(nodes < edge) == pytest.approx(exact, abs=1e-3)
        assert np.mean(nodes[:, list(rule.coarse)] < edge) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("name", ["Student-t 3.5", "Laplace", "uniform"])
def test_other_laws_have_their_variance(name):
    """Of a linear update, whose nodes are those of the double exponential rule."""
    noise, exact = LAWS[name]
    sde = js.derive(optax.sgd(RATE), one_dimensional(noise), learning_rate=RATE, start=jnp.ones(1), order=1)
    drift, diffusion = sde.fields(0.0, DerivedState(jnp.full(1, 0.3), ()))
    assert drift.x.item() == pytest.approx(-0.3, rel=1e-5)
    assert diffusion(((jnp.ones(1),),)).x.item() ** 2 == pytest.approx(RATE * exact.var(), rel=2e-4)


def test_the_stationary_variance_of_signs_is_the_exact_one():
    """Of the birth-death chain. Two-point increments and few nodes make up to 0.9 % more of it, which is measured; the
    tolerance is that and five standard errors."""
    eta, n, seeds = 0.02, 64, 300
    sde = js.Optax(optax.sign_sgd, eta).sde(js.Problem(js.Quadratic(jnp.ones(n)), js.Gaussian(1.0)))
    run = js.simulate(sde, jnp.zeros(n), steps=400, every=20, seeds=seeds, key=KEY, substeps=8, progress=False)["x"]
    found = np.asarray(run.variance)[12:].mean(axis=0)
    exact = float(js.theory.birth_death(js.SignSGD(eta), one_dimensional(), 0.0).variance)
    error = found.std(ddof=1) / np.sqrt(n)
    assert found.mean() == pytest.approx(exact, abs=float(0.009 * exact + 5 * error))


def _moves_by_numpy(make, state, x, gradient, draws=400_000):
    """Moves of x and of the float buffers (logarithms of those that are positive), for drawn noise."""
    z = np.random.default_rng(0).normal(size=draws).astype(np.float32)
    transform, many = make(), lambda leaf: np.full(draws, leaf, np.float32) if np.ndim(leaf) else leaf
    state = jax.tree.map(many, state)
    updates, after = transform.update(gradient + z, state, np.full(draws, x, np.float32))
    rows = [np.asarray(updates, float)]
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        if np.ndim(new):
            old, new = np.asarray(old, float), np.asarray(new, float)
            rows.append(np.log(new / old) if old.min() > 0 and new.min() > 0 else new - old)
    return np.array(rows)


TRANSFORMS = {
    "Nesterov": lambda: optax.sgd(RATE, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(RATE, b2=0.99, weight_decay=0.3),
    "rmsprop": lambda: optax.rmsprop(RATE, decay=0.95, initial_scale=1.0),
    "lion": lambda: optax.lion(RATE),
    "clipped": lambda: optax.chain(optax.clip(1.0), optax.sgd(RATE)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_mean_and_covariance_are_those_of_one_update(name):
    """Drift and diffusion of order 1 against 400,000 drawn updates, at a state some steps after the start."""
    make, problem, x0 = TRANSFORMS[name], one_dimensional(), jnp.array([0.7])
    chain = js.Chain(make, problem, jnp.asarray(RATE))
    state = chain.run(chain.init(x0), jnp.asarray(0), jnp.asarray(5), KEY)
    smooth = name not in ("lion", "clipped")
    sde = js.derive(make(), problem, learning_rate=RATE, start=x0, order=1, nodes=15 if smooth else 64)
    y = sde.state_from_chain(state)
    rows = _moves_by_numpy(make, state.transform, state.x.item(), state.x.item())
    flat = lambda tree: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    zero, structure = jax.flatten_util.ravel_pytree(sde.noise_shaped(y))

    @jax.jit
    @jax.vmap
    def law(part):
        at = Instant((5 + part / 64) * RATE, jnp.asarray(5))
        drift, diffusion = sde.fields(at, y)
        root = jax.vmap(lambda unit: flat(diffusion(structure(unit))))(jnp.eye(zero.size))
        return flat(drift) * RATE, root.T @ root * RATE

    means, covariances = law(jnp.arange(64.0))  # with 64 places of the nodes where these are shifted
    mean, covariance = np.mean(means, axis=0), np.mean(covariances, axis=0)
    error = rows.std(axis=1) / np.sqrt(rows.shape[1])
    np.testing.assert_array_less(np.abs(mean - rows.mean(axis=1)), 5 * error + 1e-6)
    exact = np.cov(rows).reshape(covariance.shape)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    np.testing.assert_allclose(covariance / scale, exact / scale, atol=0.012)


def test_steps_compose_to_the_chains_mean_map():
    """With a linear update, m fitted steps have exactly the factor ((I + u (1 + (a - 1) u / 2) / m)^m) that the series says,
    which is nearer to I + u than Euler's, and noise corrected by the same."""
    m, curvature, b = 8, 2.0, 0.8
    u = np.array([[-RATE * curvature, -RATE * b], [curvature, b - 1.0]])  # of optax.sgd: x and its trace
    problem = one_dimensional(curvature=curvature)
    sde = js.derive(optax.sgd(RATE, momentum=b), problem, learning_rate=RATE, start=jnp.ones(1), order=2)
    y = DerivedState(jnp.array([0.4]), (jnp.array([-0.3]),))
    h = jnp.asarray(RATE / m)
    dw = jax.tree.map(lambda leaf: 0.5 * jnp.ones_like(leaf), sde.noise_shaped(y))
    step = sde.term.vf_prod(now(), y, None, (h, dw))
    factor = np.eye(2) + (1 / m - 1) / 2 * u
    noise = np.array([RATE, -1.0]) * 0.5 / np.sqrt(RATE)  # Cholesky's: positive in x
    expected = factor @ (u @ [0.4, -0.3] / m + noise)
    np.testing.assert_allclose([step.x.item(), step.buffers[0].item()], expected, atol=2e-6)
    one = sde.term.vf_prod(now(), y, None, (jnp.asarray(RATE), jax.tree.map(jnp.zeros_like, dw)))
    np.testing.assert_allclose([one.x.item(), one.buffers[0].item()], u @ [0.4, -0.3], rtol=1e-5)


def test_the_error_of_a_linear_equation_is_of_second_order():
    """SGD with momentum at a fixed rate of forgetting: the mean at time 1 of the continuous equation against the chain's exact
    one. The slope is 2, and 1 without the correction."""
    errors = {1: [], 2: []}
    rates = (0.04, 0.02, 0.01)
    for eta in rates:
        # Forgetting at the rate 5, and a rate so small that x moves by a share eta of the mean gradient in a step.
        b, small, x0, n = 1 - 5 * eta, 5 * eta**2, np.array([1.0, 0.0]), round(1 / eta)
        u = np.array([[-small, -small * b], [1.0, b - 1.0]])
        exact = (np.linalg.matrix_power(np.eye(2) + u, n) @ x0)[0]
        for order in errors:
            sde = js.derive(optax.sgd(small, momentum=b), one_dimensional(), learning_rate=eta, start=jnp.ones(1), order=order)
            drift = lambda v, sde=sde: jnp.concatenate(
                [sde.drift(now(), DerivedState(v[:1], (v[1:],))).x, sde.drift(now(), DerivedState(v[:1], (v[1:],))).buffers[0]]
            )
            matrix = np.asarray(jax.jacfwd(drift)(jnp.zeros(2)), float)
            errors[order].append(abs((scipy.linalg.expm(matrix) @ x0)[0] - exact))
    slopes = {order: np.diff(np.log(e)) / np.diff(np.log(rates)) for order, e in errors.items()}
    np.testing.assert_allclose(slopes[1], 1, atol=0.15)
    np.testing.assert_allclose(slopes[2], 2, atol=0.25)


def test_no_seed_is_lost_where_an_average_forgets_fast():
    sde = js.Optax(optax.rmsprop, 0.05, decay=0.9).sde(one_dimensional())
    run = js.simulate(sde, jnp.ones(1), steps=200, seeds=512, key=KEY, substeps=4, progress=False)
    assert int(run.diverged[-1]) == 0


def test_correlated_noise_acts_through_what_is_linear():
    """SGD with momentum and correlated noise: the stationary covariance of the whole recursion."""
    covariance, hessian, b, eta = np.array([[1.0, 0.8], [0.8, 2.0]]), np.array([[1.0, 0.3], [0.3, 0.5]]), 0.8, 0.05
    problem = js.Problem(js.Quadratic(hessian), js.Gaussian(covariance=covariance))
    sde = js.derive(optax.sgd(eta, momentum=b), problem, learning_rate=eta, start=jnp.zeros(2), order=3)
    found = js.linearise(sde, jnp.zeros(2)).covariance
    one = np.eye(2)
    mean_map = np.block([[one - eta * hessian, -eta * b * one], [hessian, b * one]])
    into = np.block([[-eta * one], [one]])
    exact = scipy.linalg.solve_discrete_lyapunov(mean_map, into @ covariance @ into.T)[:2, :2]
    size = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(found / np.outer(size, size), exact / np.outer(size, size), atol=0.01)


def test_new_numbers_are_no_new_program():
    problem = one_dimensional()

    def run(**numbers):
        opt = js.Optax(optax.adamw, **numbers)
        return js.simulate(opt.sde(problem), jnp.ones(1), steps=8, seeds=8, key=KEY, progress=False)["loss"].mean

    run(learning_rate=0.01, b1=0.9, b2=0.99, weight_decay=0.1)
    with Compilations() as compiled:
        run(learning_rate=0.02, b1=0.8, b2=0.995, weight_decay=0.2)
    assert compiled.count == 0


def test_a_batch_of_hyperparameters():
    problem = one_dimensional()

    @jax.jit
    @jax.vmap
    def final(rate):
        opt = js.Optax(optax.lion, rate, b2=0.95)
        return js.simulate(opt.sde(problem), jnp.ones(1), steps=20, seeds=64, key=KEY)["x"].mean[-1, 0]

    together = final(jnp.array([0.01, 0.02]))
    alone = js.simulate(js.Optax(optax.lion, 0.02, b2=0.95).sde(problem), jnp.ones(1), steps=20, seeds=64, key=KEY)["x"].mean
    np.testing.assert_allclose(together[1], alone[-1, 0], rtol=1e-4)


def test_structured_parameters_and_a_transform_that_depends_on_them():
    labels = {"a": "slow", "b": "fast"}
    transform = optax.partition({"slow": optax.adam(0.01), "fast": optax.sgd(0.1)}, labels)
    problem = js.Problem(lambda p: jnp.sum(p["a"] ** 2) + p["b"] ** 2, js.Gaussian(0.1))
    start = {"a": jnp.ones(3), "b": jnp.asarray(1.0)}
    with pytest.raises(ValueError, match="start="):
        js.derive(transform, problem, learning_rate=0.01)
    sde = js.derive(transform, problem, learning_rate=0.01, start=start)
    chain = js.Chain(lambda: transform, problem, jnp.asarray(0.01))
    common = dict(steps=40, seeds=256, key=KEY, observe={"a": lambda p: p["a"], "b": lambda p: p["b"]}, progress=False)
    model, exact = js.simulate(sde, start, substeps=4, **common), js.simulate(chain, start, **common)
    for name in ("a", "b"):
        error = np.hypot(model[name].stderr[-1], exact[name].stderr[-1])
        np.testing.assert_array_less(np.abs(model[name].mean[-1] - exact[name].mean[-1]), 5 * error + 2e-3)


def test_a_schedule_inside_the_transform():
    schedule = optax.linear_schedule(0.1, 0.0, 50)
    problem = js.Problem(js.Quadratic(jnp.ones(64)), js.Gaussian(0.5))
    opt = js.Optax(optax.sgd, schedule, reference_rate=0.1, momentum=0.5)
    common = dict(steps=50, seeds=200, key=KEY, progress=False)
    exact = js.simulate(opt.chain(problem), jnp.ones(64), **common)["x"]
    model = js.simulate(opt.sde(problem), jnp.ones(64), substeps=4, **common)["x"]
    spread = np.std(np.asarray(exact.mean[-1])) / 8
    assert abs(np.mean(exact.mean[-1]) - np.mean(model.mean[-1])) < 6 * np.sqrt(2) * spread
    assert abs(np.mean(model.variance[-1]) / np.mean(exact.variance[-1]) - 1) < 0.04


def test_infinite_variance_needs_bounded_updates():
    problem = one_dimensional(js.StudentT(2.0, 1.0))
    js.derive(optax.sign_sgd(0.1), problem, learning_rate=0.1)
    with pytest.raises(ValueError, match="variance of StudentT noise is infinite"):
        js.derive(optax.sgd(0.1), problem, learning_rate=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(transform=0.1), "transform must be an Optax transform"),
        (dict(problem=None), "problem must be"),
        (dict(learning_rate=-1.0), "learning_rate must lie in"),
        (dict(order=4), "order must be at most 3"),
        (dict(nodes=1), "nodes must be at least 2"),
        (dict(start_steps=-1), "start_steps must be at least 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    given = dict(transform=optax.sgd(0.1), problem=one_dimensional(), learning_rate=0.1) | arguments
    transform, problem = given.pop("transform"), given.pop("problem")
    with pytest.raises((TypeError, ValueError), match=message):
        js.derive(transform, problem, **given)


def test_the_sde_solves_with_diffrax():
    import diffrax

    sde = js.Optax(optax.adam, 0.05).sde(one_dimensional(), start=jnp.ones(1))
    t0, y0 = sde.init(jnp.ones(1), KEY)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), sde.noise_shaped(y0))
    path = diffrax.VirtualBrownianTree(float(t0), float(t0) + 1, tol=1e-2, shape=like, key=KEY)
    solution = diffrax.diffeqsolve(sde.terms(path), diffrax.Euler(), float(t0), float(t0) + 1, 0.0125, y0)
    assert np.isfinite(solution.ys.x).all()


def test_optax_factories_are_checked():
    with pytest.raises(TypeError, match="takes no b7"):
        js.Optax(optax.lion, 0.1, b7=0.5)
    with pytest.raises(TypeError, match="factory must be a function"):
        js.Optax(3, 0.1)
    with pytest.raises(ValueError, match="decides by the value"):
        js.Optax(lambda learning_rate, b: optax.sgd(learning_rate, b if b > 0 else None), 0.1, b=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt = js.Optax(optax.sgd, 0.1, momentum=0.9, nesterov=True)
    assert eqx.filter(opt, eqx.is_array).numbers["momentum"] == np.float32(0.9)


@pytest.mark.sweep
def test_weak_order_two_of_adam():
    """Away from t = 0, at fixed rates of forgetting: the mean at time 1. Simulated slopes are 1.1 without the correction and
    1.75 with it; where the solver's own error and that of the start vanish as well, they are 1 and 2."""
    problem, x0 = js.Problem(js.Quadratic(jnp.ones(64)), js.Gaussian(0.5)), jnp.ones(64)
    common = dict(seeds=12_000, key=KEY, observe={"x": lambda x: x}, progress=False)
    errors = {"derived-1": [], "derived": []}
    for eta in (0.1, 0.025):
        opt = js.Optax(optax.adam, eta, b1=1 - 2 * eta, b2=1 - 4 * eta, eps=0.1)
        steps, start_steps = round(1 / eta), round(0.3 / eta)
        exact = js.simulate(opt.chain(problem), x0, steps=steps, **common)["x"].mean[-1]
        for model, found in errors.items():
            sde = opt.sde(problem, model=model, start_steps=start_steps)
            mean = js.simulate(sde, x0, steps=steps, substeps=8, increments="gaussian", **common)["x"].mean[-1]
            found.append(abs(np.mean(mean) - np.mean(exact)))
    slopes = {model: np.log(e[0] / e[1]) / np.log(4) for model, e in errors.items()}
    assert slopes["derived-1"] < 1.3
    assert slopes["derived"] > 1.5
    assert errors["derived"][1] < errors["derived-1"][1] / 3


@pytest.mark.sweep
def test_derived_adamw_is_as_near_to_the_optimizer_as_the_written_one():
    """Mean and second moment at five times."""
    problem, x0 = js.Problem(js.Quadratic(jnp.ones(64)), js.Gaussian(1.0)), jnp.ones(64)
    common = dict(steps=200, every=40, seeds=4000, key=KEY, observe={"x": lambda x: x, "xx": lambda x: x**2}, progress=False)
    numbers = dict(learning_rate=0.02, b1=0.9, b2=0.99, weight_decay=0.2)
    written, derived = js.AdamW(**numbers), js.Optax(optax.adamw, **numbers)
    exact = js.simulate(written.chain(problem), x0, **common)
    runs = [js.simulate(opt.sde(problem), x0, substeps=8, **common) for opt in (written, derived)]
    for name in ("x", "xx"):
        truth = np.mean(exact[name].mean[1:], axis=1)
        error = np.std(np.asarray(exact[name].mean[1:]), axis=1) / 8 * np.sqrt(2)
        old, new = (np.abs(np.mean(run[name].mean[1:], axis=1) - truth) for run in runs)
        np.testing.assert_array_less(new, old + 4 * error)
        np.testing.assert_array_less(new, 0.02 * np.abs(truth[0]) + 4 * error)


@pytest.mark.parametrize(
    ("factory", "written", "order"),
    [(optax.sgd, js.SGD(0.05), 1), (optax.sign_sgd, js.SignSGD(0.05), 1)],
    ids=["sgd", "sign_sgd"],
)
def test_order_one_is_the_written_equation(factory, written, order):
    """Drift and diffusion at a few points; a sign's drift is a mean over shifts."""
    problem = js.Problem(js.Quadratic(jnp.array([1.0, 2.0, 0.5])), js.Gaussian(0.7))
    nodes = 64 if factory is optax.sign_sgd else None  # few nodes have the right covariance on average over x alone
    sde = js.derive(factory(0.05), problem, learning_rate=0.05, start=jnp.ones(3), order=order, nodes=nodes)
    model = written.sde(problem)
    x = jnp.array([0.3, -0.2, 1.5])
    exact, root = model.fields(0.5, x)
    found, spread = jax.jit(jax.vmap(lambda n: _fields(sde, n, x)))(jnp.arange(512))
    np.testing.assert_allclose(np.mean(found, axis=0), exact, atol=4e-3 if factory is optax.sign_sgd else 1e-5)
    np.testing.assert_allclose(np.mean(spread**2, axis=0), root(jnp.ones(3)) ** 2, rtol=0.01)


def test_the_covariance_of_few_shifted_nodes_is_right_on_average():
    """Over shifts and points: eight nodes alone lack the variance of their own mean, here 1 % of it."""
    x = jnp.linspace(-0.4, 0.4, 65)
    problem = js.Problem(js.Quadratic(jnp.ones(65)), js.Gaussian(1.0))
    sde = js.derive(optax.sign_sgd(RATE), problem, learning_rate=RATE, start=x, order=1)
    spread = jax.jit(
        jax.vmap(lambda n: sde.fields(Instant(n * RATE / 8, n // 8), DerivedState(x, ()))[1](((jnp.ones(65),),)).x)
    )
    exact = 1 - scipy.special.erf(np.asarray(x, float) / np.sqrt(2)) ** 2
    assert np.mean(spread(jnp.arange(4096)) ** 2) / RATE == pytest.approx(exact.mean(), rel=4e-3)


@pytest.mark.parametrize("nodes", [2, 3, 5])
@pytest.mark.parametrize("factory", [optax.sgd, optax.sign_sgd])
def test_the_fewest_nodes_make_a_step(factory, nodes):
    sde = js.derive(factory(RATE), one_dimensional(), learning_rate=RATE, start=jnp.ones(1), nodes=nodes)
    y = DerivedState(jnp.ones(1), ())
    step = sde.term.vf_prod(now(), y, None, (jnp.asarray(RATE / 8), jax.tree.map(jnp.ones_like, sde.noise_shaped(y))))
    assert np.isfinite(step.x).all()


def _fields(sde, n, x):
    drift, diffusion = sde.fields(Instant(n * 0.05 / 8, n // 8), DerivedState(x, ()))
    return drift.x, diffusion(((jnp.ones(3),),)).x
