"""Chains and SDEs as processes: against Diffrax, against recursions written by hand, and their noise."""

import dataclasses

import chex
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import ONE_DEVICE, interrupt_before_chunk

import jaxsde as js
from benchmarks._compiles import count_compiles
from jaxsde import _random, _threefry
from jaxsde._registry import make_optimizers

HESSIAN = jnp.array([[2.0, 0.5], [0.5, 1.0]])
PROBLEM = js.Problem(js.Quadratic(HESSIAN), js.Gaussian(0.5))
X0 = jnp.array([1.0, -1.0])
ETA = 0.0625  # a power of two, so that times are exact in floating point
OPTIMIZERS = make_optimizers(ETA, variance=0.0, decay=0.9, b1=0.8, b2=0.9)
WITH_SDE = [name for name, opt in OPTIMIZERS.items() if opt.models]

INCREMENTS = {
    "two-point": js.TwoPointIncrements(),
    "three-point": js.ThreePointIncrements(),
    "gaussian": js.GaussianIncrements(),
}


@pytest.mark.parametrize("name", WITH_SDE)
@pytest.mark.parametrize("increments", list(INCREMENTS.values()), ids=list(INCREMENTS))
def test_simulate_agrees_with_diffeqsolve(name, increments):
    sde, steps, substeps, key = OPTIMIZERS[name].sde(PROBLEM), 40, 4, jax.random.key(5)
    run = js.simulate(
        sde, X0, steps=steps, seeds=3, key=key, substeps=substeps, increments=increments, reduce=js.Samples(), chunk=2
    )
    for seed in range(3):
        mine = _random.seed_key(_random.stream_key(key), jnp.asarray(seed, jnp.int32))
        t0, y0 = sde.init(X0, mine)
        h = ETA / substeps
        first = sde.start_steps * substeps
        solver = js.IndexedEuler(h, _random.brownian_key(mine), increments, first=first, noise_like=sde.noise_shaped)
        solution = diffrax.diffeqsolve(
            sde.term, solver, t0, steps * ETA, h, y0, adjoint=diffrax.ForwardMode(), max_steps=steps * substeps + 8
        )
        end = sde.position(jax.tree.map(lambda leaf: leaf[-1], solution.ys))
        np.testing.assert_allclose(run["x"].values[-1, seed], end, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["sgd", "sign_sgd"])
def test_simulate_agrees_with_diffrax_euler_on_the_same_increments(name):
    sde, steps, key, increments = OPTIMIZERS[name].sde(PROBLEM), 40, jax.random.key(5), js.GaussianIncrements()
    run = js.simulate(sde, X0, steps=steps, seeds=1, key=key, substeps=4, increments=increments, reduce=js.Samples())
    h = ETA / 4
    stream = _threefry.key_words(_random.brownian_key(_random.seed_key(_random.stream_key(key), jnp.asarray(0, jnp.int32))))

    def path(t0, t1):
        n = jnp.rint(t0 / h).astype(jnp.int32)
        return jnp.sqrt(h) * increments.draw_block(stream, n, X0)

    solution = diffrax.diffeqsolve(
        sde.terms(path), diffrax.Euler(), 0.0, steps * ETA, h, X0, adjoint=diffrax.ForwardMode(), max_steps=200
    )
    np.testing.assert_allclose(run["x"].values[-1, 0], solution.ys[-1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "sign_sgd", "rmsprop", "rmspropw", "adam", "adamw"])
def test_transforms_follow_the_recursions(name):
    opt, eps = OPTIMIZERS[name], 1e-8
    transform = opt.transform()
    gradients = np.random.default_rng(0).normal(size=(30, 2))
    x, state = X0, transform.init(X0)
    want, m, v = np.array(X0, float), np.zeros(2), np.zeros(2)
    theta = 0.1 if name.endswith("w") else 0.0
    for k, g in enumerate(gradients, start=1):
        updates, state = transform.update(jnp.asarray(g, jnp.float32), state, x)
        x = x + updates
        if name == "sgd":
            step = g
        elif name == "sign_sgd":
            step = np.sign(g)
        elif name.startswith("rmsprop"):
            v = 0.9 * v + 0.1 * g**2
            step = g / (np.sqrt(v) + eps)
        else:
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
            step = m / (1 - 0.8**k) / (np.sqrt(v / (1 - 0.9**k)) + eps)
        want = want - ETA * (step + theta * want)
        np.testing.assert_allclose(x, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["chain", "two-point", "gaussian"])
