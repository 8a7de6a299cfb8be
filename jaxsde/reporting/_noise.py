"""A noise report as a table and as a picture."""

import math
from typing import Any

import numpy as np
import scipy  # whose parts load when they are first used

from .._special import SIGN_SLOPE
from ..estimation import LayerNoise, NoisePath, NoiseReport
from ._style import colors, figure, tidy
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
    layers, color = report.layers, colors(("gradient", "noise"))
    height = max(4.4, 2.0 + 0.24 * len(layers))
    with figure(13, height, _finding(report)) as fig:
        norms, kurtosis, tail = fig.subplots(1, 3)
        places = np.arange(len(layers))
        names = [layer.name for layer in layers]
        noise, dotted = dict(color=color["noise"]), dict(color="black", lw=1, ls=":")
        norms.plot([layer.gradient_norm for layer in layers], places, "o", color=color["gradient"], label="gradient")
        norms.plot([layer.noise_norm for layer in layers], places, "s", mfc="none", label="noise of a batch", **noise)
        norms.set(xscale="log", title="Signal and noise", xlabel="norm")
        kurtosis.plot([layer.kurtosis for layer in layers], places, "o", **noise)
        kurtosis.axvline(0, label="Gaussian", **dotted)
        kurtosis.set(title="Excess kurtosis of the noise", xlabel="mean over coordinates")
        if max(abs(layer.kurtosis) for layer in layers) > 5:
            kurtosis.set_xscale("symlog", linthresh=1)
        for ax in (norms, kurtosis):
            ax.set_yticks(places, names if ax is norms else [""] * len(names), fontsize="x-small")
            ax.invert_yaxis()
        tail.loglog(report.tail_levels, report.tail_shares, label="noise, all active coordinates", **noise)
        gaussian = scipy.special.ndtri(1 - report.tail_shares[1:] / 2) / SIGN_SLOPE  # a normal variable's mean absolute value
        tail.loglog(gaussian, report.tail_shares[1:], label="Gaussian", **(dotted | dict(lw=2)))
        tail.set(title="Tail of the noise", xlabel="|noise| / mean |noise|", ylabel="share above")
        tail.set(xlim=(0.3, None), ylim=(report.tail_shares[-1], 1.2))
        for ax in (norms, kurtosis, tail):
            tidy(ax)
            ax.legend(fontsize="x-small")
    return fig


def _finding(report: NoiseReport) -> str:
    whole = report.whole
    if math.isinf(whole.signal_to_noise):
        return "There is no gradient noise here"
    tails = (
        ""
        if math.isnan(whole.tail_index)
        else f"; its tail index reads {whole.tail_index:.2g}, where Gaussian noise reads {report.gaussian_tail_index:.2g}"
    )
    return f"The gradient is {whole.signal_to_noise:.2g} times as large as its noise{tails}"


def plot_noise_path(path: NoisePath) -> Any:
    """The loss along a training run, and beside it signal to noise, the critical batch size, curvature and the tail.

    **Returns:** a Matplotlib figure.
    """
    run, of_noise, dotted = (dict(color=c) for c in colors(("optimizer", "noise", "theory")).values())
    dotted |= dict(lw=1, ls=":")
    with figure(13, 7.5, _finding_on(path)) as fig:
        (loss, ratio, batch), (curvature, tail, signs) = fig.subplots(2, 3, sharex=True)
        loss.plot(path.steps, path.loss, "o-", **run)
        loss.set(title="Loss", yscale="log" if np.min(path.loss) > 0 else "linear")
        ratio.plot(path.steps, path.signal_to_noise, "o-", **of_noise)
        ratio.axhline(1, label="as large as each other", **dotted)
        ratio.set(title="Gradient over noise", yscale="log")
        batch.plot(path.steps, path.critical_batch, "o-", **of_noise)
        if path.batch_size is not None:
            batch.axhline(path.batch_size, label=f"the batch, {path.batch_size}", **dotted)
        unit = "" if path.batch_size is not None else " over this one"
        batch.set(title=f"Critical batch size{unit}", yscale="log")
        color = colors(path.curvature)
        for name, values in path.curvature.items():
            curvature.plot(path.steps, values, "o-", color=color[name], label=name)
        curvature.set(title="Largest curvature, preconditioned", yscale="log")
        tail.plot(path.steps, path.tail_index, "o-", **of_noise)
        tail.axhline(path.reports[0].gaussian_tail_index, label="reading of Gaussian noise", **dotted)
        tail.axhline(2, label="below: no variance", **(dotted | dict(ls="--")))
        tail.set(title="Tail index of the noise")
        signs.plot(path.steps, path.sign_gap, "o-", **of_noise)
        signs.set(title="Mean signs, distance from normal noise's", ylim=(0, None))
        for ax in (loss, ratio, batch, curvature, tail, signs):
            tidy(ax)
            ax.set_xlabel("steps" if ax in (curvature, tail, signs) else "")
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize="x-small")
    return fig


def _finding_on(path: NoisePath) -> str:
    (first, last), (small, large) = path.signal_to_noise[[0, -1]], path.critical_batch[[0, -1]]
    unit = "" if path.batch_size is not None else " times this one"
    return (
        f"From step {path.steps[0]:,} to {path.steps[-1]:,} the gradient goes from {first:.2g} to {last:.2g} times its noise, "
        f"the critical batch from {small:.2g} to {large:.2g}{unit}"
    )
