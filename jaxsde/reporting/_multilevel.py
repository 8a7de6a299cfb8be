"""The levels of an estimate by multilevel Monte Carlo, as a text table."""

import numpy as np

from ..estimation import Multilevel
from ._table import text_table


def multilevel_table(found: Multilevel) -> str:
    """Expectations with their errors, and what each level contributed.

    >>> import jax, jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> run = dict(steps=10, stderr=0.1, key=jax.random.key(0), progress=False)
    >>> found = js.multilevel(js.SGD(0.1).sde(problem), jax.numpy.ones(1), {"loss": problem.loss}, **run)
    >>> "standard error" in multilevel_table(found)
    True
    """
    values = [
        (f"{name}{place}", f"{mean:.6g}", f"{stderr:.2g}", f"{bias:.2g}")
        for name, of in found.values.items()
        for place, mean, stderr, bias in _entries(of.mean, of.stderr, of.bias)
    ]
    levels = [
        (
            f"{level.substeps}",
            f"{level.seeds}",
            f"{level.solver_steps:.2g}",
            *(f"{np.max(level.variance[name], initial=0):.2g}" for name in found.values),
        )
        for level in found.levels
    ]
    lines = [
        f"expectations at t = {found.t:g}, extrapolated to a solver step of zero",
        text_table(("function", "mean", "standard error", "solver's error left"), values),
        "",
        text_table(("substeps", "seeds", "solver steps", *(f"variance, {name}" for name in found.values)), levels),
        f"plain Monte Carlo at {found.levels[-1].substeps} substeps would make {found.gain:.3g} times as many solver steps",
    ]
    if found.diverged:
        lines.append(f"{found.diverged} trajectories diverged and are left out")
    return "\n".join(lines)


def _entries(*columns: np.ndarray) -> list[tuple]:
    """The numbers with their place among a function's values; that of a scalar is not said."""
    flat = [np.ravel(column) for column in columns]
    scalar = np.ndim(columns[0]) == 0
    return [("" if scalar else f"[{i}]", *(float(column[i]) for column in flat)) for i in range(flat[0].size)]
