"""How near the derived SDEs of Optax's optimizers are to these: `python -m benchmarks.derived [--seeds N] [--out FILE]
[--page FILE]`.

On f = x^2/2 with standard normal noise, learning rate 0.02, eight solver steps to one of the optimizer: the mean on the way
from x = 1, and the stationary variance, of the optimizer and of its derived SDE with and without the correction for the finite
step; beside them what linear response says. Not a speed, so no part of `python -m benchmarks`.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import jaxsde as js
from jaxsde.reporting._table import text_table

from ._report import environment

RATE = 0.02
_SUBSTEPS, _COORDINATES = 8, 64

OPTIMIZERS: dict[str, Callable[[], js.Optax]] = {
    "sgd": lambda: js.Optax(optax.sgd, RATE),
    "sgd, momentum 0.9": lambda: js.Optax(optax.sgd, RATE, momentum=0.9),
    "sgd, Nesterov 0.9": lambda: js.Optax(optax.sgd, RATE, momentum=0.9, nesterov=True),
    "sgd, clipped at 1": lambda: js.Optax(_clipped_sgd, RATE),
    "sign_sgd": lambda: js.Optax(optax.sign_sgd, RATE),
    "signum": lambda: js.Optax(optax.signum, RATE),
    "lion": lambda: js.Optax(optax.lion, RATE),
    "rmsprop, decay 0.9": lambda: js.Optax(optax.rmsprop, RATE, decay=0.9),
    "rmsprop, decay 0.99": lambda: js.Optax(optax.rmsprop, RATE, decay=0.99, initial_scale=1.0),
    "rmsprop, decay 0.5": lambda: js.Optax(optax.rmsprop, RATE, decay=0.5),
    "adam": lambda: js.Optax(optax.adam, RATE),
    "adam, b2 0.99": lambda: js.Optax(optax.adam, RATE, b2=0.99),
    "adamw": lambda: js.Optax(optax.adamw, RATE, weight_decay=0.5),
    "nadamw": lambda: js.Optax(optax.nadamw, RATE),
    "adabelief": lambda: js.Optax(optax.adabelief, RATE),
    "yogi": lambda: js.Optax(optax.yogi, RATE),
    "adan": lambda: js.Optax(optax.adan, RATE),
    "radam": lambda: js.Optax(optax.radam, RATE),
    "amsgrad": lambda: js.Optax(optax.amsgrad, RATE),
    "adagrad": lambda: js.Optax(optax.adagrad, RATE),
    "ademamix": lambda: js.Optax(optax.contrib.ademamix, RATE),
    "optimistic": lambda: js.Optax(optax.optimistic_gradient_descent, RATE),
}


def _clipped_sgd(learning_rate: Any) -> optax.GradientTransformation:
    return optax.chain(optax.clip(1.0), optax.sgd(learning_rate))


class Estimate(NamedTuple):
    """A mean on the way and a stationary variance, with standard errors over independent coordinates."""

    mean: float
    mean_error: float
    variance: float
    variance_error: float


def estimate(process: Any, seeds: int, steps: int, **more: Any) -> Estimate:
    """Runs the process from x = 1."""
    run = js.simulate(
        process,
        jnp.ones(_COORDINATES),
        steps=steps,
        seeds=seeds,
        key=jax.random.key(0),
        every=steps // 40,
        observe={"x": lambda x: x},
        progress=False,
        **more,
    )
    means = np.asarray(run["x"].mean, float)[2]
    variances = np.asarray(run["x"].variance, float)[20:].mean(axis=0)
    if int(np.asarray(run.diverged)[-1]):
        raise RuntimeError(f"{int(np.asarray(run.diverged)[-1])} of {seeds} seeds have diverged")
    root = np.sqrt(_COORDINATES)
    return Estimate(means.mean(), means.std(ddof=1) / root, variances.mean(), variances.std(ddof=1) / root)


def row(name: str, seeds: int, steps: int) -> dict[str, Any]:
    """All numbers of one optimizer."""
    optimizer = OPTIMIZERS[name]()
    problem = js.Problem(js.Quadratic(jnp.ones(_COORDINATES)), js.Gaussian(1.0))
    small = js.Problem(js.Quadratic(jnp.ones(1)), js.Gaussian(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {"optimizer": estimate(optimizer.chain(problem), seeds, steps)}
        for model in ("derived", "derived-1"):
            found[model] = estimate(optimizer.sde(problem, model=model), seeds, steps, substeps=_SUBSTEPS)
        response = js.linearise(optimizer.chain(small), 0.1 * jnp.ones(1))
    linear = {"variance": response.covariance.item(), "averaged": response.averaged_covariance.item(), "why": response.why}
    return {"name": name, **{k: v._asdict() for k, v in found.items()}, "linear": linear}


def _ratio(part: dict[str, float], whole: dict[str, float], what: str) -> str:
    value = part[what] / whole[what]
    error = abs(value) * np.hypot(part[f"{what}_error"] / part[what], whole[f"{what}_error"] / whole[what])
    return f"{value:.3f} +- {error:.3f}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    heads = ("optimizer", "variance", "derived / it", "order 1 / it", "linear / it", "mean on the way", "derived / it")
    cells = []
    for r in rows:
        whole = r["optimizer"]
        linear = f"{r['linear']['variance'] / whole['variance']:.3f}" + ("" if not r["linear"]["why"] else " (not valid)")
        cells.append(
            (
                r["name"],
                f"{whole['variance']:.4g}",
                _ratio(r["derived"], whole, "variance"),
                _ratio(r["derived-1"], whole, "variance"),
                linear,
                f"{whole['mean']:.4f}",
                _ratio(r["derived"], whole, "mean"),
            )
        )
    return text_table(heads, cells)


_WHY = {
    "signum": "the sign of the momentum saturates: linear response is not valid, and says so",
    "rmsprop, decay 0.5": "the average forgets within two steps, and a warning says so",
    "yogi": "its average of squares has not settled by then, while linear response gives the stationary law",
    "radam": "its warm-up lasts longer than the run, while linear response gives the stationary law",
    "amsgrad": "its running maximum only ever grows: no stationary law; a warning says so",
    "adagrad": "its sum of squares only ever grows: no stationary law",
}


def page(rows: list[dict[str, Any]], seeds: int) -> str:
    """The rows as a page of the documentation."""
    lines = [
        "<!-- Written by `python -m benchmarks.derived --page docs/derived.md`. -->",
        "# Derived SDEs beside their optimizers",
        "",
        __doc__.partition("\n\n")[2].replace(" Not a speed, so no part of `python -m benchmarks`.", "").strip(),
        f"{seeds:,} seeds. Ratios are those to the optimizer's own number, plus or minus one standard error. Linear response",
        "is that of the stationary law, which averages with a decay of 0.999 have not reached at the end of the 800 steps.",
        "",
        "| optimizer | variance | derived | order 1 | linear response | mean on the way | derived | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        whole = r["optimizer"]
        linear = f"{r['linear']['variance'] / whole['variance']:.3f}" if not r["linear"]["why"] else "not valid"
        ratios = _ratio(r["derived"], whole, "variance"), _ratio(r["derived-1"], whole, "variance")
        cells = (r["name"], f"{whole['variance']:.4g}", *ratios, linear, f"{whole['mean']:.4f}")
        lines.append(f"| {' | '.join(cells)} | {_ratio(r['derived'], whole, 'mean')} | {_WHY.get(r['name'], '')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.derived", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the optimizers; all by default")
    parser.add_argument("--seeds", type=int, default=1000, help="noise seeds; each of 64 coordinates is as good as one more")
    parser.add_argument("--page", type=Path, help="where a page for the documentation goes")
    parser.add_argument("--rows", type=Path, help="the JSON of a run before, instead of a run")
    parser.add_argument("--out", type=Path, default=Path("derived.json"), help="where the JSON goes")
    arguments = parser.parse_args()
    begun, rows = time.perf_counter(), []
    if arguments.rows:
        rows = json.loads(arguments.rows.read_text())["rows"]
    else:
        for name in arguments.names or OPTIMIZERS:
            rows.append(row(name, arguments.seeds, 800))
            print(json.dumps(rows[-1]), flush=True)
            arguments.out.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1))
    print(f"\n{table(rows)}\n{time.perf_counter() - begun:.0f} s")
    if arguments.page:
        arguments.page.write_text(page(rows, arguments.seeds))
        print(f"wrote {arguments.page}")


if __name__ == "__main__":
    main()
