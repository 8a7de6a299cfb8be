"""jaxsde advise."""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from .. import _checks, data, networks, reporting
from .._extras import require
from .._registry import OPTIMIZERS
from ..estimation import advise
from ..problems import Problem
from ..studies import trained
from ._optimizers import make_by_name, settings_of
from ._output import Output, prepare, write_files

_NETWORKS = {
    "mlp": lambda shape, classes, key: networks.MLP(int(np.prod(shape)), classes, key=key),
    "cnn": lambda shape, classes, key: networks.CNN(shape, classes, key=key),
    "resnet": lambda shape, classes, key: networks.ResNet(shape, classes, channels=16, key=key),
    "transformer": lambda shape, classes, key: networks.VisionTransformer(shape, classes, width=24, heads=4, key=key),
}
_DATA = tuple(name for name in data.NAMES if name != "text")
_SET = "Hyperparameters by name, as in --set b1=.95 weight_decay=.01; the others are Optax's defaults or near them."


@dataclasses.dataclass(frozen=True)
class Advise(Output):
    """Says what the gradient noise of a network in training means for its optimizer and its batch size.

    Trains for some steps, measures the noise there, and prints regime, learning rates, the floor that noise sets, tails, and
    the hyperparameters for another batch size. Writes a picture of the noise.
    """

    network: Literal["mlp", "cnn", "resnet", "transformer"] = "mlp"
    """The network."""
    data: Annotated[Literal[_DATA], tyro.conf.arg(help="The data set.")] = "digits"  # pyright: ignore[reportInvalidTypeForm]
    path: pathlib.Path | None = None
    """fashion_mnist, cifar10: the folder of its files."""
    examples: int = 10_000
    """How many training examples to take at most."""
    optimizer: Annotated[Literal[tuple(OPTIMIZERS)], tyro.conf.arg(help="The optimizer.")] = "adamw"  # pyright: ignore[reportInvalidTypeForm]
    learning_rate: float = 0.001
    """Its learning rate."""
    settings: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.arg(name="set", metavar="NAME=VALUE", help=_SET), tyro.conf.UseAppendAction
    ] = ()
    batch: int = 32
    """The batch size."""
    to: int | None = None
    """Another batch size to move to."""
    after: int = 200
    """After how many steps of training the noise is measured."""
    draws: int = 256
    """How many stochastic gradients tell the noise."""
    tolerance: float = 0.1
    """By what share the SDE, and the curve at another batch size, may be off."""
    seed: int = 0
    """Of the random key."""


def run_advise(arguments: Advise) -> None:
    """Trains, measures, prints the advice, and writes the picture."""
    require("matplotlib", extra="plots", purpose="the picture")
    for name, least in (("examples", 1), ("batch", 1), ("after", 0)):
        _checks.count(name, getattr(arguments, name), least=least)
    prepare(arguments.out)
    settings = settings_of(word for words in arguments.settings for word in words)
    row = OPTIMIZERS[arguments.optimizer]
    optimizer = make_by_name(arguments.optimizer, lambda **more: row.make(arguments.learning_rate, 0.0, **more), settings)
    examples = data.load(arguments.data, arguments.path)
    examples = examples.first(min(arguments.examples, len(examples.train.labels))).train
    first, second, third = jax.random.split(jax.random.key(arguments.seed), 3)
    shape, classes = examples.features.shape[1:], int(np.max(examples.labels)) + 1
    if arguments.network != "mlp" and len(shape) != 3:
        raise ValueError(f"{arguments.network} takes images, and those of {arguments.data} are none: take --network mlp")
    problem = Problem.from_data(networks.cross_entropy, examples, batch_size=arguments.batch)
    net: Any = _NETWORKS[arguments.network](shape, classes, first)
    if arguments.after:
        net = trained(optimizer.chain(problem), net, arguments.after, second, progress=True)
    advice = advise(
        problem, net, optimizer, batch_size=arguments.to, key=third, draws=arguments.draws, tolerance=arguments.tolerance
    )
    print(
        f"{arguments.optimizer} on a {arguments.network} after {arguments.after} steps on {len(examples.labels):,} examples of "
        f"{arguments.data}, in batches of {arguments.batch}"
    )
    print(reporting.advice_text(advice))
    name = f"jaxsde-advise-{arguments.optimizer}-{arguments.network}-{arguments.data}.png"
    draw = lambda path: reporting.plot_noise(advice.report).savefig(path, dpi=150)
    [picture] = write_files(arguments.out, {name: draw}, force=arguments.force)
    print(f"wrote {picture}")
