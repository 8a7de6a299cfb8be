"""Time to a given standard error: multilevel Monte Carlo with control variates against plain Monte Carlo elsewhere."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from scipy.special import erf

import jaxsde as js

from ._report import Claim, Report
from ._setting import ETA, SIGMA, Setting

# The relative standard error asked for, the optimizer's steps, and the solver's steps for each in the plain runs.
_RELATIVE, _STEPS, _SUBSTEPS, _DIM = 1e-4, 100, 4, 10


def run(setting: Setting) -> list[Report]:
    """The expected loss along SignSGD's SDE after a hundred steps."""
    few = Setting(setting.seeds, min(setting.dim, _DIM), setting.rounds, setting.quick)
    ours, loss, stderr, remark = _multilevel(few)
    rows = [("jaxsde, multilevel", f"{ours:.3g}", "1", remark)]
    claims = []
    for name, target, make in _PLAIN:
        seconds, mean, error = _timed(make(few), few.rounds)
        assert abs(mean - loss) < 6 * np.hypot(error, stderr) + 0.01 * loss, f"{name} has another mean: {mean}, {loss}"
        needed = seconds * (error / stderr) ** 2
        rows.append((name, f"{needed:.3g}", f"{needed / ours:.3g}", f"{few.seeds} seeds took {seconds:.2g} s"))
        claims.append(Claim(f"{name} / multilevel, time to a standard error", needed / ours, "at least", target))
    title = f"expected loss to a relative standard error of {_RELATIVE:g}; {few.dim} coordinates, {_STEPS} steps of SignSGD"
    columns = ("SignSGD's SDE", "seconds", "relative", "")
    remarks = [f"plain runs make {_SUBSTEPS} steps per optimizer step, and keep the error of these; multilevel extrapolates it"]
    return [Report("accuracy", title, columns, rows, claims, remarks), _controls(setting)]


def _controls(setting: Setting) -> Report:
    """Means with control variates beside plain ones of as many seeds of the same process."""
    rows, claims = [], []
    for name, process, start, loss, target in _controlled():
        common: dict[str, Any] = dict(steps=_STEPS, seeds=setting.seeds, progress=False)
        fine = partial(_expected_loss, process, start, loss, common)
        crude = partial(_mean_loss, process, start, loss, common)
        dear, cheap = (_seconds(make, setting.rounds) for make in (fine, crude))
        reduction = float(np.median([fine(turn).reduction[-1] for turn in range(setting.rounds)]))
        gain = reduction * cheap / dear
        rows.append((name, f"{reduction:.3g}", f"{dear / cheap:.3g}", f"{gain:.3g}"))
        claims.append(Claim(f"{name}: plain / controlled, time to a standard error", gain, "at least", target))
    columns = ("expected loss", "variance divided by", "price of a seed", "time to a standard error divided by")
    title = f"control variates of chains on mini-batches, and of normal starts; {setting.seeds} seeds, {_STEPS} steps"
    return Report("controls", title, columns, rows, claims)


def _expected_loss(process: Any, start: Any, loss: Any, common: dict[str, Any], turn: int) -> Any:
    return js.expectations(process, start, {"loss": loss}, key=jax.random.key(turn), **common)["loss"]


def _mean_loss(process: Any, start: Any, loss: Any, common: dict[str, Any], turn: int) -> np.ndarray:
    return np.asarray(js.simulate(process, start, observe={"loss": loss}, key=jax.random.key(turn), **common)["loss"].mean)


