"""Helpers for pytrees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxsde._tree import is_finite, shape_of


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_is_finite(bad):
    huge = jnp.full((3, 2), jnp.finfo(jnp.float32).max)
    assert jax.jit(is_finite)({"a": huge, "b": -huge[0]})
    assert not jax.jit(is_finite)({"a": huge, "b": huge.at[1, 1].set(bad)})


def test_shapes_are_found_without_tracing_again():
    traced = []

    class Function(eqx.Module):
        scale: jax.Array
        name: str

        def __call__(self, x):
            traced.append(self.name)
            return {"y": self.scale * x[:2]}

    for scale in (1.0, 2.0):
        shape = shape_of(Function(jnp.asarray(scale), "f"), jnp.ones(3))
        assert shape["y"].shape == (2,) and shape["y"].dtype == jnp.float32
    assert traced == ["f"]
    assert shape_of(Function(jnp.ones(()), "g"), jnp.ones(4))["y"].shape == (2,)
    assert shape_of(Function(jnp.ones(()), "g"), jnp.ones((4, 5)))["y"].shape == (2, 5)
    assert traced == ["f", "g", "g"]


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
