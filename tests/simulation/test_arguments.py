"""Wrong arguments are refused at once, before anything is simulated, by an error that names them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde.estimation import phase_rates, sliced_wasserstein, wasserstein
from jaxsde.simulation import SampleStatistics, _simulate
from jaxsde.theory import lemma_3_7, lemma_c57

PROBLEM, X0, KEY = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)), jnp.ones(1), jax.random.key(0)
SINGLE = jnp.ones(1, jnp.float32)
TWO = jnp.array([0.1, 0.01])


@pytest.fixture
def nothing_runs(monkeypatch):
    def never(*arguments, **more):
        raise AssertionError("something was simulated")

    monkeypatch.setattr(_simulate._run, "begin", never)


def _raises(cases):
    """One test for each case, which is what is called, the error's type and its message."""
    return pytest.mark.parametrize(("bad", "error", "match"), list(cases.values()), ids=list(cases))


HYPERPARAMETERS = {
    "an array of rates": (lambda: js.SGD(TWO), ValueError, r"learning_rate must be one number, got shape \(2,\)"),
    "a list of rates": (lambda: js.SignSGD([0.1, 0.01]), ValueError, r"learning_rate must be one number, got shape \(2,\)"),
    "a vector of one": (lambda: js.SGD(jnp.array([0.1])), ValueError, r"learning_rate must be one number, got shape \(1,\)"),
    "an array of decays": (lambda: js.AdamW(0.1, weight_decay=TWO), ValueError, "weight_decay must be one number"),
    "an array of b1": (lambda: js.Adam(0.1, b1=TWO), ValueError, "b1 must be one number"),
    "an array of v0": (lambda: js.RMSprop(0.1, initial_scale=TWO), ValueError, "initial_scale must be one number"),
    "complex": (lambda: js.SGD(0.1 + 0j), TypeError, r"learning_rate must be one number, got \(0.1\+0j\)"),
    "a complex array": (lambda: js.SGD(jnp.asarray(0.1 + 0j)), TypeError, "learning_rate must be one number"),
    "complex, traced": (lambda: jax.jit(js.SGD)(jnp.asarray(1j)), TypeError, "learning_rate must be a real number, got dtype"),
    "a string": (lambda: js.SGD("0.1"), TypeError, "learning_rate must be one number, got '0.1'"),
    "none": (lambda: js.Adam(None), TypeError, "learning_rate must be one number, got None"),
    "no eps": (lambda: js.Adam(0.1, eps=None), TypeError, "eps must be one number, got None"),
    "true": (lambda: js.SGD(True), TypeError, "learning_rate must be one number, got True"),
    "true decay": (lambda: js.RMSpropW(0.1, weight_decay=True), TypeError, "weight_decay must be one number, got True"),
    "nan": (lambda: js.SGD(np.nan), ValueError, r"learning_rate must lie in \(0, inf\), got nan"),
    "infinite": (lambda: js.SGD(np.inf), ValueError, r"learning_rate must lie in \(0, inf\), got inf"),
    "infinite eps": (lambda: js.Adam(0.1, eps=np.inf), ValueError, r"eps must lie in \[0, inf\), got inf"),
    "nan decay": (lambda: js.RMSprop(0.1, decay=np.nan), ValueError, r"decay must lie in \[0, 1\), got nan"),
    "zero reference": (lambda: js.SGD(lambda k: 0.1, reference_rate=0.0), ValueError, r"reference_rate must lie in \(0, inf\)"),
    "reference without schedule": (lambda: js.SGD(0.1, reference_rate=0.1), ValueError, "goes with a learning-rate schedule"),
    "schedule of nothing": (
        lambda: js.SGD(lambda: 0.1, reference_rate=0.1),
        TypeError, "schedule, a function of the step .* raised TypeError: .* takes 0 positional arguments",
    ),
    "schedule of arrays": (
        lambda: js.Adam(lambda k: jnp.ones(2) * k, reference_rate=0.1),
        ValueError, r"to one rate; it returns an array of shape \(2,\)",
    ),
    "schedule of strings": (lambda: js.SGD(lambda k: "0.1", reference_rate=0.1), TypeError, "to one rate; called with a step"),
    "schedule of truths": (lambda: js.SGD(lambda k: k > 3, reference_rate=0.1), TypeError, "to one rate; it returns .*bool"),
    "negative schedule": (
        lambda: js.SGD(lambda k: -0.1 + k, reference_rate=0.1), ValueError, "not negative; it returns -0.1 at step 0"
    ),
    "schedule of nan": (lambda: js.SGD(lambda k: jnp.nan / k, reference_rate=0.1), ValueError, "it returns nan at step 0"),
    "schedule that branches": (
        lambda: js.SGD(lambda k: 0.1 if k < 5 else 0.01, reference_rate=0.1), TypeError, "Tracer|traced"
    ),
    "NumPy's table": (
        lambda: js.SGD(lambda k: np.array([0.1, 0.2])[k], reference_rate=0.1), TypeError, "called with a step it raised Tracer"
    ),
}  # fmt: skip


