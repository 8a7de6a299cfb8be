"""A weak error as a table and a picture."""

from typing import Any

import numpy as np

from .._extras import require
from ..estimation import Order, WeakError
from ._table import text_table

_HEADER = ("function", "learning rate", "E optimizer", "model error", "s.e.", "solver error", "s.e.", "ODE error")


def weak_error_table(error: WeakError) -> str:
    """Errors by test function and learning rate, and the order and constant fitted to each.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> run = dict(T=1.0, learning_rates=(0.2, 0.1), seeds=64, key=jax.random.key(0))
    >>> "order" in weak_error_table(js.weak_error(js.SGD(0.1), problem, jnp.ones(1), **run))
    True
    """
    rows: list[tuple[str, ...]] = []
    orders = []
    for name, f in error.functions.items():
        for i, rate in enumerate(error.learning_rates):
            ode = "" if f.ode is None else f"{f.ode[i]:.3g}"
            numbers = (f.modelling[i], f.modelling_stderr[i], f.discretisation[i], f.discretisation_stderr[i])
            rows.append((name if i == 0 else "", f"{rate:g}", f"{f.optimizer[i]:.5g}", *(f"{v:.2g}" for v in numbers), ode))
        orders.append(f"{name}: model {_order(f.order)}; solver {_order(f.discretisation_order)}")
    title = f"{error.title}: T = {error.T:g}, {error.seeds} seeds, solver with {error.substeps} steps per optimizer step"
    if error.diverged:
        orders.append(f"{error.diverged} trajectories diverged and are left out")
    return "\n".join([title, text_table(_HEADER, rows), *orders])


def plot_weak_error(error: WeakError, name: str, ax: Any = None) -> Any:
    """The errors of one test function against the learning rate, on logarithmic axes, with the fitted orders.

    **Arguments:** `name`: of the test function; `ax`: Matplotlib axes, by default new ones.

    **Returns:** the axes.
    """
    if ax is None:
        figure = require("matplotlib.figure", extra="plots", purpose="plotting").Figure
        ax = figure(figsize=(6, 4.5), layout="constrained").subplots()
    f, rates = error[name], error.learning_rates
    series = [
        ("model", f.modelling, f.modelling_stderr, f.order),
        (f"solver, {error.substeps} substeps", f.discretisation, f.discretisation_stderr, f.discretisation_order),
    ]
    for i, (label, values, stderr, order) in enumerate(series):
        bars = dict(fmt="o-", ms=5, capsize=3, color=f"C{i}", label=f"{label}: {_order(order)}")
        ax.errorbar(rates, np.abs(values), 2 * stderr, **bars)
    if f.ode is not None:
        ax.plot(rates, np.abs(f.ode), "s:", color="0.5", ms=5, label="ODE instead of the SDE")
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel=f"|error of E {name}|", title=error.title)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
    return ax


def _order(order: Order) -> str:
    if not np.isfinite(order.half_width):
        return "no order seen above the noise"
    each = zip(order.local, order.local_half_width, strict=True)
    local = ", ".join("-" if np.isnan(s) or w > 9 else f"{s:.2f} ± {w:.1g}" for s, w in each)
    return (
        f"order {order.slope:.2f} ± {order.half_width:.2f} (local {local}), "
        f"constant {order.constant:.3g} ± {order.constant_stderr:.1g}"
    )
