"""What an ensemble says of how it was made."""

import copy
import functools
import gc
import hashlib
import json
import pickle
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import BY_NAME, ONE_DEVICE, PROBLEM, interrupt_before_chunk

import jaxsde as js
from jaxsde.simulation._words import Describer, key_in_words, resolved

X0 = jnp.array([1.0, -1.0])
RUN = dict(steps=20, seeds=12, key=jax.random.key(3))


def _described(value):
    return json.loads(json.dumps(resolved(Describer()(value)), allow_nan=False))


@pytest.mark.parametrize("opt", BY_NAME.values(), ids=BY_NAME)
def test_the_optimizer_has_its_hyperparameters_by_name(opt):
    words = _described(opt.chain(PROBLEM))["optimizer"]
    assert words["class"] == f"jaxsde.optimizers.{type(opt).__name__}"
    for name, value in vars(opt).items():
        assert words[name] == (None if value is None else float(value))
    for model in opt.models:
        sde = _described(opt.sde(PROBLEM, model))
        assert sde["model"] == model and sde["optimizer"] == words


def test_what_the_sde_was_solved_with():
    words = js.simulate(js.SGD(0.1).sde(PROBLEM), X0, substeps=3, **RUN).provenance
    assert words["substeps"] == 3 and words["increments"]["class"] == "jaxsde.processes.TwoPointIncrements"


def test_a_run_can_be_made_again_from_its_words():
    """The numbers, from JSON alone."""
    ensemble = js.simulate(js.SGD(0.1).chain(PROBLEM), X0, every=5, chunk=5, reduce=js.Samples(), **RUN)
    words = json.loads(json.dumps(ensemble.provenance, allow_nan=False))
    process, problem = words["process"], words["process"]["problem"]
    array = lambda w: jnp.asarray(w["values"], w["dtype"])
    again = js.simulate(
        js.SGD(process["optimizer"]["learning_rate"]).chain(
            js.Problem(js.Quadratic(array(problem["loss"]["hessian"])), js.Gaussian(problem["noise"]["scale"]))
        ),
        array(words["x0"]),
        key=jax.random.wrap_key_data(array(words["key"]["data"]), impl=words["key"]["implementation"]),
        reduce=js.Samples(),
        **{name: words[name] for name in ("steps", "seeds", "every", "chunk")},
    )
    np.testing.assert_array_equal(ensemble["x"].values, again["x"].values)
    assert again.provenance == ensemble.provenance
    assert set(words["versions"]) == {"python", "jaxsde", "jax", "jaxlib", "numpy", "optax", "diffrax", "equinox"}
    assert words["versions"]["jax"] == jax.__version__
    assert words["platform"]["backend"] == "cpu" and words["platform"]["devices"] == jax.device_count()
    assert words["settings"]["jax_enable_x64"] is bool(jax.config.jax_enable_x64)


def test_the_settings_are_those_of_the_run():
    with jax.enable_x64(True):
        ensemble = js.simulate(js.SGD(0.1).chain(PROBLEM), jnp.ones(2), **RUN)
    assert ensemble.provenance["settings"]["jax_enable_x64"] is True
    assert ensemble.provenance["x0"]["dtype"] == "float64"


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_the_key_is_the_one_that_was_given(impl):
    for key, raw in ((jax.random.key(7, impl=impl), False), (jax.random.PRNGKey(7, impl=impl), True)):
        words = resolved(key_in_words(key))
        data = jax.random.key_data(key) if not raw else key
        assert words["data"]["values"] == data.tolist() and words["implementation"] == impl and words["raw"] == raw


def test_larger_arrays_have_a_digest_and_large_ones_their_shape():
    for size, key in ((64, "values"), (65, "sha256"), (2**18, "sha256"), (2**18 + 1, None)):
        x0 = (jnp.arange(size) / size).astype(jnp.float32)
        words = _described(x0)
        assert words["shape"] == [size] and words["dtype"] == "float32"
        assert set(words) == {"shape", "dtype"} | ({key} if key else set())
        if key == "sha256":
            assert words["sha256"] == hashlib.sha256(np.asarray(x0).tobytes()).hexdigest()


def test_large_arrays_are_not_kept_alive():
    problem = js.Problem(lambda x: jnp.sum(x**2), js.Gaussian(0.1))
    x0 = jnp.ones(2**18 + 1, jnp.float32)
    alive = weakref.ref(x0)
    ensemble = js.simulate(js.SGD(0.1).chain(problem), x0, steps=1, seeds=1, key=jax.random.key(0), observe={"a": jnp.sum})
    del x0
    gc.collect()
    assert alive() is None
    assert ensemble.provenance["x0"] == {"shape": [2**18 + 1], "dtype": "float32"}


def test_smaller_arrays_that_are_kept_alive_have_a_limit_together():
    words = _described([jnp.ones(2**18 - i, jnp.float32) for i in range(12)])
    assert sum("sha256" in leaf for leaf in words) == 8
    shared = jnp.ones(2**18, jnp.float32)
    assert all("sha256" in leaf for leaf in _described([shared] * 12))


def test_an_array_that_was_deleted_has_its_shape():
    array = jnp.ones(100, jnp.float32)
    words = Describer()(array)
    array.delete()
    assert resolved(words) == {"shape": [100], "dtype": "float32"}


def test_an_array_of_numpys_that_was_changed_is_what_it_was():
    array = np.zeros(3)
    words = Describer()(array)
    array[:] = 1
    assert resolved(words)["values"] == [0.0, 0.0, 0.0]


