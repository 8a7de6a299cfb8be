"""Claims about real mini-batches: their covariance, optimizers against SDEs, SVAG, and scaling with the batch size."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ... import data, networks, theory
from ..._linalg import matmul, vdot
from ..._tree import flat
from ...estimation import noise_report
from ...optimizers import SGD, AdamW, RMSprop, SignSGD, svag
from ...problems import Gaussian, Problem
from ...simulation import Ensemble, simulate
from .._experiment import Scale, Study
from .._gap import CHANCE, gap_between
from .._panels import Curve, Panel, curve
from .._training import trained

# What an optimizer is compared with looks the same in every panel.
_LINES = {
    "SDE": ("--", "SDE"),
    "injected noise": (":", "injected noise"),
    "corrected drift": ("--", "second order"),
    "malladi": ("-.", "malladi"),
    "SDE, drawn signs": ("-.", "drawn signs"),
}


def covariance_study(scale: Scale) -> Study:
    """Drawn gradients against the covariance that the SDEs use."""
    # So many that the trace of the covariance is found to within 1 %.
    few, many = scale.pick((20_000, 200_000), (100_000, 1_000_000))
    header = ("problem", "batch", "entries", "rms z", "largest |z|", "expected largest", "trace, drawn / claimed", "s.e.")
    rows: list[tuple[str | float, ...]] = []
    curves = []
    spread = jnp.diag(jnp.array([1.0, 0.5, 2.0, 1.0, 0.1]))
    features = matmul(jax.random.normal(scale.key(0), (2000, 5), jnp.float32), spread)
    targets = matmul(features, jnp.ones(5)) + 0.5 * jax.random.normal(scale.key(1), (2000,), jnp.float32)
    digits = data.load("digits").train
    network = networks.CNN((1, 8, 8), 10, channels=1, dense=5, key=scale.key(2))
    settings = {
        "linear regression": (_half_square, (features, targets), jnp.zeros(5), many),
        f"CNN of {networks.count(network)} on digits": (networks.cross_entropy, digits, network, few),
    }
    for i, (name, (loss, examples, params, draws)) in enumerate(settings.items()):
        for batch_size in (8, 128):
            problem = Problem.from_data(loss, examples, batch_size=batch_size)
            keys = jax.random.split(scale.key(10 + 2 * i + (batch_size > 8)), draws)
            draw = jax.jit(lambda keys, p=problem, x=params: jax.lax.map(lambda k: _noise(p, x, k), keys, batch_size=64))
            noise = np.asarray(draw(keys), float)
            claimed = np.asarray(problem.noise.covariance(params), float)
            found = noise.T @ noise / draws
            square = noise**2
            stderr = np.sqrt(np.maximum(square.T @ square / draws - found**2, 0) / draws)
            entries = np.triu_indices(len(found))
            # Where nothing is drawn, nothing may be claimed: there z is infinite or nothing at all.
            off, error = (found - claimed)[entries], stderr[entries]
            z = np.divide(off, error, out=np.where(off == 0, np.nan, np.inf), where=error > 0)
            z = z[~np.isnan(z)]
            # The largest of so many normal numbers; here they are correlated and of heavier tails.
            largest = float(np.sqrt(2 * np.log(2 * z.size)))
            lengths = square.sum(axis=1) / np.trace(claimed)
            trace = float(lengths.mean()), float(lengths.std() / np.sqrt(draws))
            rms = float(np.sqrt(np.mean(z**2)))
            rows.append((name, float(batch_size), float(z.size), rms, np.abs(z).max(), largest, *trace))
            scale.report(f"{name}, batch {batch_size}: largest |z| {np.abs(z).max():.2g} of {z.size} entries")
            if batch_size == 8:
                order = np.argsort(np.diag(claimed))
                place = np.arange(len(order)) / len(order)
                curves.append(Curve(f"{name}: claimed", place, np.diag(claimed)[order], of=name))
                curves.append(Curve(f"{name}: drawn", place, np.diag(found)[order], 5 * np.diag(stderr)[order], of=name))
    panel = Panel("Variances at batch 8, sorted", "share of the coordinates", "variance, ± 5 s.e.", curves, bars=True)
    notes = ["z: an entry's deviation over its standard error, which is estimated from the same draws"]
    off = max(abs(float(row[-2]) - 1) for row in rows)
    errors = max(abs(float(row[-2]) - 1) / float(row[-1]) for row in rows)
    finding = (
        f"The drawn covariances have the claimed traces within {100 * off:.2g} %, which is {errors:.2g} standard errors at most"
    )
    return Study("The covariance of a mini-batch gradient", finding, header, rows, [panel], notes)


def _noise(problem: Problem, params: Any, key: Any) -> Any:
    return flat(problem.stochastic_gradient(params, key)) - flat(problem.gradient(params))


def _half_square(w: Any, example: Any) -> Any:
    features, target = example
    return 0.5 * (vdot(features, w) - target) ** 2


def minibatch_study(scale: Scale) -> Study:
    """Optimizers on mini-batches of digits, against SDEs with their covariance, and against injected noise."""
    seeds, steps, every = scale.pick((16, 40, 10), (32, 200, 10))
    examples = data.load("digits").first(scale.pick(128, 256)).train
    x0 = networks.CNN((1, 8, 8), 10, channels=4, dense=16, key=scale.key(0))
    columns = "optimizer batch against gap/spread chance gap/decrease spread/optimizer's"
    rows: list[tuple[str | float, ...]] = []
    panels = []
    sgd, sign, adam = SGD(0.02), SignSGD(1e-3), AdamW(1e-3, b1=0.9, b2=0.99, weight_decay=0.1)
    for i, opt in enumerate(scale.pick((sgd,), (sgd, sign, adam))):
        for j, batch_size in enumerate((8, 32, 128)):
            problem = Problem.from_data(networks.cross_entropy, examples, batch_size=batch_size)
            run: dict[str, Any] = dict(
                steps=steps, every=every, seeds=seeds, observe={"loss": problem.loss}, progress=scale.progress
            )
            key = scale.key(100 + 10 * i + j)
            chain = simulate(opt.chain(problem), x0, key=jax.random.fold_in(key, 0), **run)
            # Of the same variances, but those at the start, and of Gaussian law.
            injected = Problem(problem.loss, Gaussian(jax.tree.map(jnp.sqrt, eqx.filter_jit(problem.noise.variance)(x0))))
            finer = dict(substeps=4 if isinstance(opt, AdamW) else 2)  # with fewer its first-order SDE looks better than it is
            others = {"SDE": (opt.sde(problem), finer), "injected noise": (opt.chain(injected), {})}
            if isinstance(opt, SignSGD):
                drawn = Problem.from_data(networks.cross_entropy, examples, batch_size=batch_size, sign_batches=200)
                others["SDE, drawn signs"] = (opt.sde(drawn), dict(substeps=2))
            if isinstance(opt, AdamW):
                others["corrected drift"] = (opt.sde(problem, model="second-order-drift"), finer)
                others["malladi"] = (opt.sde(problem, model="malladi"), finer)
            curves = [curve("optimizer", chain)]
            for number, (label, (process, more)) in enumerate(others.items()):
                other = simulate(process, x0, key=jax.random.fold_in(key, 1 + number), **more, **run)
                gap = gap_between(chain, other)
                rows.append((type(opt).__name__, float(batch_size), label, *gap))
                style, thing = _LINES[label]
                curves.append(curve(label, other, style=style, of=thing))
                scale.report(f"{type(opt).__name__}, batch {batch_size}, {label}: gap over spread {gap.to_spread:.3g}")
            panels.append(Panel(f"{type(opt).__name__}, batch {batch_size}", "time", "training loss", curves))
    notes = [
        "gap: the mean over time of the difference between mean losses; over the optimizer's standard deviation over seeds "
        "(spread), and over the decrease of its loss",
        CHANCE,
        "SDE: with the covariance of the batch gradient at the current point; injected noise: the optimizer itself with "
        "Gaussian noise of the variances at the start, which fall as the loss does",
        "corrected drift: the SDE with the drift of second order and the same noise",
        "drawn signs: mean and covariance of SignSGD's signs over 200 batches; SDE takes each coordinate for normal and the "
        "signs for independent, which they are not where a few examples make a batch",
    ]
    worst: dict[str, float] = {}
    for name, _, label, _, _, share, *_ in rows:
        if label in ("SDE", "corrected drift"):
            key = str(name) if label == "SDE" else f"{name} with corrected drift"
            worst[key] = max(worst.get(key, 0.0), 100 * float(share))
    said = ", ".join(f"{name} {share:.2g} %" for name, share in worst.items())
    finding = f"The SDE's mean loss is off by at most so much of the decrease: {said}"
    return Study("Mini-batches of digits", finding, tuple(columns.split()), rows, panels, notes)


def svag_study(scale: Scale) -> Study:
    """SVAG tends to the SDE, knowing no covariance."""
    steps = scale.pick(10, 40)
    examples = data.load("digits").first(scale.pick(64, 256)).train
    problem = Problem.from_data(networks.cross_entropy, examples, batch_size=16)
    x0 = networks.CNN((1, 8, 8), 10, channels=scale.pick(2, 4), dense=16, key=scale.key(0))
    header = ("optimizer", "process", "seeds", "mean loss", "s.e.", "std", "mean off %", "std off %")
    rows: list[tuple[str | float, ...]] = []
    panels = []
    sgd = SGD(0.2)
    rms = RMSprop(0.002, decay=0.9, initial_scale=float(jnp.mean(flat(eqx.filter_jit(problem.noise.variance)(x0)))))
    # SVAG's V has seen nothing but its own small steps, so the SDE may not start with a step of the optimizer.
    settings: list[tuple[Any, str, Any, int, tuple[int, ...]]] = [
        (sgd, "SDE", sgd.sde(problem), scale.pick(100, 1000), scale.pick((1, 16), (1, 4, 16))),
        (rms, "SDE (malladi)", rms.sde(problem, "malladi", start_steps=0), scale.pick(50, 200), scale.pick((1, 4), (1, 4, 16))),
    ]
    for i, (opt, label, model, seeds, ells) in enumerate(settings):
        name = type(opt).__name__
        run: dict[str, Any] = dict(seeds=seeds, observe={"loss": problem.loss}, progress=scale.progress)
        sde = simulate(model, x0, steps=steps, every=steps // 10, substeps=16, key=scale.key(100 + i), **run)
        loss, spread = _last(sde)
        rows.append((name, label, float(seeds), *_with_error(sde), spread, 0.0, 0.0))
        curves = [curve(label, sde, style="--", of="SDE")]
        scale.report(f"{name}, {label}: mean loss {loss:.4g}")
        for ell in ells:
            amplified = svag(opt, problem, ell)
            small = round(float(opt.rate / amplified.learning_rate))
            key = scale.key(110 + 20 * i + ell)
            chain = simulate(amplified, x0, steps=steps * small, every=steps * small // 10, key=key, **run)
            mean, std = _last(chain)
            off = 100 * (mean / loss - 1), 100 * (std / spread - 1)
            rows.append((name, f"SVAG, l = {ell}", float(seeds), *_with_error(chain), std, *off))
            curves.append(curve(f"SVAG, l = {ell}", chain))
            scale.report(f"{name}, l = {ell}: mean loss off by {off[0]:.2g} %")
        panels.append(Panel(name, "time", "training loss", curves))
    notes = [
        "losses are those at the end of the run; l = 1 is the optimizer itself; a standard deviation's standard error is "
        "1 / sqrt(2 seeds) of it",
        "adaptive SVAG tends to the SDE without the gradient in V, because its noise outgrows the gradient; the SDEs are "
        "solved with 16 substeps",
    ]
    last = {str(row[0]): row for row in rows}
    off = ", ".join(f"{abs(float(row[-2])):.2g} % ({name}, {str(row[1]).partition(', ')[2]})" for name, row in last.items())
    return Study(
        "SVAG on digits, a CNN, batch 16",
        f"SVAG's mean loss comes within this of the SDE's: {off}",
        header,
        rows,
        panels,
        notes,
    )


def _last(run: Ensemble) -> tuple[float, float]:
    return float(run["loss"].mean[-1]), float(run["loss"].variance[-1]) ** 0.5


def _with_error(run: Ensemble) -> tuple[float, float]:
    return float(run["loss"].mean[-1]), float(run["loss"].stderr[-1])


def scaling_study(scale: Scale) -> Study:
    """The square-root rule from batch 16 to 256 with AdamW, where noise dominates and where it does not."""
    seeds, steps, ratio = scale.pick(16, 64), scale.pick(1600, 6400), 16
    digits = data.load("digits").train
    random = np.random.default_rng(0)
    count = len(digits.labels)
    noisy = np.where(random.random(count) < 0.8, random.integers(0, 10, count), digits.labels).astype(np.int32)
    fresh = networks.MLP(64, 10, layers=1, key=scale.key(0))
    unclear, clear = (digits.features, noisy), digits
    start = _trained(scale, unclear, fresh)
    settings = {
        "noise dominates": (unclear, start, AdamW(scale.pick(1e-4, 3e-5), b1=0.995, b2=0.9995, weight_decay=1.0)),
        "signal dominates": (clear, fresh, AdamW(2e-4, b1=0.995, b2=0.9995, weight_decay=1.0)),
    }
    columns = "setting,signal/noise at 256,batch 256 with,mean |z|,last z,final loss,s.e.,at batch 16,s.e. at 16"
    rows: list[tuple[str | float, ...]] = []
    panels = []
    for i, (name, (examples, x0, base)) in enumerate(settings.items()):
        small, large = (Problem.from_data(networks.cross_entropy, examples, batch_size=size) for size in (16, 16 * ratio))
        signal = noise_report(large, x0, draws=64, key=scale.key(20), progress=scale.progress).whole.signal_to_noise
        run: dict[str, Any] = dict(seeds=seeds, observe={"loss": small.loss}, progress=scale.progress)
        chain = simulate(base.chain(small), x0, steps=steps, every=steps // 20, key=scale.key(30 + i), **run)
        shown = [curve("batch 16", chain, of="optimizer")]
        rule = theory.scaled(base, ratio)
        kept = {
            "the rule": rule,
            "decay unscaled": eqx.tree_at(lambda o: o.weight_decay, rule, base.weight_decay),
            "betas unscaled": eqx.tree_at(lambda o: (o.b1, o.b2), rule, (base.b1, base.b2)),
        }
        fewer = steps // ratio
        for j, (label, opt) in enumerate(kept.items()):
            other = simulate(opt.chain(large), x0, steps=fewer, every=fewer // 20, key=scale.key(40 + 10 * i + j), **run)
            z = _scores(chain, other)
            final = *_with_error(other), *_with_error(chain)
            rows.append((name, signal, label, float(np.mean(np.abs(z))), float(z[-1]), *final))
            # The clock of the batch of 16: examples seen, over 16, times its rate.
            curved = curve(f"batch 256, {label}", other, style="--" if j == 0 else ":")
            shown.append(curved._replace(x=np.asarray(chain.ts, float)))
            scale.report(f"{name}, {label}: mean |z| {np.mean(np.abs(z)):.3g}")
        panels.append(
            Panel(f"{name} (signal / noise {signal:.2g} at 256)", "time of batch 16", "training loss", shown, yscale="linear")
        )
    notes = [
        "z: difference of mean losses over its standard error, at 20 times of as many examples seen",
        "noise dominates: softmax regression on digits of which four fifths have a label drawn at random, from where training "
        "without decay has settled; signal dominates: true labels, from a random start, where the rule has no reason to hold",
    ]
    apart = {str(row[0]): float(row[3]) for row in rows if row[2] == "the rule"}
    finding = "The rule's loss at batch 256 is, on average, so many standard errors from that at batch 16: " + ", ".join(
        f"{z:.3g} where {name}" for name, z in apart.items()
    )
    return Study("AdamW from batch 16 to 256: the square-root rule", finding, tuple(columns.split(",")), rows, panels, notes)


def _trained(scale: Scale, examples: Any, network: Any) -> Any:
    """The network after 3,000 steps of Adam, on large batches."""
    problem = Problem.from_data(networks.cross_entropy, examples, batch_size=256)
    return trained(AdamW(1e-3, b1=0.9, b2=0.999, weight_decay=0.0).chain(problem), network, 3000, scale.key(1))


def _scores(one: Ensemble, other: Ensemble) -> np.ndarray:
    a, b = one["loss"], other["loss"]
    return np.asarray((b.mean - a.mean) / jnp.sqrt(a.stderr**2 + b.stderr**2), float)[1:]
