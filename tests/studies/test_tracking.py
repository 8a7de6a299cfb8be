"""Gaps between models and optimizers, against exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.problems import AbstractIndependentNoise
from jaxsde.studies._experiments._network_batches import _by_optimizer, _laws_of_batches
from jaxsde.studies._experiments._network_places import Cell
from jaxsde.studies._experiments._network_tables import _closest
from jaxsde.studies._experiments._networks import _crossing
from jaxsde.studies._tracking import Run, Tracked, Tracking, track


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


def squared_distance(w, example):
    return 0.5 * jnp.sum((w - example) ** 2)


def test_gaps_of_sgd_on_mini_batches_are_those_of_the_exact_laws():
    """A loss whose batches have additive noise: SGD's mean loss goes by its covariance alone, so that the law does nothing."""
    eta, steps, every, batch, x0 = 0.1, 20, 5, 4, np.array([1.0, -0.5])
    examples = jax.random.exponential(jax.random.key(0), (12, 2)) * jnp.array([1.0, 2.0])
    problem = js.Problem.from_data(squared_distance, examples, batch_size=batch)
    seen = track(js.SGD(eta), problem, jnp.asarray(x0), Run(steps, every, 1500, jax.random.key(1)))
    assert seen.law is not None
    mean, variance = np.mean(examples, axis=0), np.var(examples, axis=0)
    k = np.arange(every, steps + 1, every)[:, None]
    flow, t, noise = 1 - eta, eta * k, variance / batch

    def loss(away, its_variance):
        return 0.5 * np.sum(away**2 + its_variance + variance, axis=1)

    chain = loss(flow**k * (x0 - mean), eta**2 * noise * (1 - flow ** (2 * k)) / (1 - flow**2))

    def flowing(rate, noise):
        decayed = np.exp(-rate * t)
        return loss(decayed * (x0 - mean), noise * (1 - decayed**2) / (2 * rate))

    models = {
        "paper": flowing(1.0, eta * noise), "second order": flowing(1 + eta / 2, eta * noise), "ode": flowing(1.0, 0.0)
    }  # fmt: skip
    assert set(seen.models) == set(models)
    np.testing.assert_allclose(seen.loss[1:], chain, atol=6 * np.max(seen.law.stderr))
    assert np.all(np.abs(seen.law.difference) < 6 * seen.law.stderr) and 0.9 < seen.law.spread < 1.1
    for label, exact in ((label, model - chain) for label, model in models.items()):
        found = seen.models[label]
        left = 0.02 * np.abs(exact).max()
        assert np.all(np.abs(found.difference - exact) < 6 * found.stderr + left)


class Lottery(AbstractIndependentNoise):
    """Mostly nothing, and rarely much: of variance 1, and far from normal."""

    def sample(self, params, key):
        won, side = (jax.random.bernoulli(k, p, params.shape) for k, p in zip(jax.random.split(key), (0.02, 0.5), strict=True))
        return jnp.where(won, jnp.where(side, 1.0, -1.0) / jnp.sqrt(0.02), 0.0)

    def variance(self, params):
        return jnp.ones_like(params)


def test_the_law_of_the_noise_shows_where_it_matters():
    """RMSprop divides by what it has seen of the noise: rarely anything here. Against a loop by hand."""
    eta, decay, steps, seeds = 0.01, 0.9, 30, 1500
    problem = js.Problem(js.Quadratic([1.0]), Lottery())
    opt = js.RMSprop(eta, decay=decay, initial_scale=1.0)
    seen = track(opt, problem, jnp.ones(1), Run(steps, 10, seeds // 8, jax.random.key(2)), {"ode": "ode"})
    assert seen.law is not None
    random = np.random.default_rng(0)
    loss = {}
    for law in ("normal", "own"):
        x, v = np.ones(200_000), np.ones(200_000)
        for _ in range(steps):
            won = random.random(x.size) < 0.02
            rare = won * np.where(random.random(x.size) < 0.5, 1, -1) / np.sqrt(0.02)
            g = x + (random.standard_normal(x.size) if law == "normal" else rare)
            v = decay * v + (1 - decay) * g * g
            x = x - eta * g / (np.sqrt(v) + 1e-8)
        loss[law] = np.mean(0.5 * x**2)
    exact, error = loss["own"] - loss["normal"], seen.law.stderr[-1]
    assert abs(exact) > 20 * error
    assert abs(seen.law.difference[-1] - exact) < 6 * error + 0.01 * abs(exact)


def of_cell(optimizer, batch, models, law, spread=2.0):
    """A cell of the table: differences at two times with their standard errors, made by hand."""
    seen = {label: Tracked(np.array(difference), np.full(2, error), 1.0, 0.0) for label, (difference, error) in models.items()}
    difference, error = law
    of_law = Tracked(np.array(difference), np.full(2, error), 1.1, 0.0)
    return Cell("CNN", "start", batch, optimizer), Tracking(np.arange(3.0), np.array([9.0, 6.0, 5.0]), spread, seen, of_law)


CELLS = [
    of_cell(js.SGD(0.1), 4, {"paper": ([2.0, -4.0], 0.2), "second order": ([0.5, 0.5], 0.2)}, ([0.6, -0.8], 0.2)),
    of_cell(js.SGD(0.1), 4, {"paper": ([4.0, 4.0], 0.2), "second order": ([1.0, 1.0], 0.2)}, ([0.0, 0.2], 0.2)),
    of_cell(js.SignSGD(0.1), 4, {"paper": ([1.0, 1.0], 0.4)}, ([2.0, 2.0], 0.4)),
]


def test_what_the_law_of_batches_does_is_said_in_spreads_and_standard_errors():
    """Gaps .35, .05 and 1 of spread 2; z = (3, -4), (0, 1) and (5, 5), so that root mean squares are sqrt 6.5 and 5."""
    main, by_optimizer, spreads = _laws_of_batches(CELLS)
    assert main == (
        "Mean losses are off by so many spreads in the median: second order 0.38, paper 1.5; and as a batch's noise is not "
        "normal, 0.35, of which chance is 0.08"
    )
    assert by_optimizer.endswith("(1 by chance alone): SGD, batch 4 2.5, SignSGD, batch 4 5")
    assert spreads.endswith("median: start, batch 4 1.1")


@pytest.mark.parametrize(
    "gaps, expected",
    [
        ({"paper": (0.1, 0.1), "ode": (0.6, 0.1)}, "paper"),
        ({"paper": (0.1, 0.1), "ode": (0.5, 0.1)}, None),
        ({"ode": (0.6, 0.1), "second order": (0.7, 0.8), "paper": (0.1, 0.1)}, None),
    ],
)
def test_what_is_closest_is_clearly_closer_than_all_others(gaps, expected):
    """By three standard errors of the difference, also from one that comes after the next and is hardly known."""
    assert _closest(gaps) == expected


def test_gaps_by_optimizer_are_medians_and_what_an_optimizer_has_not_is_left_out():
    panel = _by_optimizer(CELLS, 4)
    assert panel.names == ("SGD", "SignSGD")
    curves = {curve.label: curve for curve in panel.curves}
    np.testing.assert_allclose(curves["paper"].y, [1.75, 0.5])
    np.testing.assert_allclose(curves["paper"].spread, [0.1, 0.2])
    np.testing.assert_allclose(curves["second order"].y, [0.375, np.nan])
    np.testing.assert_allclose(curves["batches"].y, [0.2, 1.0])