@_raises(HYPERPARAMETERS)
def test_hyperparameters(bad, error, match):
    with pytest.raises(error, match=match):
        bad()


@pytest.mark.parametrize(
    "schedule",
    [
        lambda k: jnp.array([0.1, 0.2, 0.3])[k],
        lambda k: 1,
        optax.linear_schedule(0.0, 0.1, 5),
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 5, 20),
    ],
)
def test_schedules_that_pass(schedule):
    opt = js.SGD(schedule, reference_rate=0.1)
    run = js.simulate(opt.chain(PROBLEM), X0, steps=2, seeds=2, key=KEY, progress=False)
    assert np.all(np.isfinite(run["x"].mean))


def test_schedules_and_rates_may_be_traced():
    def last(peak, b1):
        opt = js.Adam(lambda k: peak / (1 + k), b1=b1, reference_rate=peak)
        return js.simulate(opt.chain(PROBLEM), X0, steps=3, seeds=2, key=KEY, progress=False)["x"].mean[-1]

    peaks = jnp.array([0.1, 0.2])
    together = jax.jit(jax.vmap(last, (0, None)))(peaks, 0.9)
    np.testing.assert_allclose(together, [last(peak, 0.9) for peak in peaks], rtol=1e-5)


def test_optimizers_may_be_batched_from_outside():
    batch = jax.vmap(js.SGD)(TWO)
    assert batch.learning_rate.shape == (2,)
    together = jax.vmap(lambda opt: js.theory.stationary(opt, PROBLEM).covariance)(batch)
    np.testing.assert_allclose(together.ravel(), TWO / 2, rtol=1e-6)


def _run(process=None, x0=X0, **changes):
    arguments = dict(steps=10, seeds=4, key=KEY, progress=False) | changes
    return js.simulate(js.SGD(0.1).chain(PROBLEM) if process is None else process, x0, **arguments)


