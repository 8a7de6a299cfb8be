"""Second-order SDEs: one-step moments against quadrature, drifts by hand, states at the edge, and what is refused."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

import jaxsde as js
from jaxsde.estimation._levels import two_levels

SIGMA, RHO, X, V, M = 0.6, 1.3, 0.9, 0.8, 0.4


def _loss(x):
    return jnp.sum(x**4 / 4 + x**2 / 2)


def _gradient(x):
    return x**3 + x


PROBLEM = js.Problem(_loss, js.Gaussian(SIGMA))
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def _chain_step(name, eta, rate=1.0):
    """Mean increment and its second moments over one step of the optimizer from a given state, by Gauss-Hermite; with a
    schedule that stands at `rate` times the reference."""
    g = _gradient(X) + SIGMA * NODES
    v = V + RHO * eta * (g**2 - V)
    if name == "sgd":
        increments = [-rate * eta * g]
    elif name == "sign_sgd":
        mean = scipy.special.erf(_gradient(X) / (np.sqrt(2) * SIGMA))
        return np.array([-rate * eta * mean]), np.array([[(rate * eta) ** 2]])
    elif name == "rmsprop":
        increments = [-rate * eta * g / np.sqrt(v), v - V]
    else:
        m, t = M + 2 * RHO * eta * (g - M), 1.0 + eta
        c1, c2 = 1 - (1 - 2 * RHO * eta) ** (t / eta), 1 - (1 - RHO * eta) ** (t / eta)
        increments = [-rate * eta * (m / c1) / np.sqrt(v / c2), m - M, v - V]
    mean = np.array([WEIGHTS @ i for i in increments])
    return mean, np.array([[WEIGHTS @ (a * b) for b in increments] for a in increments])


def _sde_step(name, model, eta, rate=1.0):
    """The same of the SDE over a time eta, from the expansion of its semigroup to second order."""
    one = jnp.ones(1)
    rates = (eta,) if rate == 1 else (lambda k: rate * eta,)
    clock = {} if rate == 1 else dict(reference_rate=eta)
    optimizers = {
        "sgd": lambda: js.SGD(*rates, **clock),
        "sign_sgd": lambda: js.SignSGD(*rates, **clock),
        "rmsprop": lambda: js.RMSprop(*rates, 1 - RHO * eta, eps=0.0, initial_scale=V, **clock),
        "adam": lambda: js.Adam(*rates, b1=1 - 2 * RHO * eta, b2=1 - RHO * eta, eps=0.0, **clock),
    }
    with jax.enable_x64(True):
        sde = optimizers[name]().sde(js.Problem(_loss, js.Gaussian(jnp.asarray(SIGMA))), model)
        one = jnp.ones(1)
        start = sde.init(X * one, jax.random.key(0))[1]
        values = dict(x=X * one, v=V * one, m=M * one)
        y = X * one if name in ("sgd", "sign_sgd") else type(start)(**{k: values[k] for k in start._fields})
        flat, unravel = jax.flatten_util.ravel_pytree(y)
        t = jnp.asarray(1.0)

        def drift(t, u):
            return jax.flatten_util.ravel_pytree(sde.drift(t, unravel(u)))[0]

        b = drift(t, flat)
        slope = jax.jvp(drift, (t, flat), (jnp.ones_like(t), b))[1]
        like, as_noise = jax.flatten_util.ravel_pytree(sde.noise_shaped(y))
        diffusion = sde.diffusion(t, y)
        columns = [jax.flatten_util.ravel_pytree(diffusion(as_noise(e)))[0] for e in jnp.eye(len(like))]
        spread = np.stack(columns, axis=1)
    mean = np.asarray(eta * b + eta**2 / 2 * slope)
    return mean, np.outer(mean, mean) + eta * spread @ spread.T


def _gaps(name, model, rate=1.0):
    """The largest differences of the mean and of the second moments of a step, and the slopes at which they fall with eta."""
    gaps = []
    for eta in (0.004, 0.002, 0.001):
        (a, aa), (b, bb) = _chain_step(name, eta, rate), _sde_step(name, model, eta, rate)
        gaps.append((np.max(np.abs(a - b)), np.max(np.abs(aa - bb))))
    return np.array(gaps), np.log2(np.array(gaps)[1] / np.array(gaps)[2])


@pytest.mark.parametrize("rate", [1.0, 0.6], ids=["constant", "schedule"])
@pytest.mark.parametrize("name", ["sgd", "sign_sgd", "rmsprop", "adam"])
def test_one_step_moments_match_to_third_order(name, rate):
    _, first = _gaps(name, "compagnoni", rate)
    assert abs(first[0] - 2) < 0.25
    gaps, second = _gaps(name, "second-order", rate)
    assert second[0] > 2.75
    assert second[1] > 2.75 or np.all(gaps[:, 1] < 1e-12)


@pytest.mark.parametrize("rate", [1.0, 0.6], ids=["constant", "schedule"])
@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_the_corrected_drift_alone_matches_the_mean_of_a_step(name, rate):
    """Its noise is that of the first order, at a V that is far enough from zero."""
    assert _gaps(name, "second-order-drift", rate)[1][0] > 2.75
    opt = {"rmsprop": js.RMSprop(0.01, 0.9, initial_scale=V), "adam": js.Adam(0.01, 0.9, 0.99)}[name]
    first, corrected = (opt.sde(PROBLEM, model) for model in ("compagnoni", "second-order-drift"))
    y = jax.tree.map(lambda leaf: jnp.full(1, 0.7), first.init(jnp.ones(1), jax.random.key(0))[1])
    for now in (1.0, 3.0):
        one, other = (sde.diffusion(now, y)(jnp.ones(1)) for sde in (first, corrected))
        # Bias corrections are the optimizer's own here, which tend to exp(-rho t).
        chex.assert_trees_all_close(one, other, rtol=0.02)


@pytest.mark.parametrize("b1", [0.9, 0.99])
def test_stationary_variances_with_a_fixed_memory(b1):
    """Of Adam with V at rest: m' = b1 m + (1 - b1) (x + z) and x' = x - k eta m', whose covariance is that of a discrete
    Lyapunov equation."""
    eta, sigma = 0.1, 0.8
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(sigma))
    k = 1 / sigma
    step = np.array([[1 - k * eta * (1 - b1), -k * eta * b1], [1 - b1, b1]])
    noise = sigma * np.array([[-k * eta * (1 - b1)], [1 - b1]])
    exact = scipy.linalg.solve_discrete_lyapunov(step, noise @ noise.T)[0, 0]
    ratios = {}
    for model in ("compagnoni", "second-order", "second-order-drift"):
        sde = js.Adam(eta, b1, 1 - 1e-7, eps=0.0).sde(problem, model)
        late, y = jnp.asarray(1e12), jax.tree.map(lambda leaf: jnp.zeros(1), sde.init(jnp.ones(1), jax.random.key(0))[1])

        def drift(u, sde=sde, y=y, late=late):
            moved = sde.drift(late, y._replace(x=u[:1], m=u[1:], v=jnp.full(1, sigma**2)))
            return jnp.concatenate([moved.x, moved.m])

        still = y._replace(v=jnp.full(1, sigma**2))
        one = jax.tree.map(jnp.zeros_like, sde.noise_shaped(still))
        one = one._replace(gradient=jnp.ones(1)) if model == "second-order" else jnp.ones(1)
        kick = sde.diffusion(late, still)(one)
        spread = np.array([[float(kick.x[0])], [float(kick.m[0])]])
        jacobian = np.asarray(jax.jacfwd(drift)(jnp.zeros(2)), float)
        ratios[model] = scipy.linalg.solve_continuous_lyapunov(jacobian, -spread @ spread.T)[0, 0] / exact
    assert abs(ratios["second-order-drift"] - 1) < 0.012
    assert ratios["second-order"] == pytest.approx(b1**2, abs=0.01)
    assert ratios["compagnoni"] < 0.93  # eta k = 1/8 is no small rate


@pytest.mark.parametrize("name", [pytest.param("adamw", marks=pytest.mark.sweep), "rmspropw"])
def test_on_mini_batches_the_corrected_drift_is_nearer(name):
    """The mean loss on the way down, each SDE with its solver's error extrapolated."""
    features = jax.random.normal(jax.random.key(0), (64, 2))
    data = features, features @ jnp.ones(2) + 0.5 * jax.random.normal(jax.random.key(3), (64,))
    problem = js.Problem.from_data(lambda w, e: 0.5 * (e[0] @ w - e[1]) ** 2, data, batch_size=16)
    opt = {
        "adamw": js.AdamW(0.02, b1=0.9, b2=0.99, weight_decay=0.01),
        "rmspropw": js.RMSpropW(0.02, 0.95, initial_scale=1.0, weight_decay=0.01),
    }[name]
    run = dict(steps=30, seeds=1000, key=jax.random.key(1), progress=False)
    chain = js.simulate(opt.chain(problem), jnp.zeros(2), every=30, **run)["loss"]
    gaps = []
    for model in ("compagnoni", "second-order-drift"):
        pair = two_levels(opt.sde(problem, model), jnp.zeros(2), {"loss": problem.loss}, substeps=8, **run)["loss"].extrapolated
        gaps.append(abs(pair.mean[-1] - float(chain.mean[-1])))
    spread = float(chain.stderr[-1])
    assert gaps[0] > 6 * spread
    assert gaps[1] < 0.3 * gaps[0] + 2 * spread


