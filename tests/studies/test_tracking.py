"""Gaps between models and optimizers, against exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.studies._experiments._networks import _crossing
from jaxsde.studies._tracking import Run, track


def test_gaps_of_sgd_are_those_of_the_exact_laws():
    """On a quadratic: the loss of the chain, of an Ornstein-Uhlenbeck process, and of the noiseless flow."""
    eta, steps, every, sigma, curvature, x0 = 0.1, 20, 5, 0.8, np.array([1.0, 2.0]), np.array([1.0, -0.5])
    problem = js.Problem(js.Quadratic(curvature), js.Gaussian(sigma))
    seen = track(js.SGD(eta), problem, jnp.asarray(x0), Run(steps, every, 3000, jax.random.key(0)))
    k = np.arange(every, steps + 1, every)[:, None]

    def loss(mean, variance):
        return 0.5 * np.sum(curvature * (mean**2 + variance), axis=1)

    flow, t = 1 - eta * curvature, eta * k
    chain = loss(flow**k * x0, (eta * sigma) ** 2 * (1 - flow ** (2 * k)) / (1 - flow**2))

    def flowing(rate, noise):
        """The mean loss of dX = -rate X dt + noise dW."""
        decayed = np.exp(-rate * t)
        return loss(decayed * x0, noise**2 * (1 - decayed**2) / (2 * rate))

    faster, noise = curvature * (1 + eta * curvature / 2), np.sqrt(eta) * sigma
    models = {"paper": flowing(curvature, noise), "second order": flowing(faster, noise), "ode": flowing(curvature, 0.0)}
    assert set(seen.models) == set(models)
    for label, exact in ((label, model - chain) for label, model in models.items()):
        found = seen.models[label]
        # Two and four solver steps leave an error of second order in their length.
        left = 0.02 * np.abs(exact).max()
        assert np.all(np.abs(found.difference - exact) < 6 * found.stderr + left)
    paper, ode = seen.models["paper"], seen.models["ode"]
    assert np.all(paper.stderr < 0.3 * ode.stderr * np.sqrt(8))
    assert 0.9 < paper.spread < 1.1 and ode.spread == 0 and paper.solver > 0


def test_the_second_order_is_closest_to_adamw():
    problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.3))
    opt = js.AdamW(0.02, b1=0.9, b2=0.98, weight_decay=0.1)
    seen = track(opt, problem, jnp.ones(2), Run(30, 10, 400, jax.random.key(1)))
    gaps = {label: seen.gap(label)[0] for label in seen.models}
    assert min(gaps, key=lambda label: gaps[label]) == "second order"
    assert seen.ts.shape == seen.loss.shape == (4,) and seen.decrease > 0


@pytest.mark.parametrize(
    "gaps, expected",
    [([0.2, 0.3, 0.4], 0.5), ([0.01, 0.02, 0.04], np.nan), ([0.05, 0.1, 0.2], 1.0), ([0.05, 0.2, 0.3], np.sqrt(0.5))],
)
def test_where_gaps_cross_the_tolerance(gaps, expected):
    """The rate at which a gap comes to a tenth, by interpolation of logarithms."""
    np.testing.assert_allclose(_crossing(np.array([0.5, 1.0, 2.0]), np.array(gaps)), expected)