def test_noise_depends_on_key_seed_and_step_alone(kind):
    opt = OPTIMIZERS["adamw"]
    process = opt.chain(PROBLEM) if kind == "chain" else opt.sde(PROBLEM)
    more = {} if kind == "chain" else dict(substeps=3, increments=kind)

    def run(steps, seeds, chunk):
        samples = js.Samples()
        ensemble = js.simulate(
            process, X0, steps=steps, seeds=seeds, key=jax.random.key(2), every=10, chunk=chunk, reduce=samples, **more
        )
        return np.asarray(ensemble["x"].values)

    whole = run(40, 30, 30)
    np.testing.assert_allclose(run(40, 30, 7), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(40, 11, 11), whole[:, :11], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(20, 30, 30), whole[:3], rtol=1e-5, atol=1e-6)
    assert len(np.unique(whole[-1, :, 0])) == 30


@pytest.mark.sweep
def test_start_steps_are_the_chain_and_what_follows_is_unbiased():
    opt, problem = OPTIMIZERS["adam"], js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    common = dict(steps=40, seeds=4000, key=jax.random.key(0), every=5)
    chain = js.simulate(opt.chain(problem), jnp.ones(1), **common)
    sde = opt.sde(problem, start_steps=12)
    late = js.simulate(sde, jnp.ones(1), substeps=2, **common)
    np.testing.assert_allclose(late["x"].mean[:3], chain["x"].mean[:3], rtol=1e-5, atol=1e-6)
    gaussian = js.simulate(sde, jnp.ones(1), substeps=2, increments="gaussian", **common)
    error = np.hypot(late["x"].stderr[-1], gaussian["x"].stderr[-1])
    assert abs(late["x"].mean[-1] - gaussian["x"].mean[-1]) < 5 * error


def test_moments_are_those_of_the_samples_and_the_jackknife_of_its_groups():
    process = OPTIMIZERS["sgd"].chain(PROBLEM)
    common = dict(steps=10, seeds=90, key=jax.random.key(1), every=5, chunk=40)
    x = np.asarray(js.simulate(process, X0, reduce=js.Samples(), **common)["x"].values, float)
    moments = js.simulate(process, X0, reduce=js.Moments(covariance=True), **common)["x"]
    np.testing.assert_allclose(moments.mean, x.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.variance[1:], x.var(axis=1, ddof=1)[1:], rtol=1e-4)
    np.testing.assert_allclose(moments.covariance[-1], np.cov(x[-1].T), rtol=1e-4)
    np.testing.assert_allclose(moments.stderr[1:], x.std(axis=1, ddof=1)[1:] / np.sqrt(90), rtol=1e-4)
    jackknife = js.simulate(process, X0, reduce=js.Jackknife(js.Moments(), groups=10), **common)["x"]
    np.testing.assert_allclose(jackknife.total.mean, moments.mean, rtol=1e-5)
    for group in (0, 4, 9):
        rest = np.arange(90) % 10 != group
        np.testing.assert_allclose(jackknife.without[group].mean, x[:, rest].mean(axis=1), rtol=1e-5, atol=1e-6)


def _all_new(opt, factor):
    """The optimizer with every hyperparameter multiplied by `factor`, from Python numbers as users give them."""
    fields = {field.name: getattr(opt, field.name) for field in dataclasses.fields(opt)}
    return type(opt)(**{name: factor * float(value) for name, value in fields.items() if value is not None})


