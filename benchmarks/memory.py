"""Many seeds: memory that does not grow with them, and a price per seed and step that does not either."""

import json
import subprocess
import sys

import numpy as np

from ._report import Claim, Report
from ._setting import Setting

_STEPS, _RECORDS, _DIM = 1000, 10, 100

# In a process of its own, whose peak of resident memory is the runs' alone. Few seeds before and after the many, so
# that a machine that slows down meanwhile is not taken for a price that grows.
_RUNS = """
import json, pathlib, resource, sys, time
import jax, jax.numpy as jnp
import jaxsde as js

steps, records, dim, *counts = (int(a) for a in sys.argv[1:])
problem = js.Problem(js.Quadratic(jnp.linspace(0.5, 2.0, dim)), js.Gaussian(1.0))
observe = {"x": lambda x: x, "loss": problem.loss}

def seconds(seeds):
    begun = time.perf_counter()
    run = js.simulate(js.SignSGD(0.01).sde(problem), jnp.full(dim, 0.5), steps=steps, every=steps // records, seeds=seeds,
                      key=jax.random.key(0), observe=observe, progress=False)
    jax.block_until_ready([run[name].variance for name in observe])
    return time.perf_counter() - begun

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that this one was forked from
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)

for seeds in (*counts[:-1], *counts, *counts[:-1]):
    seconds(min(seeds, counts[1]))  # compiles and warms up; chunks of more seeds are of the same size
    spent = [seconds(seeds) for _ in range(5 if seeds == counts[0] else 1)]
    print(json.dumps({"seeds": seeds, "seconds": spent, "peak": peak()}), flush=True)
"""


def run(setting: Setting) -> list[Report]:
    counts = [10**k for k in ((3, 4) if setting.quick else (3, 4, 5, 6))]
    command = [sys.executable, "-c", _RUNS, *(str(n) for n in (_STEPS, _RECORDS, _DIM, *counts))]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in printed.splitlines()]
    rows, prices, peaks = [], [], []
    for seeds in counts:
        mine = [line for line in lines if line["seeds"] == seeds]
        seconds = np.concatenate([line["seconds"] for line in mine])
        prices.append(float(np.median(seconds)) / (seeds * _STEPS * _DIM))
        peaks.append(mine[-1 if seeds == counts[-1] else 0]["peak"])
        rows.append((f"{seeds:,}", f"{1e9 * prices[-1]:.2f}", f"{peaks[-1]:.0f}"))
    claims = [
        Claim(f"{counts[-1]:,} seeds: peak of resident memory, in GiB", peaks[-1] / 1024, "at most", 1.5),
        Claim(f"price per seed and step, {counts[0]:,} to {counts[-1]:,} seeds: largest / smallest",
              max(prices) / min(prices), "at most", 1.2),
    ]  # fmt: skip
    setting_text = f"SignSGD's SDE, {_DIM} coordinates, {_STEPS:,} steps, {_RECORDS} records, float32"
    return [Report("memory", setting_text, ("seeds", "ns per coordinate and step", "peak so far, MiB"), rows, claims)]
