"""What an optimizer is and what it is run on: the arguments that the commands share."""

import dataclasses
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import numpy as np
import tyro

from .. import _checks
from .._registry import NOISES, OPTIMIZERS, PROBLEMS, make_problem
from ..derivation import check_update
from ..optimizers import Optax
from ._optimizers import FORMS, make_by_factory, make_by_name, settings_of, unknown
from ._resume import Resumable

MODELS = tuple(dict.fromkeys([*(model for row in OPTIMIZERS.values() for model in row.kind.models), *Optax.models]))
"""Of any optimizer."""

if TYPE_CHECKING:
    _ProblemName = _NoiseName = str
    _Model = str | None
else:  # what there is to choose from is the registry's to say
    _ProblemName, _NoiseName = (Literal[tuple(rows)] for rows in (PROBLEMS, NOISES))
    _Model = Literal[MODELS] | None

_OPTIMIZER = f"{', '.join(OPTIMIZERS)}; {FORMS}, from the current directory or an installed package."
_SET = (
    "Hyperparameters by name, as in --set b1=.95 nesterov=true. Numbers with a point or an exponent are data, another of which "
    "compiles nothing new; whole numbers, true, false, none and words are part of the program."
)


def _models_by_optimizer() -> str:
    names: dict[tuple[str, ...], list[str]] = {}
    for name, row in OPTIMIZERS.items():
        names.setdefault(row.kind.models, []).append(name)
    names[Optax.models] = ["optax:NAME, MODULE:FACTORY"]
    listed = "; ".join(f"{', '.join(alike)}: {', '.join(models)}" for models, alike in names.items() if models)
    return f"{listed}. The first is the default"


def _problems_in_words() -> str:
    words = "; ".join(f"{name}: {row.what}" for name, row in PROBLEMS.items())
    return f"{words}. Real data are those that scikit-learn ships, full batches with noise added to the gradient"


def by_problem(field: str) -> str:
    """The defaults that depend on the problem, for the help of an option: of a field of a row, or of its budget."""
    names: dict[Any, list[str]] = {}
    for name, row in PROBLEMS.items():
        names.setdefault(getattr(row, field, None) or getattr(row.budget, field), []).append(name)
    return "Default " + ", ".join(f"{value:g} ({', '.join(alike)})" for value, alike in names.items())


_OF_THE_REGISTRY = tuple(dict.fromkeys(name for row in OPTIMIZERS.values() for name in row.hyperparameters))
_SCALE = "Its scale per coordinate: the standard deviation of Gaussian noise."


@dataclasses.dataclass(frozen=True)
class Setup(Resumable):
    """An optimizer and a problem. Defaults given as None depend on the problem, or on the optimizer."""

    optimizer: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OPTIMIZER", help=_OPTIMIZER)]
    settings: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.arg(name="set", metavar="NAME=VALUE", help=_SET),
        tyro.conf.UseAppendAction,
    ] = ()
    problem: Annotated[_ProblemName, tyro.conf.arg(help=f"{_problems_in_words()}.")] = "quadratic"
    hessian: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBERS")] = ("1", "2")
    """quadratic: the diagonal of H, as in --hessian 1 2; or the whole symmetric matrix in quotes, a semicolon between rows, as
    in --hessian "2 .5; .5 1"."""
    noise: _NoiseName = "gaussian"
    """The law of the gradient noise."""
    noise_scale: Annotated[float | None, tyro.conf.arg(help=f"{_SCALE} {by_problem('noise_scale')}.")] = None
    df: float = 3.0
    """student-t: degrees of freedom."""
    alpha: float = 1.5
    """alpha-stable: the index of stability."""
    model: Annotated[_Model, tyro.conf.arg(help=f"The SDE's model. {_models_by_optimizer()}.")] = None
    learning_rate: float = 0.01
    """The learning rate."""
    momentum: float = 0.9
    """momentum: the share of the sum of gradients that a step keeps."""
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
    start: float = 1.0
    """quadratic, saddle: the value that every coordinate starts from."""
    seed: int = 0
    """Of the random key."""

    @property
    def key(self) -> jax.Array:
        """The random key."""
        return jax.random.key(self.seed)

    def build(self) -> tuple[Any, Any, Any]:
        """The optimizer, the problem and the start."""
        for name, options in (("problem", PROBLEMS), ("noise", NOISES)):
            _checks.choice(name, getattr(self, name), tuple(options))
        problem, x0 = make_problem(
            self.problem,
            self.noise,
            self.noise_scale,
            hessian=_matrix_or_diagonal(self.hessian) if self.problem == "quadratic" else None,
            start=self.start,
            key=self.key,
            df=self.df,
            alpha=self.alpha,
        )
        optimizer = self._optimizer(problem, x0)
        if optimizer.models and self.model is not None:
            optimizer.check_model(self.model)
        return optimizer, problem, x0

    @property
    def label(self) -> str:
        """The optimizer's name as a part of the names of files."""
        return re.sub(r"[^\w-]+", "-", self.optimizer).strip("-")

    def _optimizer(self, problem: Any, x0: Any) -> Any:
        settings = settings_of(word for words in self.settings for word in words)
        if self.optimizer not in OPTIMIZERS:
            return self._by_factory(settings, x0)
        row = OPTIMIZERS[self.optimizer]
        # A hyperparameter without an option of its own has the registry's number.
        numbers = {name: getattr(self, name) for name in row.hyperparameters if hasattr(self, name)}
        if "initial_scale" in numbers:
            numbers["initial_scale"] = self._initial_scale(problem, x0)
        return make_by_name(self.optimizer, lambda **more: row.make(self.learning_rate, **numbers | more), settings)

    def _by_factory(self, settings: dict[str, Any], x0: Any) -> Any:
        if not all(self.optimizer.partition(":")):
            raise unknown(self.optimizer)
        for field in dataclasses.fields(Setup):
            if field.name in _OF_THE_REGISTRY and getattr(self, field.name) != field.default:
                option = f"--{field.name.replace('_', '-')}"
                raise _checks.Misuse(f"{option} is not for {self.optimizer}: give its own hyperparameters as --set NAME=VALUE")
        optimizer = make_by_factory(self.optimizer, self.learning_rate, settings)
        try:
            check_update(optimizer.transform, x0)
        except ValueError as error:
            raise _checks.Misuse(f"{self.optimizer}: {error}") from error
        return optimizer

    def _initial_scale(self, problem: Any, x0: Any) -> float:
        if self.initial_scale is not None:
            return self.initial_scale
        variance = float(np.mean([np.mean(leaf) for leaf in jax.tree.leaves(problem.noise.variance(x0))]))
        return variance if np.isfinite(variance) else 0.0


def _matrix_or_diagonal(words: tuple[str, ...]) -> np.ndarray:
    """The numbers of --hessian: a vector, or a matrix where semicolons part them into rows."""
    text = " ".join(words)
    try:
        rows = [[float(number) for number in row.split()] for row in text.split(";")]
    except ValueError:
        rows = [[]]
    if not all(rows):
        raise ValueError(
            f"--hessian takes the numbers of a diagonal, as in --hessian 1 2, or a matrix, as in --hessian '2 .5; .5 1'; "
            f"got {text!r}"
        )
    if len(rows) == 1:
        return np.asarray(rows[0])
    if any(len(row) != len(rows) for row in rows):
        raise ValueError(f"--hessian must be a square matrix: {len(rows)} rows need {len(rows)} numbers each, got {text!r}")
    return np.asarray(rows)
