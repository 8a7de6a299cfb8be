"""A weak error as a table and a picture."""

from typing import Any

import numpy as np

from ..estimation import Order, WeakError
from ._style import axes, colors, tidy
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

    **Arguments:** `name`: of the test function; `ax`: Matplotlib axes, to which no title is given; by default new ones.

    **Returns:** the axes.
    """
    f, rates, color = error[name], error.learning_rates, colors(("SDE", "solver", "ODE"))
    series = [
        ("SDE", "model", f.modelling, f.modelling_stderr, f.order),
        ("solver", f"solver, {error.substeps} substeps", f.discretisation, f.discretisation_stderr, f.discretisation_order),
    ]
    with axes(ax, 8, 6, _finding(name, f.order), error.title) as ax:
        for thing, label, values, stderr, order in series:
            bars = dict(fmt="o-", capsize=3, color=color[thing], label=f"{label}: {_order(order)}")
            ax.errorbar(rates, np.abs(values), 2 * stderr, **bars)
        if f.ode is not None:
            ax.plot(rates, np.abs(f.ode), "s:", color=color["ODE"], label="ODE instead of the SDE")
        ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel=f"|error of E {name}|, ± 2 s.e.")
        tidy(ax)
        ax.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(0, -0.15))
    return ax


def _finding(name: str, order: Order) -> str:
    if not np.isfinite(order.half_width):
        return f"The SDE's error of E {name} does not show above the noise"
    last, half_width = order.local[-1], order.local_half_width[-1]
    if np.isnan(last):
        last, half_width = order.slope, order.half_width
    return f"The SDE's error of E {name} falls with order {last:.2f} ± {half_width:.1g} at the smallest learning rates"


def _order(order: Order) -> str:
    if not np.isfinite(order.half_width):
        return "no order seen above the noise"
    each = zip(order.local, order.local_half_width, strict=True)
    local = ", ".join("-" if np.isnan(s) or w > 9 else f"{s:.2f} ± {w:.1g}" for s, w in each)
    return (
        f"order {order.slope:.2f} ± {order.half_width:.1g} (local {local}), "
        f"constant {order.constant:.3g} ± {order.constant_stderr:.1g}"
    )
