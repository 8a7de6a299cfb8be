"""Starting: the import, the first call with its compilation, and calls that must not compile."""

import json
import os
import subprocess
import sys
import time

import numpy as np

from ._report import Claim, Report
from ._setting import Setting

_FIRST_CALL = """
import json, time
import jax, jax.numpy as jnp
import jaxsde as js
from benchmarks._compiles import count_compiles

def call(rate, sigma, key, start):
    problem = js.Problem(js.Quadratic(jnp.linspace(0.5, 2.0, 100)), js.Gaussian(sigma))
    run = js.simulate(js.SignSGD(rate).sde(problem), jnp.full(100, start), steps=1000, seeds=1000, key=jax.random.key(key))
    return jax.block_until_ready(run["loss"].mean)

begun = time.perf_counter()
call(0.01, 1.0, 0, 0.5)
first = time.perf_counter() - begun
with count_compiles() as compiles:
    call(0.02, 0.7, 1, 0.2)
print(json.dumps({"first": first, "compiled again": compiles.count}))
"""


def run(setting: Setting) -> list[Report]:
    rounds = 3 if setting.quick else 5
    ours, theirs, first, again = [], [], [], []
    compiled = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as an installed package is
    for turn in range(rounds + 1):
        for seconds, module in ((theirs, "import diffrax, optax"), (ours, "import jaxsde")):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", module], check=True, env=compiled)
            if turn:  # the first import warms the disk's cache
                seconds.append(time.perf_counter() - begun)
    for _ in range(1 if setting.quick else 3):
        printed = subprocess.run([sys.executable, "-c", _FIRST_CALL], check=True, capture_output=True, text=True).stdout
        result = json.loads(printed)
        first.append(result["first"])
        again.append(result["compiled again"])
    claims = [
        Claim("import jaxsde / import diffrax, optax", float(np.median(np.array(ours) / np.array(theirs))), "at most", 1.1),
        Claim("first call of simulate, compilation included, in seconds", float(np.median(first)), "at most", 3),
        Claim("programs compiled for new numbers of the same shape", float(max(again)), "at most", 0),
    ]
    return [Report("startup", "in processes of their own", claims=claims)]