def test_the_full_model_has_the_noise_of_v():
    eta = 1e-3
    opt = js.RMSprop(eta, 1 - RHO * eta, initial_scale=V)
    mean, exact = _chain_step("rmsprop", eta)
    with jax.enable_x64(True):
        sde = opt.sde(js.Problem(_loss, js.Gaussian(jnp.asarray(SIGMA))), "compagnoni-full")
        y = type(sde.init(jnp.full(1, X), jax.random.key(0))[1])(jnp.full(1, X), jnp.full(1, V))
        diffusion = sde.diffusion(0.0, y)
        noise = type(sde.noise_shaped(y))
        columns = [diffusion(noise(jnp.array([a]), jnp.array([b]))) for a, b in ((1.0, 0.0), (0.0, 1.0))]
    spread = np.array([[float(c.x[0]), float(c.v[0])] for c in columns]).T
    np.testing.assert_allclose(eta * spread @ spread.T, exact - np.outer(mean, mean), rtol=0.03)


def test_v_near_zero_is_no_trouble():
    opt = js.RMSprop(0.05, 0.9, initial_scale=0.36)
    for model in ("compagnoni-full", "second-order"):
        run = js.simulate(opt.sde(PROBLEM, model), jnp.array([0.5]), steps=100, substeps=1, seeds=200, key=jax.random.key(0))
        assert int(run.diverged[-1]) == 0 and float(run["x"].variance[-1, 0]) < 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda: js.RMSprop(0.1).sde(js.Problem(_loss, js.Laplace(1.0)), "second-order"),
            "'second-order' needs the fourth moments .* got Laplace",
        ),
        (
            lambda: js.AdamW(0.1).sde(js.Problem(_loss, js.Gaussian(covariance=jnp.eye(2))), "compagnoni-full"),
            "'compagnoni-full' needs the fourth moments .* got Gaussian",
        ),
        (
            lambda: js.SignSGD(0.1).sde(js.Problem(_loss, js.Uniform(1.0)), "second-order"),
            "needs noise of constant law whose mean sign is smooth, .* got Uniform",
        ),
    ],
)
def test_what_the_models_refuse(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


H, STD, ETA, THETA = np.array([[1.5, 0.6], [0.6, 0.8]]), np.array([0.5, 0.9]), 0.1, 0.3
POINT, MEAN, SQUARE = np.array([0.7, -0.4]), np.array([0.3, 0.2]), np.array([0.6, 1.1])


def _coupled(x):
    return 0.5 * x @ H @ x + jnp.sum(x**4) / 4


def _at(sde, values):
    """The SDE's state with these values, in its own order of fields."""
    kind = type(sde.state_from_chain(sde.chain.init(jnp.asarray(values["x"]))))
    return kind(**{k: jnp.asarray(values[k]) for k in kind._fields})


@pytest.mark.parametrize("name", ["rmspropw", "adamw"])
def test_drift_of_coupled_coordinates_is_the_one_written_out_by_hand(name):
    """The matrix formulas, with the Hessian written out, and bias corrections differentiated by differences."""
    rho1, rho2, eps, t = 4.0, 1.0, 1e-2, 0.7
    g, hessian, s = H @ POINT + POINT**3, H + np.diag(3 * POINT**2), STD**2
    to_v = rho2 * (g**2 + s - SQUARE)
    if name == "rmspropw":
        p = np.sqrt(SQUARE) + eps
        in_x = -g / p - THETA * POINT
        per_v = g / (2 * np.sqrt(SQUARE) * p**2)
        by_x = 0.5 * (hessian @ in_x / p + THETA * in_x) - 0.5 * per_v * to_v
        seen = rho2 * (g**3 + 3 * g * s - SQUARE * g) / (2 * np.sqrt(SQUARE) * p**2)
        expected = {"x": in_x + ETA * (by_x + seen)}
    else:

        def gain(t):
            first, second = (1 - (1 - ETA * rho) ** (t / ETA) for rho in (rho1, rho2))
            return np.sqrt(second) / first / (np.sqrt(SQUARE) + eps * np.sqrt(second))

        k, second = gain(t), 1 - (1 - ETA * rho2) ** (t / ETA)
        in_x, to_m = -k * MEAN - THETA * POINT, rho1 * (g - MEAN)
        per_v = k * MEAN / (2 * np.sqrt(SQUARE) * (np.sqrt(SQUARE) + eps * np.sqrt(second)))
        in_time = (gain(t + 1e-5) - gain(t - 1e-5)) / 2e-5 * MEAN
        expected = {
            "x": in_x + 0.5 * ETA * (-k * to_m + per_v * to_v - in_time + THETA * in_x),
            "m": to_m - 0.5 * ETA * rho1 * (hessian @ in_x - to_m),
        }
    expected["v"] = to_v - 0.5 * ETA * rho2 * (2 * g * (hessian @ in_x) - to_v)
    with jax.enable_x64(True):
        opt = {
            "rmspropw": js.RMSpropW(ETA, 1 - ETA * rho2, eps, 1.0, THETA),
            "adamw": js.AdamW(ETA, 1 - ETA * rho1, 1 - ETA * rho2, eps, THETA),
        }[name]
        sde = opt.sde(js.Problem(_coupled, js.Gaussian(jnp.asarray(STD))), "second-order")
        drift = eqx.filter_jit(sde.drift)(t, _at(sde, dict(x=POINT, m=MEAN, v=SQUARE)))
    for field, value in expected.items():
        np.testing.assert_allclose(getattr(drift, field), value, rtol=1e-8)


def test_weight_decay_in_the_optax_transform_itself():
    """One step of `optax.adamw` on quadrature nodes, at time 1 of a run, with its own bias correction and decay."""
    gaps = []
    for eta in (0.01, 0.005):
        with jax.enable_x64(True):
            opt = js.AdamW(eta, b1=1 - 2 * eta, b2=1 - eta, weight_decay=THETA)
            problem = js.Problem(_loss, js.Gaussian(jnp.asarray(SIGMA)))
            chain, sde = opt.chain(problem), opt.sde(problem, "second-order")
            state = chain.init(jnp.full(len(NODES), X))
            count = jnp.asarray(round(1 / eta), jnp.int32)
            averages = dict(count=count, mu=jnp.full(len(NODES), M), nu=jnp.full(len(NODES), V))
            state = state._replace(transform=optax.tree.set(state.transform, **averages))
            moved = eqx.filter_jit(chain.apply)(state, jnp.asarray(_gradient(X) + SIGMA * NODES)).x
            y = _at(sde, dict(x=np.array([X]), m=np.array([M]), v=np.array([V])))
            drift = eqx.filter_jit(sde.drift)
            b = drift(1.0, y)
            slope = eqx.filter_jit(lambda y, b, drift=drift: jax.jvp(drift, (1.0, y), (1.0, b))[1])(y, b)
            gaps.append(WEIGHTS @ np.asarray(moved) - X - float((eta * b.x + eta**2 / 2 * slope.x)[0]))
    assert abs(np.log2(gaps[0] / gaps[1]) - 3) < 0.2, gaps


@pytest.mark.parametrize(("model", "order"), [("compagnoni", 1), ("second-order", 2)])
def test_sgds_mean_and_covariance_on_a_quadratic_converge_at_the_order(model, order):
    """Both sides are linear: powers of a matrix against its exponential, with SciPy's Lyapunov solvers."""
    q, time, start, errors = np.array([[1.0, -0.3], [-0.3, 0.5]]), 1.0, np.array([2.0, -1.0]), []
    for eta in (0.025, 0.0125):
        with jax.enable_x64(True):
            problem = js.Problem(js.Quadratic(jnp.asarray(H)), js.Gaussian(covariance=jnp.asarray(q)))
            sde = js.SGD(eta).sde(problem, model)
            a = np.asarray(eqx.filter_jit(jax.jacfwd(sde.drift, 1))(0.0, jnp.zeros(2)))
            spread = np.asarray(eqx.filter_jit(jax.vmap(sde.diffusion(0.0, jnp.zeros(2)), out_axes=1))(jnp.eye(2)))
        flow, settled = scipy.linalg.expm(a * time), scipy.linalg.solve_continuous_lyapunov(a, -spread @ spread.T)
        step = np.eye(2) - eta * H
        power, rest = np.linalg.matrix_power(step, round(time / eta)), scipy.linalg.solve_discrete_lyapunov(step, eta**2 * q)
        mean = np.linalg.norm(flow @ start - power @ start)
        errors.append((mean, np.linalg.norm(settled - flow @ settled @ flow.T - rest + power @ rest @ power.T)))
    slopes = np.log2(np.divide(*errors))
    # The covariance is of order eta itself, and right to leading order in both.
    assert np.all(np.abs(slopes - [order, 2]) < 0.1), slopes


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_whiten_gives_the_noise_of_the_averages_draw_by_draw(name):
    x, m, v, g = (jnp.full(len(NODES), c) for c in (X, M, V, _gradient(X)))
    opt = {"rmsprop": js.RMSprop(ETA, 0.9), "adam": js.Adam(ETA, 0.6, 0.9)}[name]
    sde = opt.sde(PROBLEM, "second-order")
    drawn = g + SIGMA * jnp.asarray(NODES, jnp.float32)
    z = eqx.filter_jit(sde.whiten)(x, drawn)
    second = [[WEIGHTS @ np.asarray(a * b) for b in z] for a in z]
    np.testing.assert_allclose(second, np.eye(2), atol=1e-5)
    kick = eqx.filter_jit(lambda y, dw: sde.diffusion(0.5, y)(dw))
    noise = kick(_at(sde, dict(x=x, m=m, v=v)), jax.tree.map(lambda z: jnp.float32(np.sqrt(ETA)) * z, z))
    np.testing.assert_allclose(noise.v, 0.1 * (drawn**2 - g**2 - SIGMA**2), rtol=1e-4, atol=1e-5)
    if name == "adam":
        np.testing.assert_allclose(noise.m, 0.4 * (drawn - g), rtol=1e-4, atol=1e-5)
        assert not np.any(noise.x)
    else:
        np.testing.assert_allclose(noise.x, -ETA * (drawn - g) / np.sqrt(V), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opt", [js.RMSprop(0.1, 0.9), js.Adam(0.1, 0.0, 0.0)])
def test_v_at_and_below_zero_and_no_memory_give_finite_numbers(opt):
    """The second coordinate has neither noise nor gradient. float32 and the shapes of a pytree are kept."""
    problem = js.Problem(lambda x: jnp.sum(x["w"] ** 4) + x["b"] ** 2, js.Gaussian({"w": jnp.array([0.5, 0.0]), "b": 1.0}))
    sde = opt.sde(problem, "second-order")
    x = {"w": jnp.array([0.3, 0.0]), "b": jnp.array(0.2)}
    y = sde.state_from_chain(sde.chain.init(x))._replace(v={"w": jnp.array([-0.4, 0.0]), "b": jnp.array(0.0)})
    drift = eqx.filter_jit(sde.drift)(0.1, y)
    kick = eqx.filter_jit(lambda y: sde.diffusion(0.1, y)(jax.tree.map(jnp.ones_like, sde.noise_shaped(y))))(y)
    for change in (drift, kick):
        chex.assert_trees_all_equal_shapes_and_dtypes(change, y)
        chex.assert_tree_all_finite(change)
    assert drift.x["w"][1] == 0 and kick.x["w"][1] == 0


@pytest.mark.parametrize("model", ["compagnoni-full", "second-order"])
def test_a_small_start_of_v_is_kept(model):
    """V is held above a share of the least its mean can be, not of the noise's variance: no error that stays as eta -> 0."""
    eta, small = 1e-6, 1e-3
    sde = js.RMSprop(eta, 1 - eta, initial_scale=small).sde(PROBLEM, model, start_steps=0)
    drift = eqx.filter_jit(sde.drift)(0.0, _at(sde, dict(x=jnp.full(1, X), v=jnp.full(1, small))))
    np.testing.assert_allclose(drift.x, -_gradient(X) / np.sqrt(small), rtol=0.02)
