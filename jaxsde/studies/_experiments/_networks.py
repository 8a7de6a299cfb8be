"""Do the SDEs track training? Networks on real data with noise added to the full gradient."""

import collections
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ... import data, networks
from ..._tree import flat
from ...estimation import NoiseReport, noise_report
from ...optimizers import Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ...problems import Gaussian, MeanLoss, MiniBatch, Problem
from ...simulation import simulate
from .._experiment import Scale, Study
from .._gap import CHANCE, gap_between
from .._panels import Panel, curve

_MODELS = {"compagnoni": "paper", "second-order": "second order", "malladi": "malladi", "ode": "ode"}

# A model looks the same in every panel, whether or not the others are there.
_LINES = {"paper": ("--", "C1"), "second order": ("--", "C3"), "malladi": ("-.", "C2"), "ode": (":", "C0")}
# Of the solver: with a single one Euler's scheme is close to the optimizer itself, whatever the SDE.
_SMALL_SUBSTEPS, _SUBSTEPS = (1, 4), (1, 4, 8)


class _Training(NamedTuple):
    """A network and its data."""

    build: Callable[[Any], Any]
    examples: data.Split


def networks_study(scale: Scale) -> Study:
    """Optimizers against their SDEs on four architectures."""
    columns = "network optimizer rate model substeps gap/spread chance gap/decrease spread/optimizer's closest"
    notes = [
        "rate: the largest at which noise_report has the SDE hold at the start, with a tolerance of 10 %, to one digit; "
        "RMSprop's average of squares starts at the variance of the noise",
        "gap: the mean over time of the difference between the mean losses of optimizer and model; over the optimizer's "
        "standard deviation over seeds (spread), and over the decrease of its loss",
        CHANCE,
    ]
    notes.append("with one substep Euler's scheme is close to the optimizer itself, whatever the SDE")
    found: list[_Outcome] = []
    try:
        for place, (name, training) in enumerate(_trainings(scale).items()):
            x0 = training.build(scale.key(place))
            loss = MeanLoss(networks.cross_entropy, training.examples)
            # As strong as that of batches of 32 at the start, evenly over the coordinates.
            variance = jnp.mean(flat(eqx.filter_jit(MiniBatch(loss, 32).variance)(x0)))
            problem = Problem(loss, Gaussian(jnp.sqrt(variance)))
            report = noise_report(problem, x0, draws=32, key=scale.key(500 + place), progress=scale.progress)
            opts = _optimizers(report, float(variance))
            # Small, each network has one optimizer of its own.
            for number, opt in enumerate(scale.pick([opts[0], opts[-1]][place : place + 1], opts)):
                found.append(_compared(scale, name, opt, problem, x0, scale.key(1000 + 100 * place + number)))
    except KeyboardInterrupt:
        if not found:
            raise
        notes.append("interrupted: these are the results until then")
    counts = collections.Counter(outcome.closest or "none clearly" for outcome in found)
    counted = ", ".join(f"{label} {count}" for label, count in counts.items())
    notes.append(f"closest by more than twice what chance does, at the most substeps: {counted}")
    rows = [row for outcome in found for row in outcome.rows]
    panels = [outcome.panel for outcome in found]
    return Study("Networks: optimizers against their SDEs", tuple(columns.split()), rows, panels, notes)


class _Outcome(NamedTuple):
    """Of an optimizer on a network."""

    rows: list[tuple[str | float, ...]]
    panel: Panel
    closest: str | None
    """The model, if it is clear which."""


