"""Devices: one device of a processor against as many as it has cores, on the same work."""

import json
import os
import subprocess
import sys

import numpy as np

from ._report import Claim, Report
from ._setting import Setting

# In a process of its own, as the number of devices is settled when JAX starts.
_RUNS = """
import json, sys, time
import jax
devices, seeds, dim, rounds = (int(a) for a in sys.argv[1:])
jax.config.update("jax_num_cpu_devices", devices)
import jax.numpy as jnp
import jaxsde as js
from jaxsde._registry import make_optimizers

problem = js.Problem(js.Quadratic(jnp.linspace(0.5, 2.0, dim)), js.Gaussian(0.8))
optimizers = make_optimizers(0.01, variance=0.64)
work = {f"{name}'s {kind}": getattr(optimizers[name], kind)(problem)
        for name, kind in (("sgd", "chain"), ("sign_sgd", "sde"), ("adam", "chain"), ("adam", "sde"))}

def seconds(process):
    begun = time.perf_counter()
    run = js.simulate(process, jnp.full(dim, 0.5), steps=500, seeds=seeds, key=jax.random.key(0), progress=False)
    jax.block_until_ready(run["x"].variance)
    return time.perf_counter() - begun

print(json.dumps({name: min([seconds(process) for _ in range(rounds + 1)][1:]) for name, process in work.items()}))
"""


def run(setting: Setting) -> list[Report]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seeds, found = 8 * setting.seeds, {1: [], cores: []}
    for _ in range(1 if setting.quick else 3):  # in turn
        for devices, results in found.items():
            words = [sys.executable, "-c", _RUNS, *map(str, (devices, seeds, setting.dim, 3))]
            results.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    best = {devices: {name: min(r[name] for r in results) for name in results[0]} for devices, results in found.items()}
    price = 1e9 / (seeds * setting.dim * 500)
    rows = [
        (name, f"{best[1][name] * price:.2f}", f"{best[cores][name] * price:.2f}", f"{best[1][name] / best[cores][name]:.2f}")
        for name in best[1]
    ]
    gain = float(np.median([best[1][name] / best[cores][name] for name in best[1]]))
    claim = Claim(f"seeds per second, {cores} devices / one, the median of {len(rows)} processes", gain, "at least", 1.0)
    columns = ("process", "one device, ns", f"{cores} devices, ns", "gain")
    return [Report("devices", f"{seeds} seeds, d = {setting.dim}; a coordinate and step", columns, rows, [claim])]