SDE = js.SGD(0.1).sde(PROBLEM)
SIMULATIONS = {
    "process": (lambda: _run("sgd"), TypeError, "process must be an optimizer's chain"),
    "steps": (lambda: _run(steps=0), ValueError, "steps must be at least 1, got 0"),
    "steps that are not whole": (lambda: _run(steps=10.0), TypeError, r"steps must be a whole number \(an int\), got 10.0"),
    "true steps": (lambda: _run(steps=True), TypeError, "steps must be a whole number"),
    "too many steps": (lambda: _run(steps=2**31), ValueError, r"steps must be below 2\*\*31, .* got 2147483648"),
    "too many substeps": (lambda: _run(SDE, substeps=2**31), ValueError, r"substeps must be below 2\*\*31, got 2147483648"),
    "every": (lambda: _run(every=3), ValueError, "every must divide steps, got every=3 and steps=10"),
    "seeds": (lambda: _run(seeds=0), ValueError, "seeds must be at least 1, got 0"),
    "too many seeds": (lambda: _run(seeds=2**40), ValueError, r"seeds must be at most 1073741824 \(2\*\*30\)"),
    "just too many seeds": (lambda: _run(seeds=2**30 + 1), ValueError, "seeds must be at most 1073741824"),
    "chunk": (lambda: _run(chunk=0), ValueError, "chunk must be at least 1, got 0"),
    "substeps of a chain": (lambda: _run(substeps=2), ValueError, "substeps and increments belong to SDEs"),
    "increments": (lambda: _run(SDE, increments="normal"), ValueError, "increments must be one of 'two-point'"),
    "key": (lambda: _run(key=0), TypeError, r"key must be a JAX key such as jax.random.key\(0\), got 0"),
    "no key": (lambda: _run(key=None), TypeError, "key must be a JAX key"),
    "several keys": (lambda: _run(key=jax.random.split(KEY)), ValueError, r"key must be a single key, got shape \(2,\)"),
    "a reducer's class": (lambda: _run(reduce=js.Moments), TypeError, "reduce must be a reducer such as jaxsde.Moments"),
    "more groups than seeds": (
        lambda: _run(reduce=js.Jackknife(js.Moments(), 5)), ValueError, "groups must be at most seeds: each of the 5 groups"
    ),
    "a list to observe": (lambda: _run(observe=[jnp.sum]), TypeError, "observe must be a dictionary of functions"),
    "nothing to observe": (lambda: _run(observe={}), ValueError, "observe must hold at least one function"),
    "names that are numbers": (lambda: _run(observe={1: jnp.sum}), TypeError, "names in observe must be strings, got 1"),
    "no function": (lambda: _run(observe={"x": 3}), TypeError, r"observe\['x'\] must be a function of the parameters, got 3"),
    "an observable of nothing": (lambda: _run(observe={"x": lambda x: ()}), ValueError, r"observe\['x'\] must return an array"),
    "a tiny rate": (
        lambda: _run(js.SGD(1e-40).chain(PROBLEM), x0=SINGLE),
        ValueError, "learning_rate must (be larger in float32.*at least 1.18e-38|lie in .0, inf., got 0.0)",
    ),
    "a tiny solver's step": (
        lambda: _run(js.SGD(2e-38).sde(PROBLEM), x0=SINGLE, substeps=2),
        ValueError, "learning_rate must be larger in float32.*substeps=2",
    ),
    "a huge rate": (
        lambda: _run(js.SGD(1e38).chain(PROBLEM), x0=SINGLE), ValueError, "learning_rate must be smaller in float32"
    ),
    "a chain of several rates": (
        lambda: _run(js.Chain(js.SGD(0.1).transform, PROBLEM, TWO)), ValueError, r"learning_rate must be one number.*\(2,\)"
    ),
    "neighbouring times alike": (lambda: _run(x0=SINGLE, steps=2**24, every=1), ValueError, "every must be larger: in float32"),
    "whole parameters": (lambda: _run(x0=jnp.array([1])), TypeError, "x0 must hold floating-point numbers, got dtype int"),
    "parameters of another shape": (lambda: _run(x0=jnp.ones(3)), ValueError, "the loss cannot be evaluated at x0"),
    "start after the end": (
        lambda: _run(js.Adam(0.1).sde(PROBLEM, start_steps=20)), ValueError, "steps must be at least the SDE's start_steps=20"
    ),
    "a jackknife of samples": (
        lambda: js.Jackknife(js.Samples()), TypeError, r"reducer must be jaxsde.Moments\(\), or .* of counts, got Samples"
    ),
    "a jackknife of a class": (lambda: js.Jackknife(js.Moments), TypeError, "reducer must be .* got <class"),
    "one group": (lambda: js.Jackknife(js.Moments(), 1), ValueError, "groups must be at least 2, got 1"),
    "covariance": (lambda: js.Moments(covariance="yes"), TypeError, "covariance must be True or False, got 'yes'"),
    "no model": (lambda: js.SGD(0.1).sde(PROBLEM, None), ValueError, "model must be one of 'compagnoni', .*, got None"),
    "models": (lambda: js.Adam(0.1).sde(PROBLEM, ["ode"]), ValueError, r"model must be one of .*, got \['ode'\]"),
    "no problem": (lambda: js.SGD(0.1).sde("a problem"), TypeError, "problem must be a jaxsde.Problem.*got 'a problem'"),
    "a chain of nothing": (lambda: js.SGD(0.1).chain(None), TypeError, "problem must be a jaxsde.Problem.*got None"),
    "start_steps": (lambda: js.Adam(0.1).sde(PROBLEM, start_steps=0), ValueError, "start_steps must be at least 1, got 0"),
    "svag, ell": (lambda: js.svag(js.SGD(0.1), PROBLEM, 0), ValueError, "ell must be at least 1, got 0"),
    "svag, half": (lambda: js.svag(js.SGD(0.1), PROBLEM, 1.5), TypeError, r"ell must be a whole number \(an int\), got 1.5"),
    "svag, problem": (lambda: js.svag(js.SGD(0.1), None, 2), TypeError, "problem must be a jaxsde.Problem.*got None"),
}  # fmt: skip


