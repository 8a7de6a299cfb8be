"""Where optimizers are compared with their SDEs on networks: four architectures on real data, at phases of their training."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ... import data, networks
from ..._tree import flat
from ...estimation import NoiseReport, noise_report
from ...optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ...problems import AbstractNoise, Gaussian, MeanLoss, MiniBatch, Problem
from ...simulation import Samples, simulate
from .._experiment import Scale
from .._tracking import Run

# The share of the decrease of the loss that an SDE may be off by.
TOLERANCE = 0.1


class _Training(NamedTuple):
    """A network and its data."""

    build: Callable[[Any], Any]
    examples: data.Split


class Cell(NamedTuple):
    """Where a comparison is made, and between what."""

    network: str
    phase: str
    batch: int
    opt: AbstractOptimizer


class Place(NamedTuple):
    """A problem with noise as of a batch, parameters, and the optimizers at rates for the noise there."""

    network: str
    phase: str
    batch: int
    problem: Problem
    x0: PyTree
    opts: list[AbstractOptimizer]
    index: int
    """Of the network."""
    number: int
    """Of the place, for keys."""

    def cell(self, opt: AbstractOptimizer) -> Cell:
        return Cell(self.network, self.phase, self.batch, opt)


def places(
    scale: Scale,
    noise: Callable[[MeanLoss, PyTree, int], AbstractNoise],
    batches: tuple[int, ...],
    phases: tuple[str, ...],
    notes: list[str],
) -> Iterator[Place]:
    """All networks, at these phases, with noise of all these strengths; a note on each network joins the notes."""
    for place, (name, training) in enumerate(_trainings(scale).items()):
        # No other network needs the programs of one, and what a process may map into memory is limited on Linux.
        jax.clear_caches()
        loss = MeanLoss(networks.cross_entropy, training.examples)
        start = training.build(scale.key(place))
        described = f"{name}: {networks.count(start)} parameters, {loss.count} examples"
        notes += [] if described in notes else [described]
        for number, (phase, x0) in enumerate(_phases(scale, loss, start, 100 + place).items()):
            for batch in batches if phase in phases else ():
                problem = Problem(loss, noise(loss, x0, batch))
                report = noise_report(problem, x0, draws=16, tolerance=TOLERANCE, key=scale.key(500 + place), progress=False)
                opts = _optimizers(report, variance(loss, x0, batch))
                yield Place(name, phase, batch, problem, x0, opts, place, 1000 + 1000 * place + 100 * number + batch)


def run_of(scale: Scale, opt: AbstractOptimizer, key: Any) -> Run:
    steps, every, seeds = scale.pick((20, 5, 12), (30, 6, 24))
    # A sign follows the noise that makes it less closely than a mean does.
    return Run(steps, every, 4 * seeds if isinstance(opt, SignSGD) else seeds, key)


def _phases(scale: Scale, loss: MeanLoss, x0: PyTree, number: int) -> dict[str, PyTree]:
    """Parameters at the start, where the loss has been halved, and after a thousand steps with noise as of batches of 32."""
    if scale.small:
        return {"start": x0}
    problem = Problem(loss, Gaussian(math.sqrt(variance(loss, x0, 32))))
    chain = Adam(1e-3, b1=0.9, b2=0.99).chain(problem)
    run = simulate(chain, x0, steps=1000, every=20, seeds=1, key=scale.key(number), reduce=Samples(), progress=scale.progress)
    losses = np.asarray(run["loss"].values, float)[:, 0]
    half = int(np.argmax(losses < 0.5 * losses[0]))
    at = lambda i: jax.tree.map(lambda leaf: leaf[i, 0], run["x"].values)
    return {"start": x0, "middle": at(half), "floor": at(-1)}


def variance(loss: MeanLoss, x0: PyTree, batch: int) -> float:
    """The mean over the coordinates of the variance of a batch's gradient."""
    return float(jnp.mean(flat(eqx.filter_jit(MiniBatch(loss, batch).variance)(x0))))


def _optimizers(report: NoiseReport, noise_variance: float) -> list[AbstractOptimizer]:
    """With averages over 10 and 100 steps, at the largest rates at which their SDEs should hold."""
    sgd, sign, rate = (_rounded_down(report.learning_rate[name]) for name in ("SGD", "SignSGD", "RMSprop, Adam"))
    adam: dict[str, Any] = dict(b1=0.9, b2=0.99)
    rms: dict[str, Any] = dict(decay=0.99, initial_scale=noise_variance)
    return [
        SGD(sgd), SignSGD(sign), RMSprop(rate, **rms), RMSpropW(rate, **rms, weight_decay=0.1), Adam(rate, **adam),
        AdamW(rate, **adam, weight_decay=0.1),
    ]  # fmt: skip


def _rounded_down(rate: float) -> float:
    """To one digit."""
    unit = 10.0 ** math.floor(math.log10(rate))
    return math.floor(rate / unit) * unit


def _trainings(scale: Scale) -> dict[str, _Training]:
    table, digits = data.load("breast_cancer"), data.load("digits")
    few = digits.first(scale.pick(32, 64)).train
    shape = digits.shape
    shallow = lambda key: networks.MLP(30, 2, layers=4, key=key)
    narrow = lambda key: networks.CNN(shape, 10, channels=scale.pick(4, 8), dense=16, key=key)
    some = table.first(128).train
    if scale.small:
        return {"CNN": _Training(narrow, few)}
    fewer = digits.first(32).train
    attention: dict[str, Any] = dict(width=8, depth=1, heads=2, feed_forward=16)
    return {
        "MLP": _Training(shallow, some),
        "CNN": _Training(narrow, few),
        "ResNet": _Training(lambda key: networks.ResNet(shape, 10, channels=4, dense=16, blocks=1, key=key), fewer),
        "Transformer": _Training(lambda key: networks.VisionTransformer(shape, 10, **attention, key=key), fewer),
    }