def _start(scale, key):
    return scale * jax.random.normal(key, (2,))


def test_functions_have_their_names_and_what_they_close_over():
    schedule = optax.exponential_decay(0.1, 10, 0.5)
    weight = jnp.arange(3.0)
    process = js.SGD(schedule, reference_rate=0.1).chain(js.Problem(lambda x: jnp.sum(x**2) + weight[0], js.Gaussian(0.1)))
    words = _described(process)
    assert words["optimizer"]["learning_rate"]["closes over"]["decay_rate"] == 0.5
    loss = words["problem"]["loss"]
    assert loss["function"].endswith("<lambda>") and loss["closes over"]["weight"]["values"] == [0.0, 1.0, 2.0]
    assert _described(functools.partial(_start, 0.5)) == {"function": _described(_start), "arguments": [0.5]}
    assert _described(jax.jit(_start))["function"].endswith("_start") and _described(_start) == _described(jax.jit(_start))


def test_whatever_a_function_closes_over_is_described():
    itself = {}
    itself["itself"] = itself
    odd = [float("nan"), 1j, b"bytes", object(), itself, {1, 2}, np.array([None]), np.float64(1), "long" * 9999, range(3), int]
    many, several = list(range(100_000)), [[[k] for k in range(1000)] for k in range(50)]
    deep = []
    for _ in range(2000):
        deep = [deep]

    def loss(x):
        assert odd and many and several and deep and loss
        return jnp.sum(x**2)

    words = _described(js.Problem(loss, js.Gaussian(0.1)))
    assert len(json.dumps(words)) < 200_000
    assert words["loss"]["closes over"]["odd"][:2] == ["nan", "1j"]


def test_mini_batches_svag_and_networks_are_described():
    data = (jax.random.normal(jax.random.key(0), (50, 3)), jnp.ones(50))
    problem = js.Problem.from_data(lambda w, example: (example[0] @ w - example[1]) ** 2, data, batch_size=8)
    words = _described(js.svag(js.SGD(0.1), problem, 2))
    assert words["make_transform"]["ell"] == 2 and words["make_transform"]["optimizer"]["class"] == "jaxsde.optimizers.SGD"
    noise = words["problem"]["noise"]["noise"]
    assert noise["batches"]["batch_size"] == 8 and "sha256" in noise["loss"]["data"][0]
    assert _described(js.networks.MLP(4, 2, width=3, layers=1, key=jax.random.key(0)))["class"] == "jaxsde.networks.MLP"


def test_under_a_transformation_values_are_said_to_be_traced():
    @jax.jit
    def run(rate, key):
        return js.simulate(js.SGD(rate).chain(PROBLEM), X0, steps=20, seeds=12, key=key)

    words = run(0.1, jax.random.key(0)).provenance
    assert words["process"]["optimizer"]["learning_rate"] == "traced" and words["key"] == "traced"
    assert words["x0"]["values"] == [1.0, -1.0] and words["steps"] == 20
    fixed = jax.jit(lambda rate: js.simulate(js.SGD(rate).chain(PROBLEM), X0, **RUN))(0.1)
    assert fixed.provenance["key"]["data"]["values"] == [0, 3]
    batch = jax.vmap(lambda rate: js.simulate(js.SGD(rate).chain(PROBLEM), X0, **RUN))(jnp.array([0.1, 0.2]))
    assert batch.provenance["process"]["learning_rate"] == "traced"


def test_what_a_transformation_returns_has_no_provenance_rather_than_anothers():
    a, b = (js.simulate(js.SGD(0.1).chain(PROBLEM), X0, steps=20, seeds=12, key=jax.random.key(k)) for k in (0, 1))
    doubled = jax.jit(lambda e: jax.tree.map(lambda leaf: 2 * leaf, e))
    assert [doubled(e).provenance for e in (a, b)] == [None, None]
    assert jax.tree.map(lambda x, y: x + y, a, b).provenance is None
    assert a.provenance["key"] != b.provenance["key"]
    # A change that leaves the runs what they are leaves it.
    assert eqx.tree_at(lambda e: e.statistics, a, {}).provenance == a.provenance


def test_ensembles_share_programs_and_can_be_mapped_together():
    traces = []

    @jax.jit
    def last(ensemble):
        traces.append(1)
        return ensemble["x"].mean[-1]

    ensembles = [js.simulate(js.SGD(rate).chain(PROBLEM), X0, **RUN) for rate in (0.1, 0.2)]
    by_hand = js.Ensemble(*(getattr(ensembles[0], name) for name in ("ts", "steps", "diverged", "seeds", "statistics")))
    for ensemble in (*ensembles, by_hand):
        last(ensemble)
    assert len(traces) == 1 and by_hand.provenance is None


def test_it_goes_with_copies_and_cannot_be_changed():
    ensemble = js.simulate(js.SGD(0.1).chain(PROBLEM), X0, **RUN)
    words = ensemble.provenance
    for other in (copy.copy(ensemble), copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        assert other.provenance == words
    words["steps"] = 0
    assert ensemble.provenance["steps"] == 20


def test_an_interrupted_run_has_the_seeds_that_are_done(monkeypatch):
    interrupt_before_chunk(2, monkeypatch)
    with pytest.raises(js.Interrupted) as caught:
        js.simulate(js.SGD(0.1).chain(PROBLEM), X0, chunk=4, mesh=ONE_DEVICE, **RUN)
    assert caught.value.ensemble.provenance["seeds"] == 8 and caught.value.ensemble.provenance["chunk"] == 4
