"""Our special functions against SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxsde._special import erf


def test_erf_in_float64():
    with jax.enable_x64(True):
        x = np.concatenate([np.linspace(-8, 8, 1_000_001), np.geomspace(1e-300, 1, 1001), [5.9, np.inf, -np.inf, 0.0]])
        got = np.asarray(jax.jit(erf)(jnp.asarray(x)))
        exact = scipy.special.erf(x)
        assert got.dtype == np.float64
        assert np.all(np.abs(got - exact) <= 1e-15 * np.abs(exact))
        assert np.all(np.abs(got) <= 1)  # so that 1 - erf^2, a variance, is none below 0
        # And so that certain signs have none, in compiled programs and operation by operation, which round differently.
        far = np.array([6.0, 30.0, -7.0, 1e300, -np.inf])
        for function in (erf, jax.jit(erf)):
            assert np.asarray(function(jnp.asarray(far))).tolist() == np.sign(far).tolist()
        assert np.isnan(erf(jnp.asarray(np.nan)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_of_erf(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-7, 7, 201, dtype=dtype)
        slope = jax.vmap(jax.grad(erf))(x)
        assert slope.dtype == dtype
        exact = 2 / np.sqrt(np.pi) * np.exp(-(np.asarray(x, float) ** 2))
        np.testing.assert_allclose(slope, exact, rtol=1e-5 if dtype == "float32" else 1e-13, atol=1e-37)
        curvature = jax.vmap(jax.grad(jax.grad(erf)))(x)
        np.testing.assert_allclose(curvature, -2 * np.asarray(x, float) * exact, rtol=2e-5, atol=1e-37)


def test_erf_in_float32_is_that_of_xla():
    x = jnp.linspace(-5, 5, 1001, dtype=jnp.float32)
    np.testing.assert_array_equal(erf(x), jax.lax.erf(x))
