"""The programs lower for all platforms, from a machine that has none but its processor."""

import jax
import jax.numpy as jnp
import pytest
from common import BY_NAME, PROBLEM
from jax import export

import jaxsde as js


@pytest.mark.parametrize(
    "name, kind",
    [(name, kind) for name, opt in BY_NAME.items() for kind in ("chain", *(("sde", "gaussian") if opt.models else ()))],
)
def test_a_whole_simulation_lowers_for_cpu_cuda_and_tpu(name, kind):
    optimizer = BY_NAME[name]
    problem = PROBLEM

    def run(x0, seed):
        process = optimizer.chain(problem) if kind == "chain" else optimizer.sde(problem)
        more = {"increments": "gaussian"} if kind == "gaussian" else {}
        ensemble = js.simulate(process, x0, steps=64, every=32, seeds=8, key=jax.random.key(seed), **more)
        return ensemble["x"].mean, ensemble["loss"].variance, ensemble.diverged

    arguments = jax.ShapeDtypeStruct((2,), jnp.result_type(float)), jax.ShapeDtypeStruct((), jnp.uint32)
    exported = export.export(jax.jit(run), platforms=["cpu", "cuda", "tpu"])(*arguments)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    mean, variance, diverged = exported.call(jnp.ones(2), jnp.uint32(3))
    here = run(jnp.ones(2), 3)
    assert mean.shape == (3, 2) and jnp.allclose(mean, here[0], rtol=1e-4, atol=1e-6)
    assert jnp.allclose(variance, here[1], rtol=1e-3) and jnp.array_equal(diverged, here[2])