@pytest.mark.parametrize("name, kind", [(name, "chain") for name in OPTIMIZERS] + [(name, "sde") for name in WITH_SDE])
def test_new_numbers_do_not_recompile(name, kind):
    def run(seed):
        opt = _all_new(OPTIMIZERS[name], 1 - 0.1 * seed)
        problem = js.Problem(js.Quadratic(seed * HESSIAN), js.Gaussian(0.5 * seed))
        js.simulate(getattr(opt, kind)(problem), seed * X0, steps=20, seeds=8, key=jax.random.key(seed))

    run(1)
    with count_compiles() as compiles:
        run(2)
    assert compiles.count == 0


def test_learning_rates_can_be_vmapped():
    rates = jnp.array([0.01, 0.05])
    common = dict(steps=20, seeds=16, key=jax.random.key(0))
    together = eqx.filter_vmap(lambda rate: js.simulate(js.SignSGD(rate).sde(PROBLEM), X0, **common)["x"].mean)(rates)
    alone = js.simulate(js.SignSGD(0.05).sde(PROBLEM), X0, **common)["x"].mean
    np.testing.assert_allclose(together[1], alone, rtol=1e-5)


def test_schedules_set_the_clock_by_their_reference_rate():
    schedule = lambda k: 0.1 * jnp.exp(-0.01 * k)  # noqa: E731
    with pytest.raises(ValueError, match="reference_rate"):
        js.SGD(schedule)
    opt, problem = js.SGD(schedule, reference_rate=0.1), js.Problem(js.Quadratic([1.0]), js.Gaussian(0.0))
    common = dict(steps=100, seeds=1, key=jax.random.key(0))
    chain = js.simulate(opt.chain(problem), jnp.ones(1), **common)["x"].mean[-1, 0]
    sde = js.simulate(opt.sde(problem), jnp.ones(1), substeps=50, **common)["x"].mean[-1, 0]
    assert float(chain) == pytest.approx(float(np.prod(1 - np.asarray(schedule(np.arange(100))))), rel=1e-4)
    # The SDE's mean is exp(-integral of eta_t dt), with eta_t = schedule(k) / 0.1 during the step k, which lasts 0.1.
    assert float(sde) == pytest.approx(np.exp(-np.sum(schedule(np.arange(100)))), rel=0.005)


def test_diverged_seeds_are_counted_and_left_out():
    problem = js.Problem(lambda x: jnp.sum(x**4), js.Gaussian(10.0))
    run = js.simulate(js.SGD(0.1).chain(problem), jnp.zeros(1), steps=30, seeds=500, key=jax.random.key(0))
    lost = int(run.diverged[-1])
    assert 0 < lost < 500 and int(run["x"].count[-1]) == 500 - lost
    chex.assert_tree_all_finite(run["x"].mean)


@pytest.mark.parametrize("reduce", [js.Moments(), js.Moments(covariance=True), js.Jackknife(js.Moments(covariance=True), 4)])
def test_statistics_of_no_seeds_are_nan(reduce):
    """Not 0, which would be perfect convergence; also without each group of seeds."""
    problem = js.Problem(lambda x: -jnp.sum(x**4), js.Gaussian(1.0))
    run = js.simulate(js.SGD(0.5).chain(problem), jnp.ones(2), steps=30, seeds=12, key=jax.random.key(0), reduce=reduce)
    assert int(run.diverged[-1]) == 12
    both = run["x"]
    for statistics in (both.total, *both.without) if isinstance(reduce, js.Jackknife) else (both,):
        assert int(statistics.count[-1]) == 0 and int(statistics.count[0]) > 0
        for name in ("mean", "variance", "stderr"):
            assert np.isnan(getattr(statistics, name)[-1]).all(), name
            assert np.isfinite(getattr(statistics, name)[0]).all(), name
        if statistics._deviations.ndim == 3:
            assert np.isnan(statistics.covariance[-1]).all()


