"""What an optimizer is and what it is run on: the arguments that the commands share."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from .. import _checks, data, networks, optimizers, problems

OPTIMIZERS = {
    "sgd": optimizers.SGD,
    "sign_sgd": optimizers.SignSGD,
    "rmsprop": optimizers.RMSprop,
    "rmspropw": optimizers.RMSpropW,
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
}
MODELS = tuple(dict.fromkeys(model for kind in OPTIMIZERS.values() for model in kind.models))
"""Of any optimizer."""

if TYPE_CHECKING:
    _OptimizerName = _Model = str
else:  # what there is to choose from is the optimizers' to say
    _OptimizerName = Literal[tuple(OPTIMIZERS)]
    _Model = Literal[MODELS]


def _models_by_optimizer() -> str:
    names: dict[tuple[str, ...], list[str]] = {}
    for name, kind in OPTIMIZERS.items():
        names.setdefault(kind.models, []).append(name)
    return "; ".join(f"{', '.join(alike)}: {', '.join(models)}" for models, alike in names.items())


@dataclasses.dataclass(frozen=True)
class Setup:
    """An optimizer and a problem. Defaults given as None depend on the problem."""

    optimizer: tyro.conf.Positional[_OptimizerName]
    """The optimizer."""
    problem: Literal["quadratic", "saddle", "breast-cancer", "digits"] = "quadratic"
    """quadratic: f = x'Hx/2; saddle: an embedded saddle with minima beside it; breast-cancer: logistic regression; digits:
    a small MLP. The last two use the real data that scikit-learn ships, full batches with noise added to the gradient."""
    hessian: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBERS")] = ("1", "2")
    """quadratic: the diagonal of H, as in --hessian 1 2; or the whole symmetric matrix in quotes, a semicolon between rows, as
    in --hessian "2 .5; .5 1"."""
    noise: Literal["gaussian", "student-t", "laplace", "uniform", "alpha-stable"] = "gaussian"
    """The law of the gradient noise."""
    noise_scale: float | None = None
    """Its scale per coordinate: the standard deviation of Gaussian noise. Default 2 (quadratic), 1 (saddle), 0.1 (data)."""
    df: float = 3.0
    """student-t: degrees of freedom."""
    alpha: float = 1.5
    """alpha-stable: the index of stability."""
    model: Annotated[_Model, tyro.conf.arg(help=f"The SDE's model. {_models_by_optimizer()}.")] = "compagnoni"
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
        scale = self.noise_scale
        if scale is None:
            scale = {"quadratic": 2.0, "saddle": 1.0}.get(self.problem, 0.1)
        problem, x0 = self._problem(self._noise(scale))
        optimizer = self._optimizer(problem, x0)
        optimizer.check_model(self.model)
        return optimizer, problem, x0

    def _noise(self, scale: float) -> Any:
        laws = {
            "gaussian": lambda: problems.Gaussian(scale),
            "student-t": lambda: problems.StudentT(self.df, scale),
            "laplace": lambda: problems.Laplace(scale),
            "uniform": lambda: problems.Uniform(scale),
            "alpha-stable": lambda: problems.AlphaStable(self.alpha, scale),
        }
        return laws[_checks.choice("noise", self.noise, tuple(laws))]()

    def _problem(self, noise: Any) -> tuple[Any, Any]:
        if self.problem == "quadratic":
            hessian = _matrix_or_diagonal(self.hessian)
            return problems.Problem(problems.Quadratic(hessian), noise), jnp.full(len(hessian), self.start)
        if self.problem == "saddle":
            return problems.Problem(problems.EmbeddedSaddle(), noise), jnp.full(2, self.start)
        _checks.choice("problem", self.problem, ("quadratic", "saddle", "breast-cancer", "digits"))
        examples = data.load(self.problem.replace("-", "_")).train
        if self.problem == "breast-cancer":
            loss = problems.LogisticRegression(*examples, ridge=0.01)
            return problems.Problem(loss, noise), jnp.zeros(examples.features.shape[1])
        network = networks.MLP(examples.features[0].size, 10, width=16, layers=2, key=self.key)
        return problems.Problem(problems.MeanLoss(networks.cross_entropy, examples), noise), network

    def _optimizer(self, problem: Any, x0: Any) -> Any:
        name, decayed = self.optimizer, {"weight_decay": self.weight_decay}
        adam = dict(b1=self.b1, b2=self.b2, eps=self.eps)
        rmsprop = dict(decay=self.decay, eps=self.eps)
        if name.startswith("rmsprop"):
            rmsprop["initial_scale"] = self._initial_scale(problem, x0)
        hyperparameters: dict[str, dict[str, float]] = {
            "sgd": {},
            "sign_sgd": {},
            "rmsprop": rmsprop,
            "rmspropw": rmsprop | decayed,
            "adam": adam,
            "adamw": adam | decayed,
        }
        kind: Any = OPTIMIZERS[_checks.choice("optimizer", name, tuple(OPTIMIZERS))]
        return kind(self.learning_rate, **hyperparameters[name])

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
