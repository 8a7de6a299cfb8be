"""Whatever it is given, the package refuses it with a clear error before anything runs, or returns finite statistics with the
seeds that diverged counted. Hypothesis draws what is given; `pytest -m sweep` on this file tries thousands of examples."""

import faulthandler
import traceback

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import jaxsde as js
from jaxsde import theory
from jaxsde._registry import NOISES, OPTIMIZERS
from jaxsde.simulation import SampleStatistics, _simulate

KEY = jax.random.key(0)
HANGS = 300  # seconds


class Ran(Exception):
    """A simulation was about to begin: the arguments were accepted."""


@pytest.fixture(autouse=True, scope="module")
def _errors_as_they_are():
    """The package's own errors, not those of the annotations' check; with JAX's frames in the traceback."""
    disabled, filtering = jaxtyping.config.jaxtyping_disable, jax.config.jax_traceback_filtering
    jaxtyping.config.update("jaxtyping_disable", True)
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jaxtyping.config.update("jaxtyping_disable", disabled)
    jax.config.update("jax_traceback_filtering", filtering)


def rule(few, many, **strategies):
    """A test of a rule, with `few` examples, and with `many` in the sweep. Always the same ones."""

    def decorate(holds):
        @pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.sweep)])
        def test(count, record_property, monkeypatch):
            examples = 0

            @settings(
                max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
            )
            @given(**strategies)
            def each(**drawn):
                nonlocal examples
                examples += 1
                faulthandler.dump_traceback_later(HANGS, exit=True)
                try:
                    holds(monkeypatch, **drawn)
                finally:
                    faulthandler.cancel_dump_traceback_later()

            each()
            record_property("examples", examples)

        test.__doc__ = holds.__doc__
        return test

    return decorate


