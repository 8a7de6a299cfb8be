"""An optimizer beside an SDE on the same noise: each has its own law, and together they have little variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.optimizers import SquareNoise
from jaxsde.processes import Paired


def of_gradient(dw):
    return dw.gradient if isinstance(dw, SquareNoise) else dw


def paired(opt, problem, model, substeps):
    return Paired(opt.sde(problem, model=model).discretised(substeps, "gaussian"), of_gradient)


def simulated(process, x0, functions, **run):
    return js.simulate(process, x0, observe=functions, key=jax.random.key(0), progress=False, **run)


def test_one_step_of_sgds_sde_is_the_step_of_the_optimizer():
    problem = js.Problem(js.Quadratic([1.0, 3.0]), js.Gaussian(jnp.array([0.5, 2.0])))
    pair = paired(js.SGD(0.1), problem, "compagnoni", 1)
    run = simulated(pair, jnp.ones(2), {"d": lambda s: s.sde - s.chain, "x": lambda s: s.chain}, steps=20, seeds=50)
    np.testing.assert_allclose(run["d"].mean, 0, atol=1e-6)
    assert np.all(run["d"].variance < 1e-12) and np.all(run["x"].variance[-1] > 1e-3)


def test_both_have_their_own_moments():
    eta, steps, substeps, curvature, sigma = 0.2, 15, 3, np.array([1.0, 2.0]), np.array([0.5, 1.5])
    problem = js.Problem(js.Quadratic(curvature), js.Gaussian(jnp.asarray(sigma)))
    seeds = 40_000
    run = simulated(
        paired(js.SGD(eta), problem, "compagnoni", substeps), jnp.ones(2),
        {"chain": lambda s: s.chain, "sde": lambda s: s.sde, "d": lambda s: s.sde - s.chain}, steps=steps, seeds=seeds,
    )  # fmt: skip
    h = eta / substeps
    for name, flow, n, kick in (
        ("chain", 1 - eta * curvature, steps, eta * sigma),
        ("sde", 1 - h * curvature, steps * substeps, np.sqrt(h * eta) * sigma),
    ):
        variance = kick**2 * (1 - flow ** (2 * n)) / (1 - flow**2)
        assert np.all(np.abs(run[name].mean[-1] - flow**n) < 6 * np.sqrt(variance / seeds))
        assert np.all(np.abs(run[name].variance[-1] - variance) < 6 * variance * np.sqrt(2 / seeds))
    assert np.all(run["d"].variance[-1] < 0.1 * run["chain"].variance[-1])


@pytest.mark.parametrize("model", ["compagnoni", "second-order"])
def test_the_optimizer_beside_an_sde_that_starts_later_is_the_optimizer(model):
    """AdamW's SDE starts after a step of the optimizer, which both make on the same noise."""
    problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.7))
    opt = js.AdamW(0.02, b1=0.8, b2=0.95, weight_decay=0.1)
    pair = paired(opt, problem, model, 4)
    assert pair.process.sde.start_steps == 1
    functions = {"chain": lambda s: s.chain, "xx": lambda s: s.chain**2, "d": lambda s: s.sde - s.chain}
    run = simulated(pair, jnp.ones(2), functions, steps=40, every=1, seeds=20_000)
    np.testing.assert_allclose(run["d"].mean[:2], 0, atol=1e-7)
    assert np.all(run["chain"].mean[0] == 1) and np.all(run["d"].variance[-1] > 0)
    alone = js.simulate(
        opt.chain(problem), jnp.ones(2), steps=40, every=1, seeds=20_000, key=jax.random.key(1), progress=False,
        observe={"chain": lambda x: x, "xx": lambda x: x**2},
    )  # fmt: skip
    for name in ("chain", "xx"):
        z = (run[name].mean[1:] - alone[name].mean[1:]) / np.hypot(run[name].stderr[1:], alone[name].stderr[1:])
        assert np.all(np.abs(z) < 6)


def test_a_run_cut_in_two_goes_on_within_the_noise():
    """The noise of a step may be collected over the end of a call: what is collected is part of the state."""
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    pair = paired(js.SignSGD(0.05), problem, "compagnoni", 4)
    functions = {"chain": lambda s: s.chain, "sde": lambda s: s.sde}
    whole, parts = (simulated(pair, jnp.ones(1), functions, steps=12, every=n, seeds=8) for n in (12, 1))
    for name in functions:
        np.testing.assert_array_equal(whole[name].mean[-1], parts[name].mean[-1])


def test_mini_batches_share_their_normal_noise():
    """The SDE's increments are a number for each example; SignSGD's are the signs', which no gradient is made of."""
    problem = js.Problem.from_data(lambda w, d: 0.5 * (w - d) ** 2, jnp.array([0.0, 1.0, 5.0]), batch_size=2)
    normal = js.Problem(problem.loss, js.AsGaussian(problem.noise))
    functions = {"d": lambda s: s.sde - s.chain, "x": lambda s: s.chain}
    run = simulated(paired(js.SGD(0.1), normal, "compagnoni", 1), jnp.ones(()), functions, steps=20, seeds=50)
    np.testing.assert_allclose(run["d"].mean, 0, atol=1e-6)
    assert np.all(run["d"].variance < 1e-12) and np.all(run["x"].variance[-1] > 1e-3)
    with pytest.raises(ValueError, match="no noise in common"):
        simulated(paired(js.SignSGD(0.1), problem, "compagnoni", 1), jnp.ones(()), functions, steps=2, seeds=2)
