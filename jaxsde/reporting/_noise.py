"""A noise report as a table and as a picture."""

from typing import Any

import numpy as np
import scipy  # whose parts load when they are first used

from .._extras import require
from .._special import SIGN_SLOPE
from ..estimation import LayerNoise, NoisePath, NoiseReport
from ._table import text_table

_HEADER = ("array", "size", "active", "gradient", "noise", "ratio", "kurtosis", "tail index", "eff. rank", "sign gap")


def noise_table(report: NoiseReport) -> str:
    """The report as a plain-text table, and below it what it says of batch size and learning rate.

    >>> import jaxsde as js
    >>> "learning rate" in noise_table(js.noise_report(js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1)), jnp.ones(1)))
    True
    """
    text = [
        text_table(_HEADER, [*map(_cells, report.layers), None, _cells(report.whole)]),
        f"from {report.draws} draws; Gaussian noise has kurtosis 0 and reads {report.gaussian_tail_index:.2g} as tail index",
        f"noise and gradient are as large at a batch {report.critical_ratio:.3g} times this one",
        f"the SDE should hold within some {100 * report.tolerance:.3g} % up to the learning rate",
    ]
    text += [f"  {name}: {rate:.3g} ({_curvature(report, name)})" for name, rate in report.learning_rate.items()]
    return "\n".join(text)


def _curvature(report: NoiseReport, name: str) -> str:
    known, error = f"curvature {report.curvature[name]:.3g}", report.curvature_error[name]
    return known if error <= 0.01 else f"{known} or more: known to {100 * error:.2g} %, for want of curvature_products"


def _cells(layer: LayerNoise) -> tuple[str, ...]:
    return (
        layer.name, f"{layer.size:,}", f"{100 * layer.active:.0f} %", f"{layer.gradient_norm:.3g}", f"{layer.noise_norm:.3g}",
        f"{layer.signal_to_noise:.3g}", f"{layer.kurtosis:.2g}", f"{layer.tail_index:.3g}", f"{layer.effective_rank:.3g}",
        f"{layer.sign_gap:.2g}",
    )  # fmt: skip


def plot_noise(report: NoiseReport) -> Any:
    """The norms of gradient and noise by array, kurtosis beside them, and the tail of the noise beside a Gaussian one.

    **Returns:** a Matplotlib figure.
    """
    figure = require("matplotlib.figure", extra="plots", purpose="plotting").Figure
    layers = report.layers
    height = max(4.0, 1.6 + 0.22 * len(layers))
    fig = figure(figsize=(13, height), layout="constrained")
    norms, kurtosis, tail = fig.subplots(1, 3)
    places = np.arange(len(layers))
    names = [layer.name for layer in layers]
    norms.plot([layer.gradient_norm for layer in layers], places, "o", color="C0", label="gradient")
    norms.plot([layer.noise_norm for layer in layers], places, "s", color="C1", mfc="none", label="noise of a batch")
    norms.set(xscale="log", title="Signal and noise", xlabel="norm")
    norms.legend(fontsize=8)
    kurtosis.plot([layer.kurtosis for layer in layers], places, "o", color="C2")
    kurtosis.axvline(0, color="k", lw=1, ls=":", label="Gaussian")
    kurtosis.set(title="Excess kurtosis of the noise", xlabel="mean over coordinates")
    if max(abs(layer.kurtosis) for layer in layers) > 5:
        kurtosis.set_xscale("symlog", linthresh=1)
    kurtosis.legend(fontsize=8)
    for ax in (norms, kurtosis):
        ax.set_yticks(places, names if ax is norms else [""] * len(names), fontsize=7)
        ax.invert_yaxis()
        ax.grid(alpha=0.3)
    tail.loglog(report.tail_levels, report.tail_shares, color="C1", lw=2, label="noise, all active coordinates")
    gaussian = scipy.special.ndtri(1 - report.tail_shares[1:] / 2) / SIGN_SLOPE  # a normal variable's mean absolute value
    tail.loglog(gaussian, report.tail_shares[1:], "k:", label="Gaussian")
    tail.set(title=f"Tail, index {report.whole.tail_index:.2g}", xlabel="|noise| / mean |noise|", ylabel="share above")
    tail.set(xlim=(0.3, None), ylim=(report.tail_shares[-1], 1.2))
    tail.grid(alpha=0.3)
    tail.legend(fontsize=8)
    return fig


def plot_noise_path(path: NoisePath) -> Any:
    """The loss along a training run, and beside it signal to noise, the critical batch size, curvature and the tail.

    **Returns:** a Matplotlib figure.
    """
    figure = require("matplotlib.figure", extra="plots", purpose="plotting").Figure
    fig = figure(figsize=(13, 7), layout="constrained")
    (loss, ratio, batch), (curvature, tail, signs) = fig.subplots(2, 3, sharex=True)
    loss.plot(path.steps, path.loss, "o-", color="C0")
    loss.set(title="Loss", yscale="log" if np.min(path.loss) > 0 else "linear")
    ratio.plot(path.steps, path.signal_to_noise, "o-", color="C1")
    ratio.axhline(1, color="k", lw=1, ls=":", label="as large as each other")
    ratio.set(title="Gradient over noise", yscale="log")
    ratio.legend(fontsize=8)
    batch.plot(path.steps, path.critical_batch, "o-", color="C2")
    if path.batch_size is not None:
        batch.axhline(path.batch_size, color="k", lw=1, ls=":", label=f"the batch, {path.batch_size}")
        batch.legend(fontsize=8)
    unit = "" if path.batch_size is not None else " over this one"
    batch.set(title=f"Critical batch size{unit}", yscale="log")
    for name, values in path.curvature.items():
        curvature.plot(path.steps, values, "o-", label=name)
    curvature.set(title="Largest curvature, preconditioned", yscale="log")
    curvature.legend(fontsize=8)
    tail.plot(path.steps, path.tail_index, "o-", color="C4")
    tail.axhline(path.reports[0].gaussian_tail_index, color="k", lw=1, ls=":", label="reading of Gaussian noise")
    tail.axhline(2, color="C3", lw=1, ls=":", label="below: no variance")
    tail.set(title="Tail index of the noise")
    tail.legend(fontsize=8)
    signs.plot(path.steps, path.sign_gap, "o-", color="C5")
    signs.set(title="Mean signs, distance from normal noise's", ylim=(0, None))
    for ax in (loss, ratio, batch, curvature, tail, signs):
        ax.grid(alpha=0.3)
    for ax in (curvature, tail, signs):
        ax.set_xlabel("steps")
    return fig