def is_clear(error, names=()):
    """Fails unless the error is one that the package raises itself, in words, about what it was given."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert isinstance(error, (ValueError, TypeError)), f"{type(error).__name__}: {error}"
    assert "/jaxsde/" in last.filename, f"raised in {last.filename}, line {last.lineno}: {error}"
    assert len(str(error)) > 15, f"no words: {error}"
    if names:
        assert any(name in str(error) for name in (*names, "schedule")), f"none of {names} is named: {error}"


def outcome(monkeypatch, call, names=()):
    """What `call` returns; None where it is refused, by a clear error and before anything is simulated."""
    began = []
    begin = _simulate._run.begin

    def watched(*arguments):
        began.append(True)
        return begin(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_simulate._run, "begin", watched)
        try:
            return call()
        except Exception as error:
            is_clear(error, names)
            assert not began, f"refused only after it had begun: {error}"
            return None


def is_consistent(run, seeds, steps, every, observed, reduce):
    """Fails unless an ensemble has the right shapes, and statistics that go together."""
    n = steps // every + 1
    assert run.ts.shape == run.steps.shape == run.diverged.shape == (n,)
    np.testing.assert_array_equal(run.steps, np.arange(0, steps + 1, every))
    assert np.all(np.isfinite(run.ts)) and np.all(np.diff(run.ts) > 0)
    lost = np.asarray(run.diverged)
    assert np.all(lost >= 0) and np.all(lost <= seeds)
    for name, like in observed.items():
        if isinstance(reduce, js.Samples):
            check = lambda values, leaf: values.shape == (n, seeds, *leaf.shape)
            assert jax.tree.all(jax.tree.map(check, run[name].values, like))
            continue
        parts = [run[name]]
        if isinstance(reduce, js.Jackknife):
            parts = [run[name].total, *run[name].without]
        for part in parts:
            moments_are_consistent(part, n, seeds, lost, like)


def moments_are_consistent(part, n, seeds, lost, like):
    count = np.asarray(part.count)
    assert count.shape == (n,) and np.all(count >= 0) and np.all(count <= seeds)
    assert np.all(count + lost <= seeds) or part.count.shape != (n,)
    for leaf, mean, variance, stderr in zip(*map(jax.tree.leaves, (like, part.mean, part.variance, part.stderr)), strict=True):
        assert mean.shape == variance.shape == stderr.shape == (n, *leaf.shape)
        mean, variance, stderr = (np.asarray(a).reshape(n, -1) for a in (mean, variance, stderr))
        assert np.all(np.isfinite(mean[count >= 1])) and np.all(np.isnan(mean[count == 0]))
        assert np.all(variance[count >= 2] >= 0) and np.all(np.isnan(variance[count < 2]))
        assert np.all(stderr[count >= 2] >= 0)
    if part._deviations.ndim > part._mean.ndim:
        covariance = np.asarray(part.covariance)
        assert covariance.shape == (n, part._mean.shape[-1], part._mean.shape[-1])
        # Where a variance is infinite in this precision, a covariance may be a difference of infinities.
        large = np.isinf(np.diagonal(covariance, axis1=1, axis2=2))
        known = (count >= 2)[:, None, None] & ~large[:, :, None] & ~large[:, None, :]
        assert not np.any(np.isnan(covariance[known]))


# Numbers that are legal, many of them extreme. They are data: no program is compiled for them.

FINITE = st.sampled_from([0.0, 1.0, -1.0, 0.3, 1e-8, -1e-40, 1e-30, 1e5, -1e10, 1e19, 3e38, -3e38])
COORDINATE = st.one_of(FINITE, FINITE, st.sampled_from([np.nan, np.inf, -np.inf]))
RATE = st.sampled_from([0.1, 0.1, 0.5, 1.0, 1e-3, 1e-8, 1e-30, 2.0, 1e3, 1e10, 1e30])
SHARE = st.sampled_from([0.9, 0.0, 0.5, 0.999, 0.9999999, 1e-30])
SIZE = st.sampled_from([0.0, 1.0, 1e-8, 1e-30, 0.1, 1e3, 1e20, 3e38])
SCALE = st.sampled_from([0.0, 0.5, 1.0, 1e-30, 1e-40, 1e10, 1e19, 3e38])
CURVATURE = st.sampled_from([1.0, 0.0, -1.0, 2.0, 1e-30, 1e10, -1e10, 1e30, 3e38])


class Multiplicative(js.problems.AbstractIndependentNoise):
    """A noise that depends on the state."""

    size: jax.Array

    def sample(self, params, key):
        return self.size * params * jax.random.normal(key, params.shape, params.dtype)

    def variance(self, params):
        return (self.size * params) ** 2


# An optimizer, whether its SDE, and a law of noise: each is a program of its own, which takes seconds to compile.
PROGRAMS = [
    ("sgd", False, "gaussian"), ("sgd", False, "alpha-stable"), ("sgd", False, "laplace"), ("sgd", True, "correlated"),
    ("sgd", True, "uniform"), ("sign_sgd", False, "student-t"), ("sign_sgd", True, "student-t"),
    ("sign_sgd", True, "correlated"),
    ("rmsprop", False, "multiplicative"), ("rmsprop", True, "gaussian"), ("rmspropw", True, "multiplicative"),
    ("adam", False, "student-t"), ("adam", True, "gaussian"), ("adamw", False, "correlated"),
    ("adamw", True, "multiplicative"),
]  # fmt: skip

# So is each number of seeds that run at a time, and each kind of statistics.
KINDS = [(js.Moments(), 5, None), (js.Moments(covariance=True), 5, 2), (js.Samples(), 1, None)]


def make_noise(kind, size, alpha):
    if kind == "correlated":
        return js.Gaussian(covariance=min(size, 1e19) * np.array([[1.0, 0.5], [0.5, 2.0]]))
    if kind == "multiplicative":
        return Multiplicative(jnp.asarray(size, jnp.float32))
    law, names = NOISES[kind]
    return law(*({"df": 2.0, "alpha": alpha}[name] for name in names), size)


def make_optimizer(draw, kind):
    row = OPTIMIZERS[kind]
    strategies = dict(b1=SHARE, b2=SHARE, decay=SHARE, eps=SIZE, weight_decay=SIZE, initial_scale=SIZE)
    numbers = {name: draw(strategies[name]) for name in row.hyperparameters}
    rate = draw(RATE)
    if kind != "adam" or draw(st.booleans()):
        return row.kind(rate, **numbers)
    return row.kind(optax.linear_schedule(rate, draw(st.sampled_from([0.0, rate / 10])), 2), reference_rate=rate, **numbers)


@st.composite
def processes(draw):
    """An optimizer, a quadratic of two coordinates with noise, and whether the SDE is meant."""
    kind, sde, law = draw(st.sampled_from(PROGRAMS))
    opt, noise = make_optimizer(draw, kind), make_noise(law, draw(SCALE), draw(st.sampled_from([0.5, 1.0, 1.5, 2.0])))
    loss = js.Quadratic([draw(CURVATURE), draw(CURVATURE)], minimum=draw(st.sampled_from([0.0, 1.0, 1e30])))
    return opt, js.Problem(loss, noise), sde


@rule(
    12,
    600,
    made=processes(),
    x0=st.lists(COORDINATE, min_size=2, max_size=2),
    kind=st.sampled_from(KINDS),
    timing=st.sampled_from([(2, 1), (30, 15)]),
    substeps=st.sampled_from([1, 3]),
    seed=st.sampled_from([0, 1, 2, 17]),
)
def test_numbers_however_extreme(monkeypatch, made, x0, kind, timing, substeps, seed):
    """Runs with legal numbers end with finite statistics, and count what has diverged."""
    (opt, problem, sde), (reduce, seeds, chunk), (steps, every) = made, kind, timing
    start = jnp.asarray(x0, jnp.float32)

    def call():
        process, more = (opt.sde(problem), dict(substeps=substeps)) if sde else (opt.chain(problem), {})
        common = dict(steps=steps, every=every, seeds=seeds, key=jax.random.key(seed), chunk=chunk, reduce=reduce)
        return js.simulate(process, start, progress=False, **common, **more)

    run = outcome(monkeypatch, call)
    if run is None:
        return
    is_consistent(run, seeds, steps, every, dict(x=jnp.zeros(2), loss=jnp.zeros(())), reduce)
    if not np.all(np.isfinite(start)):
        assert np.all(np.asarray(run.diverged) == seeds)


# What simulate takes, much of it wrong.


NONSENSE = {
    "none": None,
    "text": "a",
    "empty text": "",
    "true": True,
    "false": False,
    "minus one": -1,
    "zero": 0,
    "half": 0.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "complex": 1j,
    "huge": 10**400,
    "2**31": 2**31,
    "2**63": 2**63,
    "list": [],
    "tuple": (),
    "dict": {},
    "ones": np.ones(3),
    "jax ones": jnp.ones((2, 2)),
    "empty": np.zeros(0),
    "object": object(),
    "objects": np.array([None, "a"], object),
    "function": lambda *a: a,
    "type": int,
    "words": np.array(["a", "b"]),
    "ragged": [[1.0], [1.0, 2.0]],
    "integers": np.arange(2),
    "truths": np.array([True, False]),
    "float16": np.float16(1),
    "bfloat16": jnp.ones(2, jnp.bfloat16),
    "a set": {1},
    "bytes": b"a",
    "a date": np.datetime64("2020-01-01"),
    "a key": KEY,
}
NONSENSES = st.sampled_from(sorted(NONSENSE)).map(lambda name: NONSENSE[name])


def _squares(x):
    return sum(0.5 * jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(x))


def _first(x):
    return jax.tree.leaves(x)[0]


def _fails(x):
    raise RuntimeError("a user's function fails")


LOSSES = {
    "squares": _squares,
    "squares again": lambda x: _squares(x),
    "nan": lambda x: jnp.nan * _squares(x),
    "vector": _first,
    "ignores": lambda x: 1.0,
    "ignores, array": lambda x: jnp.ones(()),
    "integer": lambda x: 1,
    "truth": lambda x: _squares(x) > 0,
    "none": lambda x: None,
    "tree": lambda x: (_squares(x), 1.0),
    "fails": _fails,
    "complex": lambda x: _squares(x) * 1j,
    "explodes": lambda x: jnp.exp(jnp.exp(_squares(x))),
    "log": lambda x: jnp.log(-_squares(x)),
    "branches": lambda x: 1.0 if _squares(x) > 0 else 0.0,
    "root": lambda x: jnp.sqrt(_squares(x)),
    "text": lambda x: "a",
    "two arguments": lambda x, y: 0.0,
    "NumPy": lambda x: np.sum(np.asarray(_first(x))),
    "quadratic": js.Quadratic([1.0, 2.0]),
    "saddle": js.EmbeddedSaddle(),
    "float16": lambda x: _squares(x).astype(jnp.float16),
}

STARTS = {
    "vector": jnp.ones(2),
    "NumPy's": np.ones(2, np.float32),
    "float64": np.ones(2),
    "scalar": 1.0,
    "zero-dimensional": jnp.ones(()),
    "list": [1.0, jnp.ones(2)],
    "dict": {"a": jnp.ones((2, 1)), "b": 2.0},
    "nested": {"a": [jnp.ones(2), None], "b": ()},
    "empty leaf": [jnp.zeros(0), jnp.ones(1)],
    "only empty": jnp.zeros((0, 3)),
    "none": None,
    "nothing": [],
    "none inside": {"a": None},
    "float16": jnp.ones(2, jnp.float16),
    "bfloat16": jnp.ones(2, jnp.bfloat16),
    "int": jnp.arange(2),
    "Python's int": 1,
    "bool": jnp.array([True, False]),
    "Python's bool": True,
    "complex": jnp.ones(2) * 1j,
    "Python's complex": 1j,
    "text": "a",
    "mixed": [jnp.ones(1), jnp.ones(1, jnp.float16)],
    "mixed keys": {1: jnp.ones(1), "a": jnp.ones(1)},
    "object": object(),
    "a key": KEY,
    "sampler": lambda key: jax.random.normal(key, (2,)),
    "sampler of ints": lambda key: jnp.arange(2),
    "sampler of nothing": lambda key: None,
    "sampler that fails": _fails,
    "sampler without a key": lambda: 1.0,
    "shape": jax.ShapeDtypeStruct((2,), jnp.float32),
    "words": np.array(["a"]),
    "objects": np.array([1.0, None], object),
    "ragged": [[1.0], [1.0, 2.0]],
    "type": float,
    "huge int": 10**400,
    "three": jnp.ones(3),
    "matrix": jnp.ones((2, 2)),
    "infinite": jnp.array([jnp.inf, 1.0]),
    "nan": jnp.array([jnp.nan, 1.0]),
}

OBSERVABLES = {
    "default": None,
    "itself": {"x": lambda x: x},
    "two": {"a": _squares, "b": _first},
    "nothing": {"x": lambda x: ()},
    "empty": {},
    "none": {"x": lambda x: None},
    "nan": {"x": lambda x: jnp.nan},
    "fails": {"x": _fails},
    "text": {"x": lambda x: "a"},
    "truths": {"x": lambda x: _first(x) > 0},
    "ints": {"x": lambda x: 3},
    "complex": {"x": lambda x: 1j * _squares(x)},
    "list": [_squares],
    "numbers": {1: _squares},
    "no function": {"x": 3},
    "of size 0": {"x": lambda x: jnp.zeros((0,))},
    "half": {"x": lambda x: _squares(x).astype(jnp.float16)},
    "keys": {"x": lambda x: jax.random.key(0)},
    "a method": {"x": str.upper},
}


def _names(pool):
    return st.sampled_from(sorted(pool))


VALID = dict(steps=4, seeds=3, key=KEY, every=2, progress=False)
CHANGES = st.dictionaries(
    st.sampled_from(["steps", "seeds", "key", "every", "reduce", "substeps", "increments", "chunk"]), NONSENSES, max_size=1
)


@rule(
    25,
    700,
    loss=st.one_of(st.just("squares"), _names(LOSSES)),
    start=st.one_of(st.just("vector"), _names(STARTS)),
    observe=st.one_of(st.just("default"), st.just("default"), _names(OBSERVABLES)),
    kind=st.sampled_from(["sgd", "sign_sgd sde", "adam"]),
    scale=st.one_of(st.just(0.5), st.just(0.5), NONSENSES),
    changes=st.one_of(st.just({}), CHANGES),
)
def test_arguments_of_simulate(monkeypatch, loss, start, observe, kind, scale, changes):
    """Functions, starts and arguments of every kind are refused before anything runs, or give consistent statistics."""
    name, _, sde = kind.partition(" ")

    def call():
        problem, opt = js.Problem(LOSSES[loss], js.Gaussian(scale)), OPTIMIZERS[name].make(0.1)
        process = opt.sde(problem) if sde else opt.chain(problem)
        return js.simulate(process, STARTS[start], observe=OBSERVABLES[observe], **VALID | changes)

    run = outcome(monkeypatch, call)
    if run is None:
        return
    chosen = VALID | {"reduce": None} | changes
    every = chosen["steps"] if chosen["every"] is None else chosen["every"]
    x0 = STARTS[start]
    x0 = x0(KEY) if callable(x0) else x0
    functions = OBSERVABLES[observe] or {"x": lambda x: x, "loss": LOSSES[loss]}
    like = {name: jax.tree.map(jnp.asarray, function(jax.tree.map(jnp.asarray, x0))) for name, function in functions.items()}
    is_consistent(run, chosen["seeds"], chosen["steps"], every, like, chosen["reduce"])


# Constructors: what they accept must be usable.

CONSTRUCTORS = {
    "Gaussian": (js.Gaussian, dict(scale=1.0)),
    "Gaussian, covariance": (lambda covariance: js.Gaussian(covariance=covariance), dict(covariance=np.eye(2))),
    "StudentT": (js.StudentT, dict(df=3.0, scale=1.0)),
    "Laplace": (js.Laplace, dict(scale=1.0)),
    "Uniform": (js.Uniform, dict(scale=1.0)),
    "AlphaStable": (js.AlphaStable, dict(alpha=1.5, scale=1.0)),
    "Quadratic": (js.Quadratic, dict(hessian=[1.0, 2.0], minimum=None)),
    "EmbeddedSaddle": (js.EmbeddedSaddle, dict(hessian=(-1.0, 2.0), quartic=1.0, cubic=0.1)),
    "LinearRegression": (js.LinearRegression, dict(features=np.eye(2), targets=np.ones(2))),
    "LogisticRegression": (js.LogisticRegression, dict(features=np.eye(2), labels=[0, 1], ridge=0.0)),
    "MeanLoss": (js.MeanLoss, dict(example_loss=lambda w, e: jnp.sum(w) * e, data=np.ones(3))),
    "MiniBatch": (
        js.MiniBatch,
        dict(
            loss=js.MeanLoss(lambda w, e: jnp.sum(w) * e, np.ones(3, np.float32)),
            batch_size=2,
            shuffle=False,
            covariance_examples=None,
            sign_batches=None,
        ),
    ),
    "from_data": (js.Problem.from_data, dict(example_loss=lambda w, e: jnp.sum(w) * e, data=np.ones(3), batch_size=2)),
    "Problem": (js.Problem, dict(loss=_squares, noise=js.Gaussian(1.0))),
    "Moments": (js.Moments, dict(covariance=True)),
    "Jackknife": (js.Jackknife, dict(reducer=js.Moments(), groups=3)),
    "SGD": (js.SGD, dict(learning_rate=0.1, reference_rate=None)),
    "SignSGD": (js.SignSGD, dict(learning_rate=0.1, reference_rate=None)),
    "RMSprop": (js.RMSprop, dict(learning_rate=0.1, decay=0.9, eps=1e-8, initial_scale=1.0, reference_rate=None)),
    "RMSpropW": (
        js.RMSpropW,
        dict(learning_rate=0.1, decay=0.9, eps=1e-8, weight_decay=0.1, initial_scale=1.0, reference_rate=None),
    ),
    "Adam": (js.Adam, dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8, reference_rate=None)),
    "AdamW": (js.AdamW, dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, reference_rate=None)),
    "svag": (js.svag, dict(optimizer=js.SGD(0.1), problem=js.Problem(_squares, js.Gaussian(1.0)), ell=2)),
    "IndexedEuler": (js.IndexedEuler, dict(step=0.1, key=KEY)),
}


@st.composite
def replaced(draw, pool, most=2):
    """A row of a pool by name, with one or two of its arguments replaced by nonsense, or one left out."""
    name = draw(_names(pool))
    arguments = pool[name][1]
    changed = draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=most, unique=True))
    return name, {key: draw(_names(NONSENSE)) for key in changed}


@rule(100, 700, drawn=replaced(CONSTRUCTORS))
def test_constructors(monkeypatch, drawn):
    """What a constructor is given is refused there, by name, or makes something that can be used."""
    name, changes = drawn
    make, arguments = CONSTRUCTORS[name]
    given = arguments | {key: NONSENSE[value] for key, value in changes.items()}
    made = outcome(monkeypatch, lambda: make(**given), tuple(changes))
    if made is None:
        return
    if isinstance(made, js.problems.AbstractNoise):
        made = js.Problem(_squares, made)
    elif callable(made) and not isinstance(made, (js.Chain, js.optimizers.AbstractOptimizer)):
        made = js.Problem(made, js.Gaussian(0.5))
    if isinstance(made, js.Problem):
        problem = made

        def used():
            x = problem.validate(jnp.ones(2))
            return problem.gradient(x), problem.stochastic_gradient(x, KEY), problem.loss(x)

        outcome(monkeypatch, used)


# Estimates and theory, with one or two arguments replaced.

PROBLEM, X0, SGD = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.5)), jnp.ones(2), js.SGD(0.1)
TS = jnp.array([0.0, 0.1, 0.2])
CURVE = SampleStatistics(jnp.arange(50.0), jnp.exp(-jnp.arange(50.0))[:, None] * jnp.ones((50, 30)))
SAMPLES = np.random.default_rng(0).normal(size=(20, 2))
RUN = dict(key=KEY, progress=False)
BATCHES = js.Problem.from_data(lambda w, e: jnp.sum(w * e) ** 2, np.ones((4, 2), np.float32), batch_size=2)

FUNCTIONS = {
    "simulate": (js.simulate, dict(process=SGD.chain(PROBLEM), x0=X0, steps=4, seeds=3, every=2, **RUN)),
    "simulate, SDE": (
        js.simulate,
        dict(process=SGD.sde(PROBLEM), x0=X0, steps=4, seeds=3, substeps=2, increments="gaussian", **RUN),
    ),
    "stationary": (
        js.stationary,
        dict(
            process=SGD.chain(PROBLEM), x0=X0, seeds=8, steps=8, substeps=1, groups=4, diagnostic_seeds=4, max_steps=16, **RUN
        ),
    ),
    "compare": (
        js.compare,
        dict(
            opt=SGD,
            problem=PROBLEM,
            x0=X0,
            steps=20,
            seeds=40,
            every=1,
            substeps=1,
            model="compagnoni",
            groups=4,
            chunk=None,
            **RUN,
        ),
    ),
    "weak_error": (
        js.weak_error,
        dict(
            opt=SGD,
            problem=PROBLEM,
            x0=X0,
            T=1.0,
            learning_rates=(0.5, 0.25),
            seeds=8,
            substeps=1,
            model="compagnoni",
            start_time=None,
            test_functions=None,
            **RUN,
        ),
    ),
    "expectations": (
        js.expectations,
        dict(
            process=SGD.sde(PROBLEM),
            x0=X0,
            functions={"a": _squares},
            steps=4,
            seeds=3,
            every=2,
            substeps=1,
            increments=None,
            **RUN,
        ),
    ),
    "convergence_rate": (
        js.convergence_rate,
        dict(statistics=CURVE, floor=0.0, window=(0.0, 10.0), kind="exponential", level=0.95),
    ),
    "compare_laws": (
        js.compare_laws,
        dict(a=SAMPLES, b=SAMPLES[:5], statistic="wasserstein", permutations=9, projections=4, seed=0),
    ),
    "noise_report": (js.noise_report, dict(problem=BATCHES, params=X0, key=KEY, draws=16, tolerance=0.1, curvature_examples=2)),
    "moments": (theory.moments, dict(opt=SGD, problem=PROBLEM, x0=X0, ts=TS)),
    "discrete_moments": (theory.discrete_moments, dict(opt=SGD, problem=PROBLEM, x0=X0, steps=[1, 2])),
    "theory's stationary": (theory.stationary, dict(opt=SGD, problem=PROBLEM)),
    "discrete_stationary": (theory.discrete_stationary, dict(opt=SGD, problem=PROBLEM)),
    "loss_bound": (theory.loss_bound, dict(opt=js.SignSGD(0.1), problem=PROBLEM, x0=X0, ts=TS)),
    "phase_1_time": (theory.phase_1_time, dict(problem=PROBLEM, x0=X0)),
    "asymptotic_loss": (theory.asymptotic_loss, dict(opt=js.SignSGD(0.1), problem=PROBLEM)),
    "scaled": (theory.scaled, dict(opt=SGD, batch_ratio=4.0)),
    "with_batch": (theory.with_batch, dict(problem=PROBLEM, batch_ratio=4.0)),
    "power_schedule": (theory.power_schedule, dict(power=0.5, reference_rate=0.1)),
    "power_verdict": (theory.power_verdict, dict(opt=SGD, problem=PROBLEM, power=0.5)),
    "schedule_integrals": (theory.schedule_integrals, dict(opt=SGD, ts=TS)),
    "schedule_moments": (theory.schedule_moments, dict(opt=SGD, problem=PROBLEM, x0=X0, ts=TS)),
    "schedule_loss_bound": (theory.schedule_loss_bound, dict(opt=SGD, problem=PROBLEM, x0=X0, ts=TS)),
    "lemma_3_7": (theory.lemma_3_7, dict(x0=X0, hessian=X0, scale=X0, learning_rate=0.1, ts=TS)),
    "lemma_c57": (theory.lemma_c57, dict(hessian=X0, scale=X0, learning_rate=0.1, weight_decay=0.1)),
    "phase": (theory.phase, dict(problem=PROBLEM, x=X0)),
    "birth_death": (
        theory.birth_death,
        dict(opt=js.SignSGD(0.1), problem=js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), offset=0.0),
    ),
    "density": (theory.density, dict(sde=SGD.sde(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))))),
}


@rule(100, 700, drawn=replaced(FUNCTIONS, most=1))
def test_functions(monkeypatch, drawn):
    """A wrong argument is refused, by name, before anything is simulated."""
    name, changes = drawn
    function, arguments = FUNCTIONS[name]
    given = arguments | {key: NONSENSE[value] for key, value in changes.items()}

    def begin(*_):
        raise Ran

    with monkeypatch.context() as patch:
        patch.setattr(_simulate._run, "begin", begin)
        try:
            function(**given)
        except Ran:
            return
        except Exception as error:
            is_clear(error)