@_raises(SIMULATIONS)
def test_simulations(nothing_runs, bad, error, match):
    with pytest.raises(error, match=match):
        bad()


def test_times_increase_up_to_the_limits_that_are_checked():
    # The smallest rate, and as many records as a float32 tells apart, where they are the closest together.
    smallest, most = np.finfo(np.float32).tiny, 2**23
    for rate in (smallest, np.float32(0.7), np.float32(0.999)):
        _simulate._check_times(jnp.asarray(rate), most, 1, 1, jnp.dtype("float32"))
        assert np.all(np.diff(jnp.arange(most - 1000, most + 1) * jnp.asarray(rate)) > 0)
    assert np.all(np.diff(_run(js.SGD(float(smallest)).chain(PROBLEM), every=1).ts) > 0)


def _compare(opt=None, **changes):
    arguments = dict(steps=10, seeds=40, progress=False) | changes
    return js.compare(js.SGD(0.1) if opt is None else opt, PROBLEM, X0, **arguments)


def _weak(opt=None, **changes):
    arguments = dict(T=1.0, learning_rates=(0.5, 0.25), key=KEY, seeds=4, progress=False) | changes
    return js.weak_error(js.SGD(0.1) if opt is None else opt, PROBLEM, X0, **arguments)


def _expectations(process=None, functions=None, **changes):
    arguments = dict(steps=10, seeds=4, key=KEY, progress=False) | changes
    functions = {"loss": PROBLEM.loss} if functions is None else functions
    return js.expectations(SDE if process is None else process, X0, functions, **arguments)


def _curve():
    values = jnp.ones((50, 30)) * jnp.exp(-jnp.arange(50.0))[:, None]
    return SampleStatistics(jnp.arange(50.0), values)