def test_an_observable_that_is_not_finite_counts_in_itself_alone():
    """The logarithm of a negative coordinate takes no seed from the mean of the coordinate."""
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    run = dict(steps=20, seeds=4000, key=jax.random.key(0))
    alone = js.simulate(js.SGD(0.1).chain(problem), jnp.zeros(1), observe={"x": lambda x: x}, **run)
    both = {"x": lambda x: x, "log": lambda x: jnp.log(x[0])}
    beside = js.simulate(js.SGD(0.1).chain(problem), jnp.zeros(1), observe=both, **run)
    np.testing.assert_array_equal(beside["x"].mean, alone["x"].mean)
    assert int(beside.diverged[-1]) == 0 and int(beside["x"].count[-1]) == 4000
    x = js.simulate(js.SGD(0.1).chain(problem), jnp.zeros(1), reduce=js.Samples(), **run)["x"].values[-1, :, 0]
    assert int(beside["log"].count[-1]) == np.sum(x > 0)
    np.testing.assert_allclose(beside["log"].mean[-1], np.mean(np.log(x[x > 0])), rtol=1e-5)


def test_a_mean_has_no_more_digits_than_its_precision():
    """A hundred thousand seeds at 1000 with a spread of 1e-3 know the mean to 3e-6, but float32 holds it to 1e-4."""
    problem = js.Problem(js.Quadratic([1e-6]), js.Gaussian(1e-3))
    x0 = jnp.full(1, 1e3, jnp.float32)
    run = js.simulate(js.SGD(1.0).chain(problem), x0, steps=1, seeds=100_000, key=jax.random.key(0))
    assert float(run["x"].stderr[-1, 0]) >= np.spacing(np.float32(1e3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda: js.simulate("sgd", X0, steps=1, seeds=1, key=jax.random.key(0)),
            "process must be an optimizer's chain.*got 'sgd'",
        ),
        (
            lambda: js.simulate(OPTIMIZERS["sgd"].chain(PROBLEM), X0, steps=1, seeds=0, key=jax.random.key(0)),
            "seeds must be at least 1, got 0",
        ),
        (
            lambda: js.simulate(OPTIMIZERS["sgd"].chain(PROBLEM), X0, steps=10, every=3, seeds=1, key=jax.random.key(0)),
            "every must divide steps, got every=3 and steps=10",
        ),
        (
            lambda: js.simulate(OPTIMIZERS["sgd"].chain(PROBLEM), X0, steps=10, substeps=2, seeds=1, key=jax.random.key(0)),
            "substeps and increments belong to SDEs",
        ),
        (lambda: js.simulate(OPTIMIZERS["sgd"].chain(PROBLEM), X0, steps=10, seeds=1, key=0), "key must be a JAX key"),
        (
            lambda: js.simulate(OPTIMIZERS["sgd"].chain(PROBLEM), jnp.array([1, 2]), steps=1, seeds=1, key=jax.random.key(0)),
            "floating-point numbers, got dtype int",
        ),
        (
            lambda: js.simulate(OPTIMIZERS["sgd"].chain(PROBLEM), jnp.ones(3), steps=1, seeds=1, key=jax.random.key(0)),
            r"cannot be evaluated at x0 with shapes \(3,\)",
        ),
        (
            lambda: js.RMSprop(0.1).sde(js.Problem(js.Quadratic(HESSIAN), js.Gaussian(covariance=HESSIAN)), "second-order"),
            "'second-order' needs the fourth moments",
        ),
        (lambda: js.SGD(0.1).sde(PROBLEM, model="malladi"), "model must be one of .* got 'malladi'"),
        (lambda: js.Adam(0.1).sde(PROBLEM, start_steps=0), "start_steps must be at least 1, got 0"),
        (
            lambda: js.theory.stationary(js.SGD(0.1), js.Problem(js.Quadratic([1.0, -1.0]), js.Gaussian(1.0))),
            "contracts at the rate -1",
        ),
    ],
)
def test_bad_arguments_raise(bad, message):
    with pytest.raises((ValueError, TypeError), match=message):
        bad()


def test_updates_that_are_not_shaped_as_the_parameters_are_refused():
    """A transform that takes a gradient for each example sums over the axis of a single one; adding that would broadcast."""
    chain = js.Chain(lambda: optax.contrib.dpsgd(0.1, 1.0, 1.0, 0), js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0)), 0.1)
    with pytest.raises(ValueError, match="a gradient for each example"):
        js.simulate(chain, jnp.ones(2), steps=2, seeds=2, key=jax.random.key(0), progress=False)


