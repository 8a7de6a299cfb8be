"""The commands of the command line, with their arguments."""

import dataclasses
import pathlib
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from . import optimizers, problems, reporting
from ._extras import require
from .estimation import compare


@dataclasses.dataclass(frozen=True)
class Compare:
    """Simulates an optimizer and its SDE on a problem, and sets them beside the theory.

    Prints a table and writes a picture and a netCDF file with all the numbers. Defaults given as None depend on the
    problem.
    """

    optimizer: tyro.conf.Positional[Literal["sgd", "sign_sgd", "rmsprop", "rmspropw", "adam", "adamw"]]
    """The optimizer."""
    problem: Literal["quadratic", "saddle", "breast-cancer", "digits"] = "quadratic"
    """quadratic: f = x'Hx/2; saddle: an embedded saddle with minima beside it; breast-cancer: logistic regression; digits:
    a small MLP. The last two use the real data that scikit-learn ships, full batches with noise added to the gradient."""
    hessian: tuple[float, ...] = (1.0, 2.0)
    """quadratic: the diagonal of H."""
    noise: Literal["gaussian", "student-t"] = "gaussian"
    """The law of the gradient noise."""
    noise_scale: float | None = None
    """Its scale per coordinate: the standard deviation of Gaussian noise. Default 2 (quadratic), 1 (saddle), 0.1 (data)."""
    df: float = 3.0
    """student-t: degrees of freedom."""
    learning_rate: float = 0.01
    """The learning rate."""
    b1: float = 0.9
    """Adam(W): decay of the mean gradient."""
    b2: float = 0.99
    """Adam(W): decay of the mean squared gradient."""
    decay: float = 0.99
    """RMSprop(W): decay of the mean squared gradient."""
    eps: float = 1e-8
    """Adam(W), RMSprop(W): added to the root."""
    initial_scale: float | None = None
    """RMSprop(W): where the mean squared gradient starts. Default: the noise variance, the value it settles at, which the
    theory assumes; 0 is Optax's default."""
    weight_decay: float = 0.1
    """RMSpropW, AdamW: decoupled weight decay."""
    model: Literal["compagnoni", "compagnoni-drift", "malladi", "ode"] = "compagnoni"
    """The SDE's model."""
    start: float = 1.0
    """quadratic, saddle: the value that every coordinate starts from."""
    steps: int | None = None
    """Optimizer steps. Default 1500 (quadratic, saddle), 300 (breast-cancer), 100 (digits)."""
    seeds: int | None = None
    """Noise seeds. Default 20000 (quadratic, saddle), 400 (breast-cancer), 40 (digits)."""
    substeps: int | None = None
    """Solver steps of the SDE per optimizer step. Default 8 (quadratic, saddle), 2 (data)."""
    seed: int = 0
    """Of the random key."""
    out: pathlib.Path = pathlib.Path(".")
    """The folder to write to."""


class _Defaults(NamedTuple):
    noise_scale: float
    steps: int
    seeds: int
    substeps: int


_DEFAULTS = {
    "quadratic": _Defaults(2.0, 1500, 20_000, 8),
    "saddle": _Defaults(1.0, 1500, 20_000, 8),
    "breast-cancer": _Defaults(0.1, 300, 400, 2),
    "digits": _Defaults(0.1, 100, 40, 2),
}


def run_compare(arguments: Compare) -> None:
    """Runs the comparison, prints the table, and writes the picture and the file."""
    # What is missing should show before the work is done, not after.
    require("matplotlib", extra="plots", purpose="the picture")
    for package in ("xarray", "h5netcdf", "h5py"):
        require(package, extra="files", purpose="the file of numbers")
    default = _DEFAULTS[arguments.problem]
    scale = default.noise_scale if arguments.noise_scale is None else arguments.noise_scale
    seeds = default.seeds if arguments.seeds is None else arguments.seeds
    arguments.out.mkdir(parents=True, exist_ok=True)
    problem, x0 = _problem(arguments, scale)
    optimizer = _optimizer(arguments, problem, x0)
    result = compare(
        optimizer,
        problem,
        x0,
        steps=default.steps if arguments.steps is None else arguments.steps,
        seeds=seeds,
        key=jax.random.key(arguments.seed),
        substeps=default.substeps if arguments.substeps is None else arguments.substeps,
        model=arguments.model,
        groups=min(40, max(2, seeds)),
    )
    print(reporting.table(result))
    name = arguments.out / f"jaxsde-{arguments.optimizer}-{arguments.problem}"
    axes = reporting.plot(result)
    axes.figure.savefig(f"{name}.png", dpi=150)
    reporting.save(result, f"{name}.nc")
    print(f"wrote {name}.png and {name}.nc")


def _problem(arguments: Compare, scale: float) -> tuple[Any, Any]:
    noise = problems.Gaussian(scale) if arguments.noise == "gaussian" else problems.StudentT(arguments.df, scale)
    if arguments.problem == "quadratic":
        loss = problems.Quadratic(arguments.hessian)
        return problems.Problem(loss, noise), jnp.full(len(arguments.hessian), arguments.start)
    if arguments.problem == "saddle":
        return problems.Problem(problems.EmbeddedSaddle(), noise), jnp.full(2, arguments.start)
    data = problems.load(arguments.problem)
    if arguments.problem == "breast-cancer":
        loss = problems.LogisticRegression(data.features, data.labels, ridge=0.01)
        return problems.Problem(loss, noise), jnp.zeros(data.features.shape[1])
    loss, init = problems.mlp(data.features, data.labels)
    return problems.Problem(loss, noise), init(jax.random.key(arguments.seed))


def _optimizer(arguments: Compare, problem: Any, x0: Any) -> Any:
    name, rate = arguments.optimizer, arguments.learning_rate
    if name in ("sgd", "sign_sgd"):
        return {"sgd": optimizers.SGD, "sign_sgd": optimizers.SignSGD}[name](rate)
    decayed = {"weight_decay": arguments.weight_decay} if name.endswith("w") else {}
    if name.startswith("adam"):
        kind = optimizers.AdamW if decayed else optimizers.Adam
        return kind(rate, b1=arguments.b1, b2=arguments.b2, eps=arguments.eps, **decayed)
    initial = arguments.initial_scale
    if initial is None:
        variance = float(np.mean([np.mean(leaf) for leaf in jax.tree.leaves(problem.noise.variance(x0))]))
        initial = variance if np.isfinite(variance) else 0.0
    kind = optimizers.RMSpropW if decayed else optimizers.RMSprop
    return kind(rate, decay=arguments.decay, eps=arguments.eps, initial_scale=initial, **decayed)