ESTIMATES = {
    "compare, opt": (lambda: _compare("sgd"), TypeError, "opt must be an optimizer such as jaxsde.SGD"),
    "compare, every": (lambda: _compare(every=3), ValueError, "every must divide steps, got every=3 and steps=10"),
    "compare, groups": (lambda: _compare(groups=1), ValueError, "groups must be at least 2, got 1"),
    "compare, key": (lambda: _compare(key=3), TypeError, "key must be a JAX key.*got 3"),
    "compare, model": (lambda: _compare(model="malladi"), ValueError, "model must be one of 'compagnoni', .*got 'malladi'"),
    "compare, substeps": (lambda: _compare(substeps=0), ValueError, "substeps must be at least 1, got 0"),
    "compare, seeds": (lambda: _compare(seeds=4.5), TypeError, "seeds must be a whole number"),
    "weak_error, T": (lambda: _weak(T=np.nan), ValueError, r"T must lie in \(0, inf\), got nan"),
    "weak_error, a string T": (lambda: _weak(T="1"), TypeError, "T must be one number, got '1'"),
    "weak_error, several T": (lambda: _weak(T=[1.0, 2.0]), ValueError, r"T must be one number, got shape \(2,\)"),
    "weak_error, T between steps": (lambda: _weak(T=1.1), ValueError, "T must be a whole number of steps"),
    "weak_error, strings": (lambda: _weak(learning_rates=("a", "b")), TypeError, "learning_rates must be a number or an array"),
    "weak_error, nan": (lambda: _weak(learning_rates=(0.5, np.nan)), ValueError, r"learning_rates must lie in \(0, inf\)"),
    "weak_error, negative": (lambda: _weak(learning_rates=(0.5, -0.5)), ValueError, r"learning_rates must lie in \(0, inf\)"),
    "weak_error, one rate": (lambda: _weak(learning_rates=(0.5,)), ValueError, "at least two different numbers"),
    "weak_error, seeds": (lambda: _weak(seeds=0), ValueError, "seeds must be at least 1, got 0"),
    "weak_error, substeps": (lambda: _weak(substeps=0), ValueError, "substeps must be at least 1, got 0"),
    "weak_error, key": (lambda: _weak(key=1), TypeError, "key must be a JAX key.*got 1"),
    "weak_error, model": (lambda: _weak(model="malladi"), ValueError, "model must be one of .*got 'malladi'"),
    "weak_error, functions": (lambda: _weak(test_functions=[jnp.sum]), TypeError, "test_functions must be a dictionary"),
    "weak_error, vectors": (lambda: _weak(test_functions={"x": lambda x: x}), ValueError, r"\['x'\] must return a scalar"),
    "weak_error, b1": (
        lambda: _weak(js.Adam(0.1, b1=0.7)), ValueError, "b1 would have to be -0.5, below 0, to keep its time scale .* rate 0.5"
    ),
    "weak_error, start_time": (lambda: _weak(start_time=0.5), ValueError, "start_time is for adaptive methods.*SGD"),
    "weak_error, late start": (
        lambda: _weak(js.RMSprop(0.5), start_time=2.0), ValueError, r"start_time must lie in \(0, 1\], got 2.0"
    ),
    "expectations, process": (lambda: _expectations(js.SGD(0.1)), TypeError, "process must be an optimizer's chain"),
    "expectations, functions": (lambda: _expectations(functions=[jnp.sum]), TypeError, "functions must be a dictionary"),
    "expectations, none": (lambda: _expectations(functions={}), ValueError, "functions must hold at least one"),
    "expectations, key": (lambda: _expectations(key=0), TypeError, "key must be a JAX key"),
    "expectations, substeps": (lambda: _expectations(substeps=0.5), TypeError, "substeps must be a whole number"),
    "stationary, process": (lambda: js.stationary(js.SGD(0.1), X0, key=KEY), TypeError, "process must be an optimizer's chain"),
    "stationary, seeds": (lambda: js.stationary(SDE, X0, key=KEY, seeds=1), ValueError, "seeds must be at least 2, got 1"),
    "stationary, steps": (lambda: js.stationary(SDE, X0, key=KEY, steps=-1), ValueError, "steps must be at least [14], got -1"),
    "stationary, key": (lambda: js.stationary(SDE, X0, key=0), TypeError, "key must be a JAX key"),
    "stationary, substeps": (lambda: js.stationary(SDE, X0, key=KEY, substeps=0), ValueError, "substeps must be at least 1"),
    "stationary, max_steps": (lambda: js.stationary(SDE, X0, key=KEY, max_steps=1e4), TypeError, "max_steps must be"),
    "noise_report, draws": (lambda: js.noise_report(PROBLEM, X0, draws=8), ValueError, "draws must be at least 16, got 8"),
    "noise_report, tolerance": (lambda: js.noise_report(PROBLEM, X0, tolerance=1), ValueError, "tolerance must lie in"),
    "noise_report, tolerances": (
        lambda: js.noise_report(PROBLEM, X0, tolerance=[0.1, 0.2]), ValueError, "tolerance must be one number"
    ),
    "noise_report, key": (lambda: js.noise_report(PROBLEM, X0, key=0), TypeError, "key must be a JAX key"),
    "noise_report, examples": (
        lambda: js.noise_report(PROBLEM, X0, curvature_examples=0), ValueError, "curvature_examples must be at least 1"
    ),
    "rate, level": (lambda: js.convergence_rate("loss", level=2), ValueError, r"level must lie in \(0, 1\), got 2"),
    "rate, a string": (lambda: js.convergence_rate(_curve(), level="0.9"), TypeError, "level must be one number, got '0.9'"),
    "rate, floor": (lambda: js.convergence_rate(_curve(), floor=np.nan), ValueError, "floor must lie in .*got nan"),
    "rate, window": (lambda: js.convergence_rate(_curve(), window=(5.0, 2.0)), ValueError, "window must be the first and"),
    "rate, nan in window": (lambda: js.convergence_rate(_curve(), window=(0.0, np.nan)), ValueError, "window must lie in"),
    "rate, half a window": (lambda: js.convergence_rate(_curve(), window=(5.0,)), ValueError, r"\(first, last\), got \(5.0,\)"),
    "phases, kinds": (
        lambda: phase_rates("loss", [0.1], kinds=("sqrt", "log")), ValueError, "kinds must be one of .*got 'log'"
    ),
    "phases, level": (lambda: phase_rates("loss", [0.1], level=2), ValueError, r"level must lie in \(0, 1\), got 2"),
    "phases, boundaries": (lambda: phase_rates(_curve(), [np.nan]), ValueError, "boundaries must lie in"),
    "laws, seed": (lambda: js.compare_laws(TWO, TWO, seed=0.5), TypeError, "seed must be a whole number.*got 0.5"),
    "laws, negative seed": (lambda: js.compare_laws(TWO, TWO, seed=-1), ValueError, "seed must be at least 0, got -1"),
    "laws, projections": (lambda: js.compare_laws(TWO, TWO, projections=2.5), TypeError, "projections must be a whole number"),
    "laws, negative projections": (
        lambda: js.compare_laws(TWO, TWO, projections=-1), ValueError, "projections must be at least 1, got -1"
    ),
    "laws, strings": (lambda: wasserstein(["a"], ["b"]), TypeError, r"a must be a number .*, got \['a'\]"),
    "sliced, seed": (lambda: sliced_wasserstein(TWO, TWO, seed=-1), ValueError, "seed must be at least 0, got -1"),
}  # fmt: skip


