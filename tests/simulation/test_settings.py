"""The public functions run under JAX's strict settings, with the results that they have without."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde import networks, theory
from jaxsde._registry import NOISES

KEY, X0 = jax.random.key(0), jnp.ones(2)
PROBLEM = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.5))
COUPLED = js.Problem(js.Quadratic([[2.0, 0.5], [0.5, 1.0]]), js.Gaussian(covariance=[[1.0, 0.2], [0.2, 0.5]]))
SADDLE = js.Problem(js.EmbeddedSaddle(), js.StudentT(3.0, 0.5))
EXAMPLES = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))
BATCHES = js.Problem.from_data(lambda w, e: 0.5 * jnp.sum(w * e) ** 2, EXAMPLES, batch_size=2)
SIGNED = js.Problem.from_data(lambda w, e: 0.5 * jnp.sum(w * e) ** 2, EXAMPLES, batch_size=2, sign_batches=4)
SCHEDULED = js.Adam(optax.cosine_decay_schedule(0.1, 4), reference_rate=0.1)
TS = jnp.array([0.0, 0.1, 0.2])


def _run(process, x0=X0, **changes):
    return js.simulate(process, x0, **dict(steps=4, seeds=4, key=KEY, every=2, progress=False) | changes)


def _mean(process, x0=X0, **changes):
    x = _run(process, x0, **changes)["x"]
    return x.mean, x.variance, x.stderr


def _reduced():
    samples = _run(js.SGD(0.1).chain(PROBLEM), reduce=js.Samples(), chunk=3)["x"].values
    parts = _run(js.SGD(0.1).chain(PROBLEM), reduce=js.Jackknife(js.Moments(covariance=True), 2))["x"]
    return samples, parts.total.covariance, parts.left_out.stderr, parts.without[0].mean


def _counted():
    edges = jnp.linspace(-2.0, 2.0, 5)
    counts = js.Several(
        bins=js.Jackknife(js.Histogram(edges), 2),
        own=js.Histogram(jnp.stack([edges, 2 * edges])),
        pairs=js.JointHistogram(edges, [(0, 1)]),
        quantiles=js.Quantiles([0.1, 0.5]),
        lags=js.Covariances([0, 1]),
    )
    parts = _run(js.SGD(0.1).chain(PROBLEM), reduce={"x": counts})["x"]
    bins, own, pairs, quantiles, lags = (parts[name] for name in ("bins", "own", "pairs", "quantiles", "lags"))
    of_bins = bins.total.counts, bins.left_out.density, own.density, own.stderr, own.cdf, pairs.counts, pairs.density
    return of_bins, quantiles.quantiles, quantiles.stderr, lags.covariance, lags.correlation


def _mixing():
    way = js.mixing(js.SGD(0.5).chain(PROBLEM), X0, key=KEY, seeds=40, steps=256, progress=False)
    return way.laws["loss"].distance


def _multilevel():
    run = dict(steps=4, stderr=0.05, pilot=64, key=KEY, progress=False)
    return js.multilevel(js.SGD(0.1).sde(PROBLEM), X0, {"loss": PROBLEM.loss}, **run)["loss"].mean


def _noises():
    batches = [np.asarray(EXAMPLES)[[i % 8, (i + 3) % 8]] for i in range(16)]
    report = js.batch_noise(lambda w, batch: jnp.mean((batch @ w) ** 2), X0, batches, progress=False)
    return js.advise(BATCHES, X0, js.RMSprop(0.1), batch_size=4, draws=16, progress=False).floor, report.variance


def _derived():
    return _mean(js.Optax(optax.sgd, 0.1).sde(PROBLEM))


def _rate():
    curves = _run(js.SGD(0.1).chain(PROBLEM), steps=40, every=1, reduce=js.Jackknife(js.Moments(), 4))["loss"]
    return js.convergence_rate(curves, floor=0.0, window=(0.0, 2.0)).rate


def _laws():
    one, other = (_run(p, reduce=js.Samples())["x"].values[-1] for p in (js.SGD(0.1).chain(PROBLEM), js.SGD(0.1).sde(PROBLEM)))
    return js.compare_laws(one, other, permutations=9).distance


def _every_law():
    numbers = {"df": 3.0, "alpha": 1.5}
    laws = [law(*(numbers[name] for name in names), 0.5) for law, names in NOISES.values()]
    signs = [_mean(js.SignSGD(0.1).sde(js.Problem(js.Quadratic([1.0, 2.0]), law))) for law in laws]
    return signs, [law.sample(X0, KEY) for law in laws]


def _networks():
    image, text = np.ones((3, 1, 4, 4), np.float32), np.zeros((3, 4), np.int32)
    labels = np.arange(3, dtype=np.int32)
    made = [
        (networks.MLP(16, 3, width=4, layers=2, key=KEY), (image, labels)),
        (networks.CNN((1, 4, 4), 3, channels=2, dense=4, key=KEY), (image, labels)),
        (networks.CharTransformer(4, length=4, key=KEY), (text, text)),
    ]
    problems = [(js.Problem.from_data(networks.cross_entropy, data, batch_size=2), net) for net, data in made]
    return [problem.stochastic_gradient(net, KEY) for problem, net in problems]


def _closed_forms(opt, problem=PROBLEM):
    return (
        theory.moments(opt, problem, X0, TS),
        theory.stationary(opt, problem),
        theory.discrete_moments(opt, problem, X0, [1, 2]),
        theory.discrete_stationary(opt, problem),
        theory.loss_bound(opt, PROBLEM, X0, TS).loss,
        theory.scaled(opt, 2.0),
    )


def _references():
    one = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    vectors = dict(hessian=X0, scale=X0, learning_rate=0.1)
    lemmas = theory.lemma_3_7(X0, **vectors, ts=TS), theory.lemma_3_8(X0, **vectors, ts=TS)
    scheduled = js.SignSGD(theory.power_schedule(0.5, 0.1), reference_rate=0.1)
    return (
        lemmas,
        theory.schedule_moments(scheduled, PROBLEM, X0, TS),
        theory.schedule_loss_bound(scheduled, PROBLEM, X0, TS),
        theory.birth_death(js.SignSGD(0.1), one, 0.0).variance,
        theory.density(js.SGD(0.1).sde(one)).variance,
        theory.phase(PROBLEM, X0),
        theory.phase_2_drift_bounds(PROBLEM, X0),
        theory.lemma_c57(**vectors, weight_decay=0.1),
    )


QUICK = {
    "SGD": lambda: _mean(js.SGD(0.1).chain(PROBLEM)),
    "one seed": lambda: _mean(js.SGD(0.1).chain(PROBLEM), seeds=1)[0],
    "Adam's SDE": lambda: _mean(js.Adam(0.1).sde(PROBLEM)),
    "a pytree": lambda: (
        _run(
            js.SignSGD(0.1).chain(js.Problem(lambda p: p["b"] ** 2 + jnp.sum(p["a"][0] ** 2), js.Gaussian(0.5))),
            {"a": [X0], "b": 1.0},
        )["x"].mean
    ),
    "mini-batches": lambda: (_mean(js.SGD(0.1).chain(BATCHES)), BATCHES.noise.covariance(X0)),
}
ALL = QUICK | {
    "a schedule": lambda: (_mean(SCHEDULED.chain(PROBLEM)), _mean(SCHEDULED.sde(PROBLEM), substeps=2)),
    "correlated signs": lambda: _mean(js.SignSGD(0.1).sde(COUPLED)),
    "second order": lambda: _mean(js.AdamW(0.1).sde(PROBLEM, "second-order"), increments="three-point"),
    "RMSpropW": lambda: (_mean(js.RMSpropW(0.1).chain(COUPLED)), _mean(js.RMSpropW(0.1).sde(COUPLED), increments="gaussian")),
    "batches' SDE": lambda: (_mean(js.Adam(0.1).sde(BATCHES)), _mean(js.SignSGD(0.1).sde(BATCHES))),
    "batches' signs": lambda: _mean(js.SignSGD(0.1).sde(SIGNED)),
    "SVAG": lambda: _mean(js.svag(js.Adam(0.1), BATCHES, 2)),
    "a sampler": lambda: _mean(js.SGD(0.1).chain(PROBLEM), lambda key: jax.random.normal(key, (2,))),
    "truths": lambda: _run(js.SGD(0.1).chain(PROBLEM), observe={"n": lambda x: jnp.sum(x > 0)})["n"].mean,
    "reducers": _reduced,
    "counts": _counted,
    "mixing": _mixing,
    "a derived SDE": _derived,
    "multilevel": _multilevel,
    "noises": _noises,
    "second-order drift": lambda: _mean(js.AdamW(0.1).sde(BATCHES, "second-order-drift")),
    "laws": _every_law,
    "networks": _networks,
    "stationary": lambda: js.stationary(js.SGD(0.5).chain(PROBLEM), X0, key=KEY, seeds=16, steps=16, progress=False).covariance,
    "stationary, batches": lambda: (
        js.stationary(js.SGD(0.5).sde(BATCHES), X0, key=KEY, seeds=16, steps=16, progress=False).covariance
    ),
    "compare": lambda: js.compare(js.SGD(0.1), COUPLED, X0, steps=20, seeds=40, substeps=1, progress=False).sde.loss_stderr,
    "weak_error": lambda: js.weak_error(
        js.SGD(0.1), PROBLEM, X0, T=1.0, learning_rates=(0.5, 0.25), key=KEY, seeds=16, substeps=1, progress=False
    ).functions["loss"],
    "expectations": lambda: (
        js.expectations(js.RMSprop(0.1).sde(SADDLE), X0, {"loss": SADDLE.loss}, steps=4, seeds=8, key=KEY, progress=False)[
            "loss"
        ].mean
    ),
    "rate": _rate,
    "compare_laws": _laws,
    "noise_report": lambda: js.noise_report(BATCHES, X0, key=KEY, draws=16).layers,
    "theory, SGD": lambda: _closed_forms(js.SGD(0.1)),
    "theory, SignSGD": lambda: (_closed_forms(js.SignSGD(0.1)), theory.moments(js.SignSGD(0.1), COUPLED, X0, TS)),
    "theory, AdamW": lambda: _closed_forms(js.AdamW(0.01)),
    "references": _references,
}


# These compile for many seconds each.
SLOW = {
    "networks",
    "weak_error",
    "compare",
    "laws",
    "stationary",
    "stationary, batches",
    "expectations",
    "reducers",
    "mixing",
    "multilevel",
}


@contextlib.contextmanager
def _strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@contextlib.contextmanager
def _double():
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(True):
        yield


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.sweep) if n in SLOW else n for n in ALL])
def test_strict_promotion_and_no_nan(name):
    """Both at once: a setting of promotion changes no number, and a healthy run makes no nan that JAX would raise for."""
    with _strict(), jax.debug_nans(True):
        strict = ALL[name]()
    for one, other in zip(*(jax.tree.leaves(eqx.filter(a, eqx.is_array)) for a in (strict, ALL[name]())), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("setting", [_double, lambda: jax.disable_jit()], ids=["x64", "without compilation"])
@pytest.mark.parametrize("name", QUICK)
def test_double_precision_and_no_compilation(name, setting):
    with setting():
        for leaf in jax.tree.leaves(eqx.filter(QUICK[name](), eqx.is_array)):
            assert np.all(np.isfinite(leaf))


def test_nan_that_stands_for_no_statistic_is_no_error():
    with jax.debug_nans(True):
        x = _run(js.SGD(0.1).chain(PROBLEM), seeds=1)["x"]
        assert np.all(np.isnan(x.variance)) and np.all(np.isnan(x.stderr))