def _controlled() -> list[tuple[str, Any, Any, Any, float]]:
    """Processes with their starts and losses, and the gain that each should bring."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, _DIM)).astype(np.float32)
    labels = features @ np.linspace(-1, 1, _DIM).astype(np.float32) + 0.5 * rng.normal(size=500).astype(np.float32)
    data = jnp.asarray(features), jnp.asarray(labels, jnp.float32)
    problem = js.Problem.from_data(_squared_error, data, batch_size=32)
    near = jnp.linspace(-1, 1, _DIM) + 0.1
    optimizers = {
        "SGD": js.SGD(0.05),
        "Momentum": js.Momentum(0.005, 0.9),
        "RMSprop": js.RMSprop(0.01, 0.99, initial_scale=1.0),
        "AdamW": js.AdamW(0.01, b1=0.9, b2=0.99),
    }
    cases: list[tuple[str, Any, Any, Any, float]] = [
        (f"{name} on mini-batches", optimizer.chain(problem), near, problem.loss, 2) for name, optimizer in optimizers.items()
    ]
    few = Setting(dim=_DIM)
    start = js.GaussianStart(jnp.asarray(few.start), 0.2)
    return [*cases, ("SignSGD's SDE, normal start", js.SignSGD(ETA).sde(few.problem), start, few.problem.loss, 10)]


def _squared_error(w: jax.Array, example: Any) -> jax.Array:
    return 0.5 * (example[0] @ w - example[1]) ** 2


def _seconds(make: Callable[[int], Any], rounds: int) -> float:
    """The median over rounds after one that compiles."""
    make(0)
    seconds = []
    for turn in range(rounds):
        begun = time.perf_counter()
        make(turn)
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


def _multilevel(setting: Setting) -> tuple[float, float, float, str]:
    """Seconds for the whole call, the mean, the standard error that was asked for, and what was done."""
    problem, start = setting.problem, jnp.asarray(setting.start)
    sde, functions, key = js.SignSGD(ETA).sde(problem), {"loss": problem.loss}, jax.random.key(0)
    common: dict[str, Any] = dict(steps=_STEPS, progress=False)
    rough = js.expectations(sde, start, functions, seeds=1000, key=key, **common)["loss"].mean[-1]
    wanted = _RELATIVE * float(rough)
    seconds, found = [], None
    for turn in range(setting.rounds + 1):  # the first one compiles
        begun = time.perf_counter()
        found = js.multilevel(sde, start, functions, stderr=wanted, key=jax.random.fold_in(key, turn), **common)
        seconds.append(time.perf_counter() - begun)
    seeds = ", ".join(str(level.seeds) for level in found.levels)
    remark = f"seeds {seeds}; {found.gain:.3g} times fewer solver steps"
    return float(np.median(seconds[1:])), float(found["loss"].mean), wanted, remark


def _timed(run: Callable[[int], np.ndarray], rounds: int) -> tuple[float, float, float]:
    """The median of the seconds, and the mean and standard error from all runs together but the first: for one run's seeds."""
    run(0)
    seconds, losses = [], []
    for turn in range(rounds):
        begun = time.perf_counter()
        losses.append(run(turn + 1))
        seconds.append(time.perf_counter() - begun)
    deviation = np.std(np.concatenate(losses)) / np.sqrt(len(losses[0]))
    return float(np.median(seconds)), float(np.mean(losses)), float(deviation)


def _losses(setting: Setting, x: Any) -> np.ndarray:
    return 0.5 * np.sum(setting.curvature * np.asarray(x, np.float64) ** 2, axis=-1)


def _simulate(setting: Setting) -> Callable[[int], np.ndarray]:
    sde, start = js.SignSGD(ETA).sde(setting.problem), jnp.asarray(setting.start)

    def run(turn: int) -> np.ndarray:
        kept = js.simulate(
            sde, start, steps=_STEPS, substeps=_SUBSTEPS, seeds=setting.seeds, key=jax.random.key(turn), every=_STEPS,
            reduce=js.Samples(), progress=False,
        )  # fmt: skip
        return _losses(setting, kept["x"].values[-1])

    return run


def _diffrax(setting: Setting) -> Callable[[int], np.ndarray]:
    curvature, h = jnp.asarray(setting.curvature), ETA / _SUBSTEPS

    def mean(x: jax.Array) -> jax.Array:
        return jax.lax.erf(x * curvature / (np.sqrt(2) * SIGMA))

    def drift(t: Any, x: jax.Array, args: Any) -> jax.Array:
        return -mean(x)

    def diffusion(t: Any, x: jax.Array, args: Any) -> Any:
        return lineax.DiagonalLinearOperator(np.sqrt(ETA) * jnp.sqrt(jnp.maximum(1 - mean(x) ** 2, 0)))

    @jax.jit
    def ends(key: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            path = diffrax.UnsafeBrownianPath(jax.ShapeDtypeStruct((setting.dim,), jnp.float32), key)
            terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path))
            return diffrax.diffeqsolve(
                terms, diffrax.Euler(), 0.0, _STEPS * ETA, h, jnp.asarray(setting.start), adjoint=diffrax.DirectAdjoint(),
                max_steps=_STEPS * _SUBSTEPS + 8,
            ).ys[-1]  # fmt: skip

        return jax.vmap(one)(jax.random.split(key, setting.seeds))

    return lambda turn: _losses(setting, ends(jax.random.key(turn)))


def _numpy(setting: Setting) -> Callable[[int], np.ndarray]:
    h = np.float32(ETA / _SUBSTEPS)

    def run(turn: int) -> np.ndarray:
        generator = np.random.default_rng(turn)
        x = np.broadcast_to(setting.start, (setting.seeds, setting.dim))
        for _ in range(_STEPS * _SUBSTEPS):
            mean = erf(x * setting.curvature * np.float32(1 / (np.sqrt(2) * SIGMA)))
            noise = np.sqrt(np.float32(ETA) * h * np.maximum(1 - mean * mean, 0))
            x = x - h * mean + noise * generator.standard_normal(x.shape, np.float32)
        return _losses(setting, x)

    return run


_PLAIN = [
    ("jaxsde, plain", 10, _simulate),
    ("diffrax, UnsafeBrownianPath, plain", 100, _diffrax),
    ("NumPy, plain", 100, _numpy),
]
