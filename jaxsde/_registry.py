"""The optimizers, problems and noise laws by name, with numbers to begin with: what the command line chooses from, and what
the tests and the benchmarks run."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import data, networks, optimizers, problems
from .optimizers import AbstractOptimizer
from .problems import AbstractNoise, Problem


class OptimizerRow(NamedTuple):
    """A kind of optimizer, and numbers for those of its hyperparameters whose own defaults suit no short run."""

    kind: type[AbstractOptimizer]
    numbers: dict[str, float] = {}

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """The names of all hyperparameters but the rates."""
        names = (field.name for field in dataclasses.fields(self.kind))
        return tuple(name for name in names if name not in ("learning_rate", "reference_rate"))

    def make(self, learning_rate: Any, variance: float = 1.0, **numbers: Any) -> AbstractOptimizer:
        """The optimizer for a gradient noise of this `variance`, where an average of squares starts. Of the other `numbers` it
        takes those that it has."""
        mine = dict(self.numbers)
        roles = vars(self.kind).get("roles")
        if roles is not None:
            mine |= dict.fromkeys(roles.squares, variance)
        names = (*self.hyperparameters, "reference_rate")
        mine |= {name: number for name, number in numbers.items() if name in names}
        kind: Any = self.kind
        return kind(learning_rate, **mine)


_AVERAGES = {"b1": 0.9, "b2": 0.99}
_DECAY = {"weight_decay": 0.1}

OPTIMIZERS: dict[str, OptimizerRow] = {
    "sgd": OptimizerRow(optimizers.SGD),
    "momentum": OptimizerRow(optimizers.Momentum),
    "sign_sgd": OptimizerRow(optimizers.SignSGD),
    "rmsprop": OptimizerRow(optimizers.RMSprop, {"decay": 0.99}),
    "rmspropw": OptimizerRow(optimizers.RMSpropW, {"decay": 0.99} | _DECAY),
    "adam": OptimizerRow(optimizers.Adam, _AVERAGES),
    "adamw": OptimizerRow(optimizers.AdamW, _AVERAGES | _DECAY),
}


def make_optimizers(learning_rate: Any, variance: float = 1.0, **numbers: Any) -> dict[str, AbstractOptimizer]:
    """One of each, by name; each takes those of the `numbers` that it has."""
    return {name: row.make(learning_rate, variance, **numbers) for name, row in OPTIMIZERS.items()}


NOISES: dict[str, tuple[Callable[..., AbstractNoise], tuple[str, ...]]] = {
    "gaussian": (problems.Gaussian, ()),
    "student-t": (problems.StudentT, ("df",)),
    "laplace": (problems.Laplace, ()),
    "uniform": (problems.Uniform, ()),
    "alpha-stable": (problems.AlphaStable, ("alpha",)),
}
"""Laws of noise, and the names of the numbers that they take before their scale."""


class Budget(NamedTuple):
    """How much a comparison simulates."""

    steps: int
    seeds: int
    substeps: int


class ProblemRow(NamedTuple):
    """A kind of problem: a function of noise, the Hessian, the start's value and a key to a problem and a start; what it is in
    words; the scale that its noise has, and how much of it to simulate."""

    make: Callable[[Any, Any, float, jax.Array], tuple[Problem, Any]]
    what: str
    noise_scale: float
    budget: Budget


def _quadratic(noise: Any, hessian: Any, start: float, key: jax.Array) -> tuple[Problem, Any]:
    return Problem(problems.Quadratic(hessian), noise), jnp.full(len(hessian), start)


def _saddle(noise: Any, hessian: Any, start: float, key: jax.Array) -> tuple[Problem, Any]:
    return Problem(problems.EmbeddedSaddle(), noise), jnp.full(2, start)


def _breast_cancer(noise: Any, hessian: Any, start: float, key: jax.Array) -> tuple[Problem, Any]:
    examples = data.load("breast_cancer").train
    return Problem(problems.LogisticRegression(*examples, ridge=0.01), noise), jnp.zeros(examples.features.shape[1])


def _digits(noise: Any, hessian: Any, start: float, key: jax.Array) -> tuple[Problem, Any]:
    examples = data.load("digits").train
    network = networks.MLP(examples.features[0].size, 10, width=16, layers=2, key=key)
    return Problem(problems.MeanLoss(networks.cross_entropy, examples), noise), network


PROBLEMS: dict[str, ProblemRow] = {
    "quadratic": ProblemRow(_quadratic, "f = x'Hx/2", 2.0, Budget(1500, 20_000, 8)),
    "saddle": ProblemRow(_saddle, "an embedded saddle with minima beside it", 1.0, Budget(1500, 20_000, 8)),
    "breast-cancer": ProblemRow(_breast_cancer, "logistic regression on real data", 0.1, Budget(300, 400, 2)),
    "digits": ProblemRow(_digits, "a small MLP on real data", 0.1, Budget(100, 40, 2)),
}


def make_problem(
    name: str = "quadratic",
    noise: str = "gaussian",
    scale: float | None = None,
    *,
    hessian: Any = (1.0, 2.0),
    start: float = 1.0,
    key: jax.Array | None = None,
    **numbers: float,
) -> tuple[Problem, Any]:
    """A problem and a start, by names.

    **Arguments:** `name`, `noise`: of [`PROBLEMS`][] and [`NOISES`][]; `scale`: of the noise, by default the problem's;
    `hessian`: of the quadratic; `start`: the value of every coordinate at the start of the quadratic and the saddle; `key`: for
    a network's parameters; `numbers`: those that the noise law takes before its scale.
    """
    row, (law, names) = PROBLEMS[name], NOISES[noise]
    drawn = law(*(numbers[of] for of in names), row.noise_scale if scale is None else scale)
    return row.make(drawn, hessian, start, jax.random.key(0) if key is None else key)