def _compared(scale: Scale, name: str, opt: Any, problem: Problem, x0: Any, key: PRNGKeyArray) -> _Outcome:
    seeds, steps, every = scale.pick((16, 30, 6), (16, 100, 10))
    substeps_of_run = scale.pick(_SMALL_SUBSTEPS, _SUBSTEPS)
    run = functools.partial(simulate, x0=x0, steps=steps, every=every, observe={"loss": problem.loss}, progress=scale.progress)
    chain = run(opt.chain(problem), seeds=seeds, key=jax.random.fold_in(key, 0))
    gaps = {}
    curves = [curve("optimizer", chain, color="k")]
    for model, label in _MODELS.items():
        if model == "malladi" and isinstance(opt, SignSGD):
            continue  # it has none
        # An ODE that starts at one point is the same for every seed, but for the optimizer's first steps.
        lone = model == "ode" and opt.sde(problem).start_steps == 0
        # Small, the paper's SDE alone shows what a single substep does.
        for substeps in substeps_of_run[-1:] if scale.small and label != "paper" else substeps_of_run:
            stream = jax.random.fold_in(key, 1 + substeps)
            sde = run(opt.sde(problem, model=model), seeds=1 if lone else seeds, substeps=substeps, key=stream)
            gaps[label, substeps] = gap_between(chain, sde)
        style, color = _LINES[label]
        curves.append(curve(label, sde, style=style, color=color))
    finest = {label: gap for (label, substeps), gap in gaps.items() if substeps == substeps_of_run[-1]}
    first, second, *_ = sorted(finest, key=lambda label: finest[label].to_spread)
    # Where the next one is hardly further off than chance allows, none is the closest.
    chance = max(finest[first].chance, finest[second].chance)
    clear = finest[second].to_spread - finest[first].to_spread > 2 * chance
    kind = type(opt).__name__
    rows: list[tuple[str | float, ...]] = []
    for (label, substeps), gap in gaps.items():
        said = ("yes" if clear else "not clearly") if label == first else ""
        numbers = gap.to_spread, gap.chance, gap.to_decrease, gap.spread_ratio
        rows.append((name, kind, float(opt.rate), label, float(substeps), *numbers, said))
    best = ", ".join(f"{label} {gap.to_spread:.3g}" for label, gap in finest.items())
    scale.report(f"{name}, {kind}: gap over spread: {best} (chance {chance:.2g})")
    return _Outcome(rows, Panel(f"{name}, {kind}", "time", "training loss", curves), first if clear else None)


def _optimizers(report: NoiseReport, variance: float) -> list[Any]:
    """With averages over 10 and 100 steps, beside a run of 100, at the largest rates at which their SDEs should hold."""
    sign, rate = (_rounded_down(report.learning_rate[name]) for name in ("SignSGD", "RMSprop, Adam"))
    adam: dict[str, Any] = dict(b1=0.9, b2=0.99)
    rms: dict[str, Any] = dict(decay=0.99, initial_scale=variance)
    return [
        SignSGD(sign), RMSprop(rate, **rms), RMSpropW(rate, **rms, weight_decay=0.1), Adam(rate, **adam),
        AdamW(rate, **adam, weight_decay=0.1),
    ]  # fmt: skip


def _rounded_down(rate: float) -> float:
    """To one digit."""
    unit = 10.0 ** math.floor(math.log10(rate))
    return math.floor(rate / unit) * unit


def _trainings(scale: Scale) -> dict[str, _Training]:
    table, digits = data.load("breast_cancer"), data.load("digits")
    few = digits.first(scale.pick(32, 64))
    shape = digits.shape
    smaller: dict[str, Any] = dict(width=24, depth=2, heads=4, feed_forward=96)
    perceptron = lambda key: networks.MLP(30, 2, key=key)
    if scale.small:
        shallow = lambda key: networks.MLP(30, 2, layers=4, key=key)
        narrow = lambda key: networks.CNN(shape, 10, channels=8, dense=16, key=key)
        return {"MLP": _Training(shallow, table.first(128).train), "CNN": _Training(narrow, few.train)}
    return {
        "MLP": _Training(perceptron, table.train),
        "CNN": _Training(lambda key: networks.CNN(shape, 10, key=key), few.train),
        "ResNet": _Training(lambda key: networks.ResNet(shape, 10, channels=16, blocks=2, key=key), few.train),
        "Transformer": _Training(lambda key: networks.VisionTransformer(shape, 10, **smaller, key=key), few.train),
    }
