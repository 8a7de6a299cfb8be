"""Errors and words about seeds that diverge."""

from typing import Any

import numpy as np

from ..simulation import Ensemble


def check_seeds_left(run: Ensemble, consequence: str) -> None:
    """Raises `ValueError` if fewer than two seeds are finite at the end of a run, and says how many diverged, and when."""
    diverged, ts = np.asarray(run.diverged), np.asarray(run.ts, float)
    if diverged[-1] > run.seeds - 2:
        raise ValueError(f"{divergence(diverged, run.seeds, ts)}: {consequence}")


def divergence(diverged: Any, seeds: int, ts: np.ndarray) -> str:
    """Says how many seeds diverged, and between which recorded times."""
    most = np.max(diverged)
    first, last = (int(np.argmax(diverged >= n)) for n in (1, most))
    when = f"by t = {ts[last]:.4g}" if first == last else f"from t = {ts[first]:.4g} to {ts[last]:.4g}"
    return f"{int(most)} of {seeds} seeds diverged {when}"