@_raises(ESTIMATES)
def test_estimates(nothing_runs, bad, error, match):
    with pytest.raises(error, match=match):
        bad()


def test_values_that_are_huge_are_compared_all_the_same():
    a, b = np.random.default_rng(0).standard_normal((2, 40, 2)) * 2.0**-4
    b = b + 0.02
    for statistic in ("wasserstein", "energy", "sliced"):
        power = 0.5 if statistic == "energy" else 1.0
        one = js.compare_laws(a, b, statistic=statistic)
        huge = js.compare_laws(a * 2.0**1022, b * 2.0**1022, statistic=statistic)
        assert 0.001 < one.pvalue < 1 and huge.pvalue == one.pvalue
        for name in ("distance", "null_mean", "null_quantile"):
            assert getattr(huge, name) == pytest.approx(getattr(one, name) * 2.0 ** (1022 * power), rel=1e-12)
    assert wasserstein([1.7e308], [0.9e308])[0] == pytest.approx(0.8e308)
    assert js.compare_laws(np.array([1e308, -1e308, 0.0]), np.array([1e308, -1.1e308, 3.0])).pvalue > 0.5


OPT = js.SGD(0.1)
THEORY = {
    "negative times": (lambda: js.theory.moments(OPT, PROBLEM, X0, [0.0, -1.0]), ValueError, r"ts must lie in \[0, inf\)"),
    "times that are nan": (lambda: js.theory.loss_bound(OPT, PROBLEM, X0, [np.nan]), ValueError, r"ts must lie in \[0, inf\)"),
    "times that are strings": (lambda: js.theory.moments(OPT, PROBLEM, X0, ["1"]), TypeError, "ts must be a number or"),
    "one time": (lambda: js.theory.moments(OPT, PROBLEM, X0, 1.0), ValueError, r"ts must be a vector of times, got shape \(\)"),
    "times of a schedule": (lambda: js.theory.schedule_moments(OPT, PROBLEM, X0, [-1.0]), ValueError, "ts must lie in"),
    "times of integrals": (lambda: js.theory.schedule_integrals(OPT, ["1"]), TypeError, "ts must be a number or an array"),
    "a complex start": (lambda: js.theory.moments(OPT, PROBLEM, X0 * 1j, [1.0]), TypeError, "x0 must be a number or an array"),
    "a start that is nan": (lambda: js.theory.moments(OPT, PROBLEM, X0 * np.nan, [1.0]), ValueError, "x0 must lie in"),
    "a start of another shape": (lambda: js.theory.moments(OPT, PROBLEM, jnp.ones(2), [1.0]), ValueError, "x0 must have shape"),
    "half a step": (lambda: js.theory.discrete_moments(OPT, PROBLEM, X0, [0.5]), TypeError, "steps must be whole numbers"),
    "a string of steps": (lambda: js.theory.discrete_moments(OPT, PROBLEM, X0, ["a"]), TypeError, "steps must be whole"),
    "ratio": (lambda: js.theory.scaled(OPT, "2"), TypeError, "batch_ratio must be one number, got '2'"),
    "ratios": (lambda: js.theory.scaled(OPT, TWO), ValueError, r"batch_ratio must be one number, got shape \(2,\)"),
    "power": (lambda: js.theory.power_schedule(TWO, 0.1), ValueError, "power must be one number"),
    "offset": (
        lambda: js.theory.birth_death(js.SignSGD(0.1), PROBLEM, offset=TWO), ValueError, "offset must be one number, got shape"
    ),
    "lemma, times": (lambda: lemma_3_7([1.0], [1.0], [1.0], 0.1, [np.nan]), ValueError, r"ts must lie in \[0, inf\)"),
    "lemma, start": (lambda: lemma_3_7(["a"], [1.0], [1.0], 0.1, [1.0]), TypeError, "x0 must be a number or an array"),
    "lemma, rates": (lambda: lemma_3_7([1.0], [1.0], [1.0], TWO, [1.0]), ValueError, "learning_rate must be one number"),
    "lemma, hessian": (lambda: lemma_c57([1j], [1.0], 0.1, 0.1), TypeError, "hessian must be a number or an array"),
    "lemma, scale": (lambda: lemma_c57([1.0], [0.0], 0.1, 0.1), ValueError, r"scale must lie in \(0, inf\)"),
    "lemma, decay": (lambda: lemma_c57([1.0], [1.0], 0.1, TWO), ValueError, "weight_decay must be one number"),
}  # fmt: skip


@_raises(THEORY)
def test_theory(bad, error, match):
    with pytest.raises(error, match=match):
        bad()


@pytest.mark.parametrize("opt", [js.SGD(0.1), js.SignSGD(0.1), js.Adam(0.1)], ids=lambda opt: type(opt).__name__)
def test_closed_forms_take_times_in_any_order(opt):
    problem = js.Problem(js.Quadratic([[2.0, 0.5], [0.5, 1.0]]), js.Gaussian(1.0))
    ts, order = np.array([0.0, 0.5, 1.0, 2.0]), np.array([2, 0, 3, 1])
    for form in (js.theory.moments, js.theory.loss_bound):
        straight, shuffled = (form(opt, problem, jnp.ones(2), t) for t in (ts, ts[order]))
        np.testing.assert_allclose(shuffled.loss, straight.loss[order], rtol=1e-5)
