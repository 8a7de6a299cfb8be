"""How rates and asymptotic losses depend on the noise: measurements that statements judge and experiments show."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._special import SIGN_SLOPE
from ..estimation import convergence_rate
from ..optimizers import SGD, Adam, AdamW, SignSGD
from ..problems import Gaussian, Problem, Quadratic, StudentT
from ..simulation import Jackknife, Moments, simulate
from ._experiment import Study
from ._measure import key, settled
from ._panels import Curve, Panel
from ._statement import Budget


class Series(NamedTuple):
    """A quantity measured at each of the sweep's noise scales, and theory's curve for it."""

    values: np.ndarray
    stderr: np.ndarray
    theory: Callable[[np.ndarray], np.ndarray]


class Sweep(NamedTuple):
    """Quantities against the noise scale."""

    title: str
    quantity: str
    scales: np.ndarray
    series: dict[str, Series]


@functools.cache
def rates(factor: float) -> Sweep:
    """The exponential rate of the loss in SignSGD's Phase 3 and of SGD's loss, on f = x^2 / 2 from x0 = 0.4 sigma."""
    scales = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
    runs = {
        "SignSGD, Phase 3": (SignSGD(1e-3), lambda s: 2 * SIGN_SLOPE / s),
        "SGD": (SGD(1e-3), lambda s: 2 + 0 * s),
    }
    series = {}
    for i, (name, (opt, curve)) in enumerate(runs.items()):
        # Keys of their own: with one key for all, the runs would be scaled copies of each other.
        found = [_rate(opt, s, curve(s), Budget(factor).seeds(1000), 630 + 10 * i + j) for j, s in enumerate(scales)]
        series[name] = Series(*np.array(found).T, theory=curve)
    return Sweep("Convergence rate against noise", "rate of the expected loss", scales, series)


def _rate(opt: Any, scale: float, expected: float, seeds: int, number: int) -> tuple[float, float]:
    problem = Problem(Quadratic([1.0]), Gaussian(scale))
    # Down to a fifth of the start, before the floor matters; its known size is taken off.
    steps = round(1.6 / expected / float(opt.rate) / 20) * 20
    floor = 0.25 * float(opt.rate) * {SignSGD: 1 / SIGN_SLOPE * scale, SGD: scale**2}[type(opt)]
    x0 = jnp.array([0.4 * scale])
    run = simulate(
        opt.chain(problem), x0, steps=steps, every=steps // 20, seeds=seeds, key=key(number), progress=False,
        observe={"loss": problem.loss}, reduce=Jackknife(Moments(), 20),
    )  # fmt: skip
    fit = convergence_rate(run["loss"], floor=floor, window=(0.0, float(run.ts[-1])))
    return fit.rate, fit.stderr


@functools.cache
def losses(factor: float) -> Sweep:
    """Asymptotic losses of SignSGD and SGD on f = x^2 / 2, Gaussian noise, and of SignSGD under Cauchy noise."""
    scales, rate = np.array([0.5, 1.0, 2.0, 4.0, 8.0]), 0.02
    runs = {
        "SignSGD": (SignSGD(rate), Gaussian, lambda s: rate / 4 * s / SIGN_SLOPE),
        "SGD": (SGD(rate), Gaussian, lambda s: rate / 4 * s**2),
        "SignSGD, Cauchy noise": (SignSGD(rate), lambda s: StudentT(1.0, s), lambda s: rate / 4 * s / (2 / np.pi)),
    }
    series = {}
    for number, (name, (opt, law, curve)) in enumerate(runs.items()):
        found = []
        for i, scale in enumerate(scales):
            problem = Problem(Quadratic([1.0]), law(float(scale)))
            result = settled(opt.chain(problem), np.zeros(1), seeds=Budget(factor).seeds(400), number=650 + 10 * number + i)
            found.append((float(result.loss), float(result.stderr.loss)))
        series[name] = Series(*np.array(found).T, theory=curve)
    return Sweep(f"Asymptotic loss against noise, learning rate {rate:g}", "asymptotic expected loss", scales, series)


@functools.cache
def decays(factor: float) -> Sweep:
    """Asymptotic losses of AdamW and of Adam with the decay in its loss (coupled, L2), on f = x^2 / 2."""
    scales, rate, theta = np.array([1.0, 4.0, 16.0]), 1e-2, 0.5
    decoupled = AdamW(rate, b1=0.9, b2=0.999, weight_decay=theta)
    runs = {
        "AdamW": (decoupled, 1.0, lambda s: rate / 4 / (1 / s + theta) * 10 / (10 + theta)),
        "Adam with coupled L2": (Adam(rate, b1=0.9, b2=0.999), 1.0 + theta, lambda s: rate / 4 * s / (1 + theta)),
    }
    series = {}
    for number, (name, (opt, curvature, curve)) in enumerate(runs.items()):
        found = []
        for i, scale in enumerate(scales):
            problem = Problem(Quadratic([curvature]), Gaussian(float(scale)))
            law = settled(opt.chain(problem), np.zeros(1), seeds=Budget(factor).seeds(100), number=680 + 10 * number + i)
            found.append((0.5 * float(law.covariance[0, 0]), 0.5 * float(law.stderr.covariance[0, 0])))
        series[name] = Series(*np.array(found).T, theory=curve)
    return Sweep(f"Weight decay under noise, theta = {theta:g}", "asymptotic expected loss", scales, series)


def sweep_study(sweep: Sweep) -> Study:
    """The sweep as a table and a picture, theory drawn in."""
    rows: list[tuple[str | float, ...]] = []
    curves = []
    fine = np.geomspace(sweep.scales[0], sweep.scales[-1], 60)
    for name, series in sweep.series.items():
        expected = series.theory(sweep.scales)
        for sigma, value, error, form in zip(sweep.scales, series.values, series.stderr, expected, strict=True):
            rows.append((name, float(sigma), float(value), float(error), float(form), 100 * float(value / form - 1)))
        curves += [
            Curve(f"{name}: simulated", sweep.scales, series.values, 5 * series.stderr, of=name),
            Curve(f"{name}: theory", fine, series.theory(fine), of=name),
        ]
    panel = Panel(sweep.title, "noise $\\sigma$", sweep.quantity, curves, xscale="log", bars=True)
    header = ("optimizer", "sigma", sweep.quantity, "s.e.", "theory", "off %")
    return Study(sweep.title, _finding(sweep), header, rows, [panel], ["error bars: 5 standard errors"])


def _finding(sweep: Sweep) -> str:
    """By what the quantity is multiplied from one end of the sweep to the other."""
    ends = sweep.scales[[0, -1]]
    factors = []
    for name, series in sweep.series.items():
        (low, high), (first, last) = series.values[[0, -1]], series.theory(ends)
        factors.append(f"{name} {high / low:.3g} (theory {last / first:.3g})")
    return f"Noise {ends[1] / ends[0]:g} times as strong multiplies the {sweep.quantity} by: {', '.join(factors)}"
