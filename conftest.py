"""Names that the doctests may use without importing them."""

import diffrax
import jax
import jax.numpy as jnp
import optax
import pytest


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, optax=optax, diffrax=diffrax)
