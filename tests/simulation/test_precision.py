"""Arithmetic is in float32 or float64. Numbers of low precision may come in, but nothing is computed in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import WITH_THEORY

import jaxsde as js
from jaxsde._tree import as_params

KEY = jax.random.key(0)
RUN = dict(steps=20, seeds=8, every=10, key=KEY, progress=False)
LOW = [jnp.float16, jnp.bfloat16]


def _bowl(x):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x))


PROBLEM = js.Problem(_bowl, js.Gaussian(0.1))


@pytest.mark.parametrize("dtype", LOW)
def test_parameters_of_low_precision_are_refused(dtype):
    message = rf"x0\['a'\] has the dtype {jnp.dtype(dtype).name}.*use float32"
    x0 = {"a": jnp.ones(2, dtype)}
    for use in (
        lambda: js.simulate(js.Adam(0.01).chain(PROBLEM), x0, **RUN),
        lambda: js.simulate(js.Adam(0.01).sde(PROBLEM), lambda key: x0, **RUN),
        lambda: js.compare(js.SGD(0.01), PROBLEM, x0, steps=20, seeds=40, progress=False),
        lambda: js.stationary(js.SGD(0.01).chain(PROBLEM), x0, key=KEY, steps=8, seeds=8),
        lambda: js.weak_error(js.SGD(0.01), PROBLEM, x0, T=1.0, learning_rates=(0.5, 0.25), key=KEY),
        lambda: js.noise_report(PROBLEM, x0),
        lambda: js.SGD(0.01).sde(PROBLEM).init(x0, KEY),
    ):
        with pytest.raises(TypeError, match=message):
            use()
    with pytest.raises(TypeError, match=rf"x0 has the dtype {jnp.dtype(dtype).name}"):
        as_params(jnp.ones(2, dtype))


def test_parameters_of_mixed_precision_are_refused_with_their_names():
    with jax.enable_x64(True):
        x0 = {"a": jnp.ones(2, jnp.float32), "b": [jnp.ones((), jnp.float64)]}
        message = r"x0\['a'\] is float32, x0\['b'\]\[0\] is float64: convert"
        with pytest.raises(TypeError, match=message):
            js.simulate(js.SGD(0.1).chain(PROBLEM), x0, **RUN)
        # A Python number has no precision of its own.
        mixed = as_params({"a": jnp.ones(2, jnp.float32), "b": 0.5})
        assert mixed["b"].dtype == jnp.float32 and not mixed["b"].weak_type
        assert as_params(0.5).dtype == jnp.float64
        js.simulate(js.SGD(0.1).chain(PROBLEM), {"a": jnp.ones(2, jnp.float32), "b": 0.5}, **RUN)


def test_parameters_that_are_no_floats_are_named():
    with pytest.raises(TypeError, match=r"floating-point numbers, got dtype int\d+ at x0\['n'\]"):
        as_params({"n": jnp.arange(2)})
    with pytest.raises(TypeError, match=r"array of floats, got 'abc' at x0\[1\]"):
        as_params([1.0, "abc"])
    with pytest.raises(ValueError, match="at least one array of parameters"):
        as_params({})


@pytest.mark.parametrize("dtype", LOW)
def test_hyperparameters_of_low_precision_are_refused(dtype):
    for make, name in (
        (lambda: js.SGD(jnp.asarray(0.1, dtype)), "learning_rate"),
        (lambda: js.AdamW(0.1, b2=jnp.asarray(0.9, dtype)), "b2"),
        (lambda: js.RMSprop(lambda k: 0.1, reference_rate=np.asarray(0.1, dtype)), "reference_rate"),
    ):
        with pytest.raises(TypeError, match=f"{name} has the dtype {jnp.dtype(dtype).name}.*use float32"):
            make()


def _quadratic(dtype):
    """A problem whose numbers have squares beyond float16."""
    hessian, scale, minimum = (jnp.asarray(v, dtype) for v in ([1.0, 2.0], 300.0, [300.0, -300.0]))
    return js.Problem(js.Quadratic(hessian, minimum), js.Gaussian(scale))


def test_problems_of_low_precision_are_computed_with_in_that_of_the_parameters():
    low, high = _quadratic(jnp.float16), _quadratic(jnp.float32)
    for opt in (js.SignSGD(0.01), js.AdamW(0.01)):
        for name in ("chain", "sde"):
            runs = [js.simulate(getattr(opt, name)(problem), jnp.ones(2), **RUN) for problem in (low, high)]
            for observable in ("x", "loss"):
                np.testing.assert_array_equal(*(run[observable].mean for run in runs))
                assert runs[0][observable].mean.dtype == jnp.result_type(float)


# With weight decay the bound is for a minimum at 0.
@pytest.mark.parametrize("opt", [o for o in WITH_THEORY if not hasattr(o, "weight_decay")], ids=lambda opt: type(opt).__name__)
def test_theory_of_problems_of_low_precision_is_computed_in_single_at_least(opt):
    x0, ts = jnp.ones(2), jnp.linspace(0.0, 1.0, 3)
    for function in (js.theory.moments, *(() if isinstance(opt, js.Momentum) else (js.theory.loss_bound,))):
        low, high = (function(opt, _quadratic(dtype), x0, ts) for dtype in (jnp.float16, jnp.float32))
        for a, b in zip(low, high, strict=True):
            assert jnp.finfo(a.dtype).bits >= 32 and np.all(np.isfinite(a))
            np.testing.assert_array_equal(a, b)


def test_data_of_low_precision_are_computed_with_in_that_of_the_parameters():
    data = 300 + jax.random.normal(jax.random.key(1), (64, 2)).astype(jnp.float16)

    def loss(w, example):
        return 1e-6 * jnp.sum((example**2 + w) ** 2)  # example**2 is infinite in float16

    low, high = (js.Problem.from_data(loss, d, batch_size=4) for d in (data, data.astype(jnp.float32)))
    for opt in (js.SGD(0.1), js.Adam(0.1)):
        runs = [js.simulate(opt.sde(problem), jnp.ones(2), **RUN) for problem in (low, high)]
        np.testing.assert_array_equal(*(run["x"].mean for run in runs))
        assert np.all(runs[0].diverged == 0)
    reports = [js.noise_report(problem, jnp.ones(2), draws=16) for problem in (low, high)]
    assert reports[0].whole == reports[1].whole and np.isfinite(reports[0].whole.noise_norm)
    law = [
        js.stationary(js.SGD(0.1).chain(problem), jnp.ones(2), key=KEY, seeds=8, steps=64, diagnostic_seeds=4, progress=False)
        for problem in (low, high)
    ]
    np.testing.assert_array_equal(law[0].loss, law[1].loss)


def test_observables_are_recorded_in_the_precision_of_the_parameters():
    observe = {
        "half": lambda x: (100 * x).astype(jnp.float16),
        "whole": lambda x: jnp.round(x).astype(jnp.int32) + 2**24 + 1,
        "truth": lambda x: x > -1e3,
    }
    run = js.simulate(js.SGD(0.1).chain(PROBLEM), jnp.ones(1, jnp.float32), observe=observe, **RUN)
    assert all(run[name].mean.dtype == run[name].variance.dtype == jnp.float32 for name in observe)
    assert float(run["half"].mean[0, 0]) == 100 and float(run["truth"].mean[-1, 0]) == 1
    assert float(run["whole"].mean[0, 0]) == 2**24 + 2
    with jax.enable_x64(True):
        wide = js.simulate(js.SGD(0.1).chain(PROBLEM), np.ones(1), observe={"whole": observe["whole"]}, **RUN)
    assert wide["whole"].mean.dtype == np.float64


def test_observables_that_are_no_real_numbers_are_refused():
    for function, dtype in ((lambda x: x * 1j, "complex"), (lambda x: jax.random.key(0), "key")):
        with pytest.raises(TypeError, match=rf"observe\['z'\] must return real numbers, got dtype {dtype}"):
            js.simulate(js.SGD(0.1).chain(PROBLEM), jnp.ones(1), observe={"z": function}, **RUN)
