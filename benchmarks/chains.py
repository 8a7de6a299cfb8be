"""Optimizer chains: jaxsde against a scan by hand around the same Optax transform, torch.optim and NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsde as js
from jaxsde._registry import OPTIMIZERS

from ._race import Contestant, agree, race
from ._report import Claim, Report
from ._setting import ETA, SIGMA, Setting

_PRICE = {"sgd": 3.0, "adam": 4.0}
_OPTIMIZERS = {name: OPTIMIZERS[name].make(ETA) for name in ("sgd", "adam")}


def run(setting: Setting) -> list[Report]:
    return [_report(setting, name) for name in _OPTIMIZERS]


def _report(setting: Setting, name: str) -> Report:
    optimizer, price = _OPTIMIZERS[name], _PRICE[name]
    present, skipped = [_library(setting, optimizer, price), _scan(setting, optimizer, price), _numpy(setting, name)], {}
    try:
        present.append(_torch(setting, name))
    except ImportError:
        skipped["torch.optim loop"] = "torch is not installed: pip install '.[bench]'"
    agree(present, 64, setting.seeds)
    result = race(present, setting.unit, setting.rounds)
    ours = present[0].name
    rows = [
        (c.name, f"{1e9 * result.median(c.name):.2f}", f"{result.ratio(c.name, ours):.2f}", c.note)
        for c in sorted(present, key=lambda c: result.median(c.name))
    ]
    claims = [
        Claim(f"chain of {name} / scan by hand, same noise", result.ratio(ours, present[1].name), "at most", 1.05),
        Claim(f"torch.optim loop / chain of {name}", result.ratio("torch.optim loop", ours), "at least", 2),
    ]
    remarks = [f"skipped: {who}: {why}" for who, why in skipped.items()]
    return Report(f"chains, {name}", str(setting), ("", "ns per coordinate and step", "relative", ""), rows, claims, remarks)


def _library(setting: Setting, optimizer: Any, price: float) -> Contestant:
    problem, start, key = setting.problem, jnp.asarray(setting.start), jax.random.key(0)
    chain, observe = optimizer.chain(problem), {"x": _itself}

    def simulate(steps: int) -> tuple[np.ndarray, np.ndarray]:
        run = js.simulate(chain, start, steps=steps, seeds=setting.seeds, key=key, observe=observe, progress=False)["x"]
        return np.asarray(run.mean)[-1], np.asarray(run.variance)[-1]

    return Contestant("jaxsde", simulate, setting.steps(price), "a whole call of simulate, statistics included")


def _itself(x: Any) -> Any:
    return x


def _scan(setting: Setting, optimizer: Any, price: float) -> Contestant:
    problem, transform = setting.problem, optimizer.transform()

    @functools.partial(jax.jit, static_argnums=1)
    def run(key: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
        def one(key: jax.Array) -> jax.Array:
            def step(carry: Any, n: jax.Array) -> tuple[Any, None]:
                x, state = carry
                gradient = problem.stochastic_gradient(x, jax.random.fold_in(key, n))
                updates, state = transform.update(gradient, state, x)
                return (optax.apply_updates(x, updates), state), None

            x = jnp.asarray(setting.start)
            return jax.lax.scan(step, (x, transform.init(x)), jnp.arange(steps))[0][0]

        x = jax.vmap(one)(jax.random.split(key, setting.seeds))
        return x.mean(0), x.var(0, ddof=1)

    key = jax.random.key(1, impl="philox4x32")

    def moments(steps: int) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = run(key, steps)
        return np.asarray(mean), np.asarray(variance)

    return Contestant("JAX scan by hand", moments, setting.steps(price), "the same Optax transform, the same noise")


def _torch(setting: Setting, name: str) -> Contestant:
    import torch

    curvature = torch.as_tensor(setting.curvature)

    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        generator = torch.Generator().manual_seed(0)
        x = torch.as_tensor(setting.start).repeat(setting.seeds, 1)
        if name == "sgd":
            optimizer = torch.optim.SGD([x], lr=ETA)
        else:
            optimizer = torch.optim.Adam([x], lr=ETA, betas=(0.9, 0.99), eps=1e-8)
        for _ in range(steps):
            x.grad = curvature * x + SIGMA * torch.randn(x.shape, generator=generator)
            optimizer.step()
        x = x.numpy().astype(np.float64)
        return x.mean(0), x.var(0, ddof=1)

    return Contestant("torch.optim loop", run, setting.steps(8.0), "parameters batched over seeds, gradient by hand")


def _numpy(setting: Setting, name: str) -> Contestant:
    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(0)
        x = np.array(np.broadcast_to(setting.start, (setting.seeds, setting.dim)))
        m, v = np.zeros_like(x), np.zeros_like(x)
        for k in range(1, steps + 1):
            g = setting.curvature * x + np.float32(SIGMA) * generator.standard_normal(x.shape, np.float32)
            if name == "sgd":
                x -= np.float32(ETA) * g
                continue
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.01) * (g * g - v)
            unbiased = np.sqrt(v / np.float32(1 - 0.99**k)) + np.float32(1e-8)
            x -= np.float32(ETA / (1 - 0.9**k)) * m / unbiased
        x = x.astype(np.float64)
        return x.mean(0), x.var(0, ddof=1)

    return Contestant("NumPy loop", run, setting.steps(15.0))
