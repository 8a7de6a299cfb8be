"""Helpers for pytrees."""

from collections.abc import Callable

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxsde._traced import shape_of
from jaxsde._tree import is_finite


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_is_finite(bad):
    huge = jnp.full((3, 2), jnp.finfo(jnp.float32).max)
    assert jax.jit(is_finite)({"a": huge, "b": -huge[0]})
    assert not jax.jit(is_finite)({"a": huge, "b": huge.at[1, 1].set(bad)})


def test_shapes_are_found_without_tracing_again():
    class Function(eqx.Module):
        scale: jax.Array
        apply: Callable

        def __call__(self, x):
            return {"y": self.apply(self.scale, x)}

    chex.clear_trace_counter()  # which knows functions by their text

    @chex.assert_max_traces(n=1)
    def once(scale, x):
        return scale * x[:2]

    @chex.assert_max_traces(n=2)
    def twice(scale, x):
        return scale * x[:2]

    for scale in (1.0, 2.0):
        shape = shape_of(Function(jnp.asarray(scale), once), jnp.ones(3))
        chex.assert_trees_all_equal_shapes_and_dtypes(shape, {"y": jnp.ones(2)})
    for of, to in ((4, 2), (4, 2), ((4, 5), (2, 5))):
        assert shape_of(Function(jnp.ones(()), twice), jnp.ones(of))["y"].shape == jnp.empty(to).shape


def test_shapes_of_what_cannot_be_remembered():
    """A leaf that has no hash."""

    class Wrapped(eqx.Module):
        leaf: object

        def __call__(self, x):
            return x.sum() * len(self.leaf)

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __len__(self):
            return 2

    assert shape_of(Wrapped(Unhashable()), jnp.ones(3)).shape == ()