def test_an_interrupt_keeps_the_seeds_that_are_complete(monkeypatch):
    common = dict(steps=10, key=jax.random.key(0), chunk=16, mesh=ONE_DEVICE)
    process = OPTIMIZERS["sgd"].chain(PROBLEM)
    whole = js.simulate(process, X0, seeds=32, **common)
    interrupt_before_chunk(2, monkeypatch)
    with pytest.raises(js.Interrupted, match="after 32 seeds") as caught:
        js.simulate(process, X0, seeds=64, **common)
    assert caught.value.ensemble.seeds == 32
    np.testing.assert_array_equal(caught.value.ensemble["x"].mean, whole["x"].mean)


@pytest.mark.parametrize("name", ["sign_sgd", "adamw"])
def test_the_precision_is_that_of_the_start(name):
    with jax.enable_x64(True):
        opt = type(OPTIMIZERS[name])(np.float64(ETA) * jnp.ones((), jnp.float64))
        for dtype in (jnp.float32, jnp.float64):
            x0 = jnp.asarray(X0, dtype)
            problem = js.Problem(js.Quadratic(np.asarray(HESSIAN, np.float64)), js.Gaussian(np.full(2, 0.5)))
            for process in (opt.chain(problem), opt.sde(problem)):
                run = js.simulate(process, x0, steps=20, seeds=4, key=jax.random.key(0))
                assert run["x"].mean.dtype == run["loss"].mean.dtype == run.ts.dtype == dtype
                chex.assert_tree_all_finite(run["x"].mean)


@pytest.mark.parametrize("opt", [js.RMSprop(0.01, 0.99), js.Adam(0.01, 0.9, 0.99)], ids=["rmsprop", "adam"])
def test_a_first_gradient_near_zero_is_no_kick(opt):
    # V starts at a multiple of the first squared gradient, whose inverse has no mean: it must grow before it divides.
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    common = dict(steps=5, every=1, seeds=20_000, key=jax.random.key(0), reduce=js.Samples())
    chain = js.simulate(opt.chain(problem), jnp.zeros(1), **common)["x"].values
    sde = js.simulate(opt.sde(problem), jnp.zeros(1), substeps=8, **common)["x"].values
    assert float(jnp.abs(sde).max()) < 3 * float(jnp.abs(chain).max())


def _counting_descent():
    """Steps that shrink with the number of positive gradients that this seed has met: a whole number of its own."""

    def update(gradient, state, params):
        met = state["met"] + jnp.sum(gradient > 0, dtype=jnp.int32)
        rate = 0.1 / (1 + met + state["steps"]).astype(jnp.float32)
        return jax.tree.map(lambda g: -rate * g, gradient), {"met": met, "steps": state["steps"] + 1}

    zero = jnp.zeros((), jnp.int32)
    return optax.GradientTransformation(lambda params: {"met": zero, "steps": zero}, update)


@pytest.mark.parametrize("make", [_counting_descent, lambda: optax.adam(0.1)], ids=["of the seed", "of the step"])
def test_whole_numbers_in_the_state_are_each_seeds_own(make):
    """Whether all seeds share them, as counters of steps, or not."""
    chain, key = js.Chain(make, PROBLEM, jnp.asarray(0.1)), jax.random.key(8)
    run = js.simulate(chain, X0, steps=12, every=4, seeds=5, key=key, reduce=js.Samples())["x"].values
    for seed in range(5):
        stream = _random.gradient_key(_random.seed_key(_random.stream_key(key), jnp.asarray(seed, jnp.int32)))
        state = chain.init(X0)
        for n in range(12):
            state = chain.step(state, jax.random.fold_in(stream, n))
            if n % 4 == 3:
                np.testing.assert_allclose(run[(n + 1) // 4, seed], state.x, rtol=1e-5, atol=1e-6)
