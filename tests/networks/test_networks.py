"""Networks: against layers written another way, as problems, and what they are made of."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js

KEY = jax.random.key(0)
IMAGE = jax.random.normal(jax.random.key(1), (2, 8, 6))

NETWORKS = {
    "mlp": lambda key=KEY: (js.networks.MLP(96, 3, width=8, layers=4, key=key), IMAGE),
    "cnn": lambda key=KEY: (js.networks.CNN((2, 8, 6), 3, channels=4, dense=8, key=key), IMAGE),
    "resnet": lambda key=KEY: (js.networks.ResNet((2, 8, 6), 3, channels=4, dense=8, blocks=3, key=key), IMAGE),
    "resnet, normalised": lambda key=KEY: (js.networks.ResNet((2, 8, 6), 3, channels=4, dense=8, groups=2, key=key), IMAGE),
    "vision transformer": lambda key=KEY: (
        js.networks.VisionTransformer((2, 8, 6), 3, width=8, depth=2, heads=2, feed_forward=16, key=key),
        IMAGE,
    ),
    "character transformer": lambda key=KEY: (
        js.networks.CharTransformer(3, length=7, width=8, depth=2, heads=2, feed_forward=16, key=key),
        jnp.array([0, 2, 1, 1, 0]),
    ),
}


@pytest.fixture(autouse=True)
def _full_precision():
    """Users' products have JAX's default precision, which accelerators take for less than float32's; NumPy's are exact."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize("name", NETWORKS)
def test_every_leaf_is_a_parameter_and_matters(name):
    network, features = NETWORKS[name]()
    assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(network))
    logits = network(features)
    assert logits.shape == ((5, 3) if name.startswith("character") else (3,))
    label = jnp.zeros(logits.shape[:-1], int)
    gradient = jax.grad(js.networks.cross_entropy)(network, (features, label))
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert jnp.any(leaf != 0), jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_activations_neither_vanish_nor_explode(name):
    """Those of most draws; a single one of few logits may well be small."""

    def spread(key):
        network, features = NETWORKS[name](key)
        return jnp.std(network(features))

    assert 0.05 < float(jnp.median(jax.vmap(spread)(jax.random.split(KEY, 32)))) < 5


def test_convolution_is_scipys():
    from scipy.signal import correlate2d

    from jaxsde.networks._layers import Conv

    conv = Conv(2, 3, key=KEY)
    kernel = np.asarray(conv.weight).reshape(3, 2, 3, 3)
    expected = [sum(correlate2d(np.asarray(IMAGE[c]), kernel[o, c], mode="same") for c in range(2)) for o in range(3)]
    found = conv(jnp.moveaxis(IMAGE, 0, -1))
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), rtol=1e-4, atol=1e-5)


def test_pooling_takes_the_largest_and_leaves_out_an_odd_edge():
    from jaxsde.networks._layers import max_pool

    x = np.random.default_rng(0).normal(size=(2, 5, 7))
    expected = [[[x[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max() for j in range(3)] for i in range(2)] for c in range(2)]
    found = max_pool(jnp.asarray(np.moveaxis(x, 0, -1)))
    np.testing.assert_allclose(found, np.moveaxis(expected, 0, -1), rtol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_position_by_position(causal):
    from jaxsde.networks._layers import Attention

    attention = Attention(6, 2, causal, key=KEY)
    x = np.asarray(jax.random.normal(KEY, (4, 6)), float)
    mapped = (x @ np.asarray(attention.inputs.weight).T).reshape(4, 3, 2, 3)
    mixed = np.zeros((4, 2, 3))
    for i in range(4):
        for head in range(2):
            seen = range(i + 1 if causal else 4)
            weights = np.exp([mapped[i, 0, head] @ mapped[j, 1, head] / np.sqrt(3) for j in seen])
            for j, weight in zip(seen, weights / weights.sum(), strict=True):
                mixed[i, head] += weight * mapped[j, 2, head]
    expected = mixed.reshape(4, 6) @ np.asarray(attention.output.weight).T
    np.testing.assert_allclose(attention(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4, atol=1e-5)


def test_text_is_read_from_left_to_right():
    network, text = NETWORKS["character transformer"]()
    later = text.at[3].set(2)
    before, after = network(text), network(later)
    np.testing.assert_array_equal(before[:3], after[:3])
    assert jnp.all(jnp.any(before[3:] != after[3:], axis=1))


def test_cross_entropy_and_accuracy_by_hand():
    logits = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    labels = np.array([0, 2])
    by_hand = np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)])
    identity = lambda x: x
    np.testing.assert_allclose(
        js.networks.cross_entropy(identity, (jnp.asarray(logits), jnp.asarray(labels))), by_hand, rtol=1e-6
    )
    assert js.networks.accuracy(identity, (jnp.asarray(logits), jnp.asarray(labels))) == 0.5


