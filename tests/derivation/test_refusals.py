"""What has no derived SDE, and says why; what has one with a caution; and what looks odd and has one."""

import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsde as js
from jaxsde.derivation import anatomy_of

RATE = 0.1
PROBLEM = js.Problem(lambda w: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(w)), js.Gaussian(0.5))
DICT = {"a": jnp.ones((3, 2)), "b": jnp.ones(3)}


def derive(transform, start=DICT):
    return js.derive(transform, PROBLEM, learning_rate=RATE, start=start)


@pytest.mark.parametrize(
    "transform, reason",
    [
        (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(RATE)), "mixes coordinates .* use jaxsde.relax"),
        (optax.contrib.muon(RATE), "mixes coordinates .* use jaxsde.relax"),
        (optax.noisy_sgd(RATE, seed=0), "draws noise of its own.*use jaxsde.relax"),
        (optax.MultiSteps(optax.sgd(RATE), 2).gradient_transformation(), "something else at some steps.*larger batch"),
        (optax.chain(optax.sgd(RATE), optax.apply_every(3)), "something else at some steps.*larger batch"),
        (optax.rprop(RATE), "multiplies its step sizes .* no diffusion limit"),
        (optax.contrib.momo(RATE), "cannot be run .*the loss's value.*(loss value|'value')"),
        (optax.lbfgs(RATE), "cannot be run .*'value_fn'"),
        (optax.contrib.sam(optax.sgd(RATE), optax.sgd(RATE)), "cannot be run|something else at some steps"),
        (optax.contrib.dpsgd(RATE, 1.0, 1.0, 0), "cannot be run .* a gradient for each example"),
    ],
    ids=["global norm", "muon", "noisy", "MultiSteps", "apply_every", "rprop", "momo", "lbfgs", "sam", "dpsgd"],
)
def test_what_has_no_derived_sde_says_why_and_what_to_do(transform, reason):
    with pytest.raises(ValueError, match=reason):
        derive(transform)


def test_a_gradient_for_each_example_is_told_by_the_shape_of_the_update():
    with pytest.raises(ValueError, match=r"updates have the shapes \[\(\)\] for parameters of the shapes \[\(4,\)\]"):
        derive(optax.contrib.dpsgd(RATE, 1.0, 1.0, 0), jnp.ones(4))


def test_noise_without_variance_needs_bounded_updates():
    heavy = js.Problem(PROBLEM.loss, js.StudentT(df=2.0, scale=0.5))
    with pytest.raises(ValueError, match="the variance of StudentT noise is infinite here"):
        js.derive(optax.sgd(RATE), heavy, learning_rate=RATE, start=jnp.ones(2))
    js.derive(optax.sign_sgd(RATE), heavy, learning_rate=RATE, start=jnp.ones(2))


@pytest.mark.parametrize(
    "transform, caution",
    [
        (optax.amsgrad(RATE), "a running maximum only ever grows, by rare jumps"),
        (optax.adamax(RATE), "a running maximum moves by rare jumps"),
        (optax.contrib.cocob(), "a running maximum"),
        (optax.rmsprop(RATE, decay=0.5), "a running average forgets within a step or two"),
    ],
    ids=["amsgrad", "adamax", "cocob", "rmsprop"],
)
def test_what_a_diffusion_describes_poorly_warns(transform, caution):
    with pytest.warns(UserWarning, match=f"may be far from the optimizer: {caution}"):
        derive(transform, jnp.ones(6))


MASK = {"a": True, "b": False}
LABELS = {"a": "one", "b": "other"}


@pytest.mark.parametrize(
    "transform",
    [
        optax.apply_if_finite(optax.sgd(RATE, momentum=0.9), 3),
        optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(RATE, 0.01, 100)),
        optax.chain(optax.masked(optax.add_decayed_weights(0.1), MASK), optax.sgd(RATE)),
        optax.partition({"one": optax.sgd(RATE), "other": optax.sign_sgd(RATE)}, LABELS),
        optax.adam(RATE, mu_dtype=jnp.bfloat16),
        optax.contrib.schedule_free_sgd(RATE),
    ],
    ids=["apply_if_finite", "inject_hyperparams", "masked", "partition", "bfloat16", "schedule_free"],
)
def test_what_looks_odd_is_derived_without_a_caution(transform):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sde = derive(transform)
    assert jax.tree.structure(sde.init(DICT, jax.random.key(0))[1].x) == jax.tree.structure(DICT)


def test_coordinates_apart_are_told_from_mixed_ones_whatever_their_place_in_memory():
    """Elementwise updates with cancellation, on leaves whose sizes fill vector registers in part."""
    like = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(4)}
    assert anatomy_of(js.Optax(optax.contrib.schedule_free_sgd, RATE).transform, like).owners[-2:] == (0, 1)
