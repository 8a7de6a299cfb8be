"""The work that all contestants do: an optimizer, or its SDE, on a diagonal quadratic with Gaussian noise."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

import jaxsde as js
from jaxsde._registry import make_optimizers

SIGMA = 0.8  # not 1, by which a compiler need not multiply
ETA = 0.01


@dataclass(frozen=True)
class Setting:
    """How much work, and how often it is timed."""

    seeds: int = 1000
    dim: int = 100
    rounds: int = 7
    quick: bool = False

    @property
    def unit(self) -> float:
        return float(self.seeds * self.dim)

    @property
    def curvature(self) -> np.ndarray:
        return np.linspace(0.5, 2.0, self.dim).astype(np.float32)

    @property
    def problem(self) -> js.Problem:
        return js.Problem(js.Quadratic(jnp.asarray(self.curvature)), js.Gaussian(SIGMA))

    @property
    def start(self) -> np.ndarray:
        return np.full(self.dim, 0.5, np.float32)

    def steps(self, nanoseconds: float, seconds: float = 0.5) -> int:
        """How many steps take about that long, at a price per coordinate and step; a multiple of 32."""
        seconds = seconds / 5 if self.quick else seconds
        return max(32, 32 * round(seconds / (nanoseconds * 1e-9 * self.unit) / 32))

    def optimizers(self) -> dict[str, js.optimizers.AbstractOptimizer]:
        """One of each that has an SDE, or the two that the others lie between."""
        chosen = {name: opt for name, opt in make_optimizers(ETA).items() if opt.models}
        return {name: chosen[name] for name in ("sign_sgd", "adam")} if self.quick else chosen

    def __str__(self) -> str:
        return f"{self.seeds:,} seeds, {self.dim:,} coordinates, float32, {self.rounds} rounds"