def test_a_network_is_a_start_and_learns():
    data = js.data.load("digits").first(200)
    network = js.networks.CNN(data.shape, data.classes, channels=4, dense=16, key=KEY)
    problem = js.Problem.from_data(js.networks.cross_entropy, data.train, batch_size=32)
    run = dict(steps=60, seeds=3, every=20, key=KEY, observe={"loss": problem.loss})
    for process in (js.Adam(0.005).chain(problem), js.Adam(0.005).sde(problem)):
        loss = js.simulate(process, network, **run)["loss"].mean
        assert loss[-1] < 0.5 * loss[0]


def test_seeds_may_draw_networks_of_their_own():
    data = js.data.load("breast_cancer").first(50)
    problem = js.Problem.from_data(js.networks.cross_entropy, data.train, batch_size=8)
    draw = lambda key: js.networks.MLP(30, 2, width=4, layers=2, key=key)
    run = js.simulate(js.SGD(0.01).chain(problem), draw, steps=1, seeds=4, key=KEY, reduce=js.Samples())
    assert len(np.unique(run["loss"].values[0])) == 4


def test_any_module_will_do():
    module = eqx.nn.Sequential([eqx.nn.Linear(3, 4, key=KEY), eqx.nn.Lambda(jnp.tanh), eqx.nn.Linear(4, 2, key=KEY)])
    loss, x0 = js.networks.functional(js.networks.cross_entropy, module)
    example = (jnp.ones(3), jnp.array(1))
    np.testing.assert_allclose(loss(x0, example), js.networks.cross_entropy(module, example))
    data = (jax.random.normal(KEY, (20, 3)), jnp.arange(20) % 2)
    problem = js.Problem.from_data(loss, data, batch_size=4)
    for process in (js.RMSprop(0.01).chain(problem), js.RMSprop(0.01).sde(problem)):
        assert js.simulate(process, x0, steps=4, seeds=2, key=KEY).diverged[-1] == 0


def test_errors_say_what_to_do_instead():
    data = js.data.load("digits")
    with pytest.raises(TypeError, match=r"\.train"):
        js.Problem.from_data(js.networks.cross_entropy, data, batch_size=4)
    problem = js.Problem.from_data(js.networks.cross_entropy, (jnp.ones((4, 3)), jnp.zeros(4, int)), batch_size=2)
    module = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    with pytest.raises(TypeError, match="functional"):
        js.simulate(js.SGD(0.1).chain(problem), module, steps=2, seeds=2, key=KEY)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: js.networks.MLP(3, 2, layers=0, key=KEY), "layers"),
        (lambda: js.networks.CNN((8, 8), 2, key=KEY), "shape"),
        (lambda: js.networks.CNN((1, 1, 8), 2, key=KEY), "shape"),
        (lambda: js.networks.ResNet((1, 8, 8), 2, channels=6, groups=4, key=KEY), "groups"),
        (lambda: js.networks.VisionTransformer((1, 8, 8), 2, patch=3, key=KEY), "patch"),
        (lambda: js.networks.VisionTransformer((1, 8, 8), 2, heads=5, key=KEY), "heads"),
        (lambda: js.networks.CharTransformer(9, length=4, key=KEY)(jnp.zeros(5, int)), "longer"),
        (lambda: js.networks.functional(js.networks.cross_entropy, jnp.tanh), "module"),
    ],
)
def test_bad_arguments_raise(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
