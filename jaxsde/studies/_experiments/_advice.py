"""Is `advise` right? Its hyperparameters for a larger batch, tried on real data."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ... import data, networks
from ...estimation import Advice, advise
from ...optimizers import SGD, AbstractOptimizer, AdamW, RMSprop, SignSGD
from ...problems import Problem
from ...simulation import Ensemble, simulate
from .._experiment import Scale, Study
from .._panels import Curve, Panel, curve
from .._training import trained

_COLUMNS = "data", "optimizer", "rate", "batch", "to", "promised", "distortion", "gap/decrease", "chance", "why not"
_RECORDS = 5


def advice_study(scale: Scale) -> Study:
    """Networks trained a little; then with the optimizer, and with the one advised for a larger batch."""
    rows: list[tuple[str | float, ...]] = []
    outcomes: list[_Outcome] = []
    panels: list[Panel] = []
    notes = [
        "promised: whether advise expects the loss against the examples seen to stay as it is",
        "distortion: by what share the loss should fall more slowly at the larger batch",
        "gap/decrease: the largest distance of the mean losses over the decrease of the loss; chance: two standard errors",
    ]
    for name, split, batches in _data(scale):
        for batch, to in batches:
            problem, larger = (Problem.from_data(networks.cross_entropy, split, batch_size=size) for size in (batch, to))
            width = split[0].shape[1:]
            net = networks.MLP(int(np.prod(width)), 10, width=scale.pick(16, 32), layers=2, key=scale.key(batch))
            # At the very start the gradient is at its largest.
            start = trained(AdamW(1e-3).chain(problem), net, 200, scale.key(100 + batch))
            for number, opt in enumerate(_optimizers(scale)):
                found = advise(problem, start, opt, batch_size=to, draws=scale.pick(64, 256), progress=False)
                tried = _tried(scale, found, problem, larger, start, scale.key(1000 + 10 * batch + number))
                kind, outcome = type(opt).__name__, _outcome(found, tried)
                rows.append((name, kind, float(opt.rate), float(batch), float(to), *outcome, _why_not(found)))
                scale.report(f"{name}, {kind}, {batch} to {to}: promised: {outcome.promised}, gap {outcome.gap:.3g}")
                outcomes.append(outcome)
                if tried is not None and isinstance(opt, AdamW):
                    curves = [
                        _by_examples(f"batch {batch}", tried.present, batch),
                        _by_examples(f"batch {to}", tried.advised, to),
                    ]
                    title = f"{name}, {kind}, promised: {outcome.promised}"
                    panels.append(Panel(title, "examples seen", "training loss", curves))
    kept, broken = ([outcome for outcome in outcomes if outcome.promised == said] for said in ("yes", "no"))
    worst = max((outcome.gap - outcome.chance for outcome in kept), default=0.0)
    moved = sum(outcome.gap > 0.1 for outcome in broken)
    finding = (
        f"The {len(kept)} curves that advise promised to stay are apart by {100 * max(0.0, worst):.2g} % at most, beyond "
        f"chance; {moved} of the {len(broken)} others by more than 10 %"
    )
    return Study("Advice for a larger batch, tried", finding, _COLUMNS, rows, panels, notes)


class _Outcome(NamedTuple):
    promised: str
    distortion: float
    gap: float
    """Over the decrease of the loss, and so is chance."""
    chance: float


class _Tried(NamedTuple):
    """The losses at the present batch, and with what was advised at the larger one, after as many examples."""

    present: Ensemble
    advised: Ensemble


def _data(scale: Scale) -> list[tuple[str, Any, list[tuple[int, int]]]]:
    digits = data.load("digits")
    if scale.small:
        return [("digits", digits.first(400).train, [(4, 8), (16, 64)])]
    sets = [("digits", digits.train, [(4, 8), (4, 16), (4, 64), (16, 64), (32, 256)])]
    try:
        sets.append(("Fashion-MNIST", data.load("fashion_mnist").first(2000).train, [(4, 8), (4, 64), (16, 32), (32, 256)]))
    except FileNotFoundError:
        scale.report("no Fashion-MNIST here: digits alone")
    return sets


def _optimizers(scale: Scale) -> list[AbstractOptimizer]:
    adam = AdamW(2e-4, b1=0.9, b2=0.99)
    return scale.pick([SGD(0.005), adam], [SGD(0.005), SGD(0.05), SignSGD(2e-4), RMSprop(2e-4, 0.99, initial_scale=1e-3), adam])


def _tried(scale: Scale, found: Advice, problem: Problem, larger: Problem, start: Any, key: PRNGKeyArray) -> _Tried | None:
    scaling = found.scaling
    if scaling is None or scaling.optimizer is None:
        return None
    steps = 64 * _RECORDS
    fewer = round(steps * scaling.steps)
    run: dict[str, Any] = dict(seeds=scale.pick(12, 24), observe={"loss": problem.loss}, progress=False)
    present, advised = jax.random.split(key)
    return _Tried(
        simulate(found.optimizer.chain(problem), start, steps=steps, every=steps // _RECORDS, key=present, **run),
        simulate(scaling.optimizer.chain(larger), start, steps=fewer, every=fewer // _RECORDS, key=advised, **run),
    )


def _by_examples(label: str, run: Ensemble, batch: int) -> Curve:
    return curve(label, run)._replace(x=np.asarray(run.steps, float) * batch)


def _outcome(found: Advice, tried: _Tried | None) -> _Outcome:
    if found.scaling is None or tried is None:
        return _Outcome("no answer", np.nan, np.nan, np.nan)
    ours, theirs = (np.asarray(run["loss"].mean, float) for run in tried)
    error = np.hypot(*(np.asarray(run["loss"].stderr, float) for run in tried))
    decrease = ours[0] - np.min(ours)
    said = "yes" if found.scaling.holds else "no"
    gap, chance = float(np.max(np.abs(theirs - ours))), 2 * float(np.max(error))
    return _Outcome(said, found.scaling.distortion, gap / decrease, chance / decrease)


def _why_not(found: Advice) -> str:
    scaling = found.scaling
    if scaling is None or scaling.optimizer is None:
        return "the rule has no answer"
    reasons = {"rate": scaling.rate_fits, "signal": scaling.noise_dominates, "signs": scaling.normal_signs}
    return ", ".join(reason for reason, fits in reasons.items() if not fits)
