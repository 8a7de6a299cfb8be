"""How often the intervals of `jaxsde.stationary` hold the truth: `python -m benchmarks.coverage [--runs N] [--out FILE]`.

For SignSGD, RMSprop and AdamW, chain and SDE, in one and two dimensions, with 64 and 1,024 seeds: the share of runs with
independent keys whose 95 % interval of each variance holds the exact one. Where no exact one is known, the mean over all runs
stands for it, whose own error is a twentieth of one run's at 400 runs. Not a speed, so no part of `python -m benchmarks`.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import jaxsde as js
from jaxsde._registry import OPTIMIZERS
from jaxsde.reporting._table import text_table

from ._report import environment

_RATE, _SCALE, _GROUPS = 0.05, 0.8, 32
_HESSIANS = {1: [1.7], 2: [[1.7, 0.5], [0.5, 0.9]]}
_OPTIMIZERS = {
    row.kind.__name__: row.make(_RATE, _SCALE**2, decay=0.95, b1=0.8, b2=0.95)
    for row in (OPTIMIZERS[name] for name in ("sign_sgd", "rmsprop", "adamw"))
}


def covered(name: str, kind: str, dimension: int, seeds: int, runs: int) -> dict[str, Any]:
    """The coverage of each coordinate's variance, and the scatter of the estimates over their standard errors."""
    problem = js.Problem(js.Quadratic(jnp.asarray(_HESSIANS[dimension])), js.Gaussian(_SCALE))
    opt, start = _OPTIMIZERS[name], jnp.zeros(dimension)
    process = opt.chain(problem) if kind == "chain" else opt.sde(problem)
    laws = [
        js.stationary(process, start, key=jax.random.key(k), seeds=seeds, groups=_GROUPS, diagnostic_seeds=64, progress=False)
        for k in range(runs)
    ]
    values, errors = (
        np.array([np.diag(part) for part in parts])
        for parts in zip(*((w.covariance, w.stderr.covariance) for w in laws), strict=True)
    )
    exact = values.mean(axis=0)
    if (name, kind, dimension) == ("SignSGD", "chain", 1):
        exact = np.array([js.theory.birth_death(opt, problem, 0.0).variance])
    deviations = (values - exact) / errors
    inside = np.abs(deviations) < scipy.stats.t.ppf(0.975, _GROUPS - 1)
    return {
        "optimizer": name,
        "process": kind,
        "dimension": dimension,
        "seeds": seeds,
        "coverage": inside.mean(axis=0).tolist(),
        "scatter": deviations.std(axis=0).tolist(),
        "relative error": float(np.mean(errors / exact)),
        "settled": float(np.mean([law.settled for law in laws])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("coverage.json"))
    arguments = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in environment().items()), flush=True)
    begun, found = time.perf_counter(), []
    for name, kind, dimension, seeds in itertools.product(_OPTIMIZERS, ("chain", "sde"), (1, 2), (64, 1024)):
        found.append(covered(name, kind, dimension, seeds, arguments.runs))
        shown = ", ".join(f"{100 * c:.1f} %" for c in found[-1]["coverage"])
        print(f"{name}, {kind}, {dimension}-D, {seeds} seeds: {shown} ({time.perf_counter() - begun:.0f} s)", flush=True)
        arguments.out.write_text(json.dumps(found, indent=1))  # after each: an interrupt loses nothing
    columns = tuple(found[0])
    text = lambda v: " ".join(f"{x:.3f}" for x in v) if isinstance(v, list) else f"{v:.2g}" if isinstance(v, float) else str(v)
    print(text_table(columns, [tuple(text(row[c]) for c in columns) for row in found], left=(0, 1)))
    every = np.concatenate([row["coverage"] for row in found])
    low, mean, high = (100 * f(every) for f in (np.min, np.mean, np.max))
    print(f"least {low:.1f} %, mean {mean:.1f} %, most {high:.1f} %; wrote {arguments.out}")


if __name__ == "__main__":
    main()
