"""Second-order SDEs: one-step moments against quadrature, and what the models refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js

SIGMA, RHO, X, V, M = 0.6, 1.3, 0.9, 0.8, 0.4


def _loss(x):
    return jnp.sum(x**4 / 4 + x**2 / 2)


def _gradient(x):
    return x**3 + x


PROBLEM = js.Problem(_loss, js.Gaussian(SIGMA))
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def _chain_step(name, eta):
    """Mean increment and its second moments over one step of the optimizer from a given state, by Gauss-Hermite."""
    g = _gradient(X) + SIGMA * NODES
    v = V + RHO * eta * (g**2 - V)
    if name == "sgd":
        increments = [-eta * g]
    elif name == "rmsprop":
        increments = [-eta * g / np.sqrt(v), v - V]
    else:
        m, t = M + 2 * RHO * eta * (g - M), 1.0 + eta
        c1, c2 = 1 - (1 - 2 * RHO * eta) ** (t / eta), 1 - (1 - RHO * eta) ** (t / eta)
        increments = [-eta * (m / c1) / np.sqrt(v / c2), m - M, v - V]
    mean = np.array([WEIGHTS @ i for i in increments])
    return mean, np.array([[WEIGHTS @ (a * b) for b in increments] for a in increments])


def _sde_step(name, model, eta):
    """The same of the SDE over a time eta, from the expansion of its semigroup to second order."""
    one = jnp.ones(1)
    optimizers = {
        "sgd": lambda: js.SGD(eta),
        "rmsprop": lambda: js.RMSprop(eta, 1 - RHO * eta, eps=0.0, initial_scale=V),
        "adam": lambda: js.Adam(eta, b1=1 - 2 * RHO * eta, b2=1 - RHO * eta, eps=0.0),
    }
    with jax.enable_x64(True):
        sde = optimizers[name]().sde(js.Problem(_loss, js.Gaussian(jnp.asarray(SIGMA))), model)
        one = jnp.ones(1)
        start = sde.init(X * one, jax.random.key(0))[1]
        values = dict(x=X * one, v=V * one, m=M * one)
        y = X * one if name == "sgd" else type(start)(**{k: values[k] for k in start._fields})
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


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam"])
def test_one_step_moments_match_to_third_order(name):
    rates = np.array([0.004, 0.002, 0.001])
    errors = {}
    for model in ("compagnoni", "second-order"):
        gaps = []
        for eta in rates:
            (a, aa), (b, bb) = _chain_step(name, eta), _sde_step(name, model, eta)
            gaps.append((np.max(np.abs(a - b)), np.max(np.abs(aa - bb))))
        errors[model] = np.array(gaps)
    slopes = {m: np.log2(e[:-1] / e[1:])[-1] for m, e in errors.items()}
    assert abs(slopes["compagnoni"][0] - 2) < 0.25
    assert slopes["second-order"][0] > 2.75
    assert slopes["second-order"][1] > 2.75


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
    "bad",
    [
        lambda: js.SGD(lambda k: 0.1, reference_rate=0.1).sde(PROBLEM, "second-order"),
        lambda: js.Adam(lambda k: 0.1, reference_rate=0.1).sde(PROBLEM, "second-order"),
        lambda: js.RMSprop(0.1).sde(js.Problem(_loss, js.Laplace(1.0)), "second-order"),
        lambda: js.AdamW(0.1).sde(js.Problem(_loss, js.Gaussian(covariance=jnp.eye(2))), "compagnoni-full"),
        lambda: js.SignSGD(0.1).sde(PROBLEM, "second-order"),
    ],
)
def test_what_the_models_refuse(bad):
    with pytest.raises(ValueError):
        bad()
