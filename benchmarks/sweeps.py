"""What recording and batching cost, and the price per coordinate from one dimension to many, in both precisions."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsde as js

from ._compiles import count_compiles
from ._race import Contestant, race
from ._report import Claim, Report
from ._setting import ETA, Setting


def run(setting: Setting) -> list[Report]:
    return [_recording(setting), _rates(setting), _dimensions(setting), _precision(setting)]


def _simulated(process: Any, start: Any, setting: Setting, steps: int, **more: Any) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    run = js.simulate(process, start, steps=steps, seeds=setting.seeds, key=jax.random.key(0), progress=False, **more)
    jax.block_until_ready(jax.tree.leaves([run[name].mean for name in ("loss",)]))
    return time.perf_counter() - begun


def _recording(setting: Setting) -> Report:
    sde, start, steps = js.SignSGD(ETA).sde(setting.problem), jnp.asarray(setting.start), 1000
    observe = {"loss": setting.problem.loss}

    def contestant(name: str, every: int) -> Contestant:
        return Contestant(name, lambda n: _simulated(sde, start, setting, n, every=every, observe=observe), steps)  # type: ignore[arg-type]

    result = race([contestant("100 times", 10), contestant("at the end", steps)], setting.unit, 5 * setting.rounds)
    claim = Claim("recording the loss 100 times / at the end", result.ratio("100 times", "at the end"), "at most", 1.15)
    return Report("sweeps, recording", f"SignSGD's SDE, {steps} steps, {setting}", claims=[claim])


def _rates(setting: Setting) -> Report:
    problem, start, steps, count = setting.problem, jnp.asarray(setting.start), 256, 32
    observe = {"loss": problem.loss}

    def loss(rate: Any) -> jax.Array:
        run = js.simulate(
            js.SignSGD(rate).sde(problem), start, steps=steps, seeds=setting.seeds, key=jax.random.key(0), observe=observe,
            progress=False,
        )  # fmt: skip
        return run["loss"].mean

    together = jax.jit(jax.vmap(loss))
    rates = jnp.geomspace(0.001, 0.05, count)

    def batched(steps: int) -> Any:
        return jax.block_until_ready(together(rates))

    def single(steps: int) -> Any:
        return jax.block_until_ready([loss(rate) for rate in rates])

    for all_of_them, each in zip(batched(steps), single(steps), strict=True):
        np.testing.assert_allclose(all_of_them, each, rtol=1e-3)
    others = jnp.asarray(2 * np.asarray(rates))
    with count_compiles() as compiles:
        together(others)
    result = race([Contestant("batched", batched, steps), Contestant("each", single, steps)], count * setting.unit, 3)
    claims = [
        Claim("32 learning rates, vmapped / 32 times one", result.ratio("batched", "each"), "at most", 1.1),
        Claim("programs compiled for 32 new rates", float(compiles.count), "at most", 0),
    ]
    return Report("sweeps, learning rates", f"SignSGD's SDE, {steps} steps, {setting}", claims=claims)


def _dimensions(setting: Setting) -> Report:
    rows, work = [], 1e7 if setting.quick else 1e8
    for dim in (1, 100, 10_000) if setting.quick else (1, 2, 4, 8, 16, 100, 1_000, 10_000, 100_000):
        seeds = max(4, min(200_000, 1_000_000 // dim))
        here = Setting(seeds, dim)
        problem, start = here.problem, jnp.asarray(here.start)
        observe, steps = {"loss": problem.loss}, max(64, 32 * int(work / (seeds * dim) / 32))
        times = []
        for process, law in (
            (js.SignSGD(ETA).sde(problem), "two-point"),
            (js.SignSGD(ETA).sde(problem), "gaussian"),
            (js.SignSGD(ETA).chain(problem), None),
        ):
            more = {} if law is None else {"increments": law}
            spent = [_simulated(process, start, here, steps, observe=observe, **more) for _ in range(3)]
            times.append(f"{1e9 * min(spent[1:]) / (steps * here.unit):.2f}")
        rows.append((f"{dim:,}", f"{seeds:,}", *times))
    remarks = [
        "each coordinate hashes a counter of its own into two words: 32 two-point steps use one of them, a normal number both;",
        "below some 8 coordinates, a vector of float32, each is several times as dear: vectors hold coordinates of one seed;",
        "at few coordinates a chain also derives a key per seed and step",
    ]
    columns = ("coordinates", "seeds", "SDE, two-point: ns", "SDE, Gaussian", "chain")
    return Report("sweeps, dimensions", "SignSGD, float32, per coordinate and step", columns, rows, remarks=remarks)


def _precision(setting: Setting) -> Report:
    rows = []
    for name, optimizer in setting.optimizers().items():
        contestants = [
            _in_precision(setting, optimizer, wide, law) for law in ("two-point", "gaussian") for wide in (False, True)
        ]
        result = race(contestants, setting.unit, min(setting.rounds, 5))
        single, double, normal, double_normal = (c.name for c in contestants)
        rows.append(
            (name, f"{1e9 * result.median(single):.2f}", f"{1e9 * result.median(double):.2f}",
             f"{result.ratio(double, single):.1f}", f"{result.ratio(double_normal, normal):.1f}")
        )  # fmt: skip
    columns = ("SDE of", "two-point, float32: ns", "float64: ns", "price of float64", "the same, Gaussian")
    return Report("sweeps, precision", str(setting), columns, rows)


def _in_precision(setting: Setting, optimizer: Any, wide: bool, law: str) -> Contestant:
    dtype = np.float64 if wide else np.float32

    def timed(steps: int) -> Any:
        with jax.enable_x64(wide):
            problem = js.Problem(js.Quadratic(jnp.asarray(setting.curvature, dtype)), js.Gaussian(1.0))
            start = jnp.asarray(setting.start, dtype)
            return _simulated(
                optimizer.sde(problem), start, setting, steps, observe={"loss": problem.loss}, increments=law
            )  # fmt: skip

    return Contestant(f"{law}, {np.dtype(dtype)}", timed, setting.steps(1.0 if not wide else 2.5))
