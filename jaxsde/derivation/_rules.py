"""Means over the law of a gradient noise, as sums over nodes."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import _checks
from .._double import in_double
from ..problems import AbstractNoise, AbstractQuantileLaw, Gaussian

SMOOTH, KINK, JUMP = "smooth", "kink", "jump"
"""How an update depends on the gradient."""

_NODES = {SMOOTH: 8, KINK: 16, JUMP: 16}

# Nodes in equal shares of the probability are shifted anew at each of the solver's steps, to so many places.
_SHIFTS = 4096
_TICKS = 64
"""Steps of the solver in a step of the optimizer that have places of their own."""

# The tanh-sinh rule for the quantiles of a law with a density that is not smooth or tails that are not normal.
_HALF_NODES, _REACH = 16, 2.9


class Rule(NamedTuple):
    """Nodes and weights for the law of scale 1: one row, or one for each shift."""

    nodes: Float[Array, "shifts n"]
    weights: Float[Array, " n"]

    def at(self, step: Int[Array, ""], share: Float[Array, ""]) -> Float[Array, " n"]:
        """The nodes for the solver's step that begins when this share of an optimizer's step has passed: the same for all
        seeds. The places of successive steps are equidistributed (weyl1916)."""
        if self.nodes.shape[0] == 1:
            return self.nodes[0]
        tick = step.astype(jnp.uint32) * np.uint32(_TICKS) + jnp.round(share * _TICKS).astype(jnp.uint32)
        golden = tick * np.uint32(2654435769)  # modulo 2^32: the fractional part of a multiple of the golden ratio
        return self.nodes[(golden >> np.uint32(32 - _SHIFTS.bit_length() + 1)).astype(jnp.int32)]


def rule_for(noise: AbstractNoise, regularity: str, nodes: int | None) -> Rule:
    """The nodes for an update of this regularity under the noise's law. A law without quantiles counts as normal."""
    law = _law(noise)
    count = _NODES[regularity] if nodes is None else nodes
    if regularity == SMOOTH and isinstance(law, Gaussian):
        z, w = np.polynomial.hermite_e.hermegauss(count)
        return Rule(jnp.asarray(z, float)[None], jnp.asarray(w / w.sum(), float))
    if regularity == SMOOTH:
        p, w = _double_exponential(_HALF_NODES if nodes is None else max(1, nodes // 2))
        low = _quantiles(law, p)
        return Rule(jnp.concatenate([low, -low[::-1]])[None], jnp.asarray(np.concatenate([w, w[::-1]]), float))
    shifts = (np.arange(_SHIFTS) + 0.5)[:, None] / _SHIFTS
    places = (np.arange(count) + shifts) / count
    return Rule(_quantiles(law, places), jnp.full(count, 1 / count))


def equal_shares(noise: AbstractNoise, count: int) -> Rule:
    """The middles of so many equal shares of the probability."""
    return Rule(_quantiles(_law(noise), (np.arange(count) + 0.5)[None] / count), jnp.full(count, 1 / count))


def _law(noise: AbstractNoise) -> Any:
    return noise if isinstance(noise, AbstractQuantileLaw) else Gaussian(1.0)


def _quantiles(law: AbstractQuantileLaw, p: np.ndarray) -> Array:
    """In double precision where the law's numbers are known."""
    if _checks.is_concrete(law):
        return jnp.asarray(in_double(_unit_quantile, law)(p), float)
    least = float(jnp.finfo(jnp.result_type(float)).eps)
    return law.unit_quantile(jnp.asarray(np.clip(p, least, 1 - least), float))


def _unit_quantile(law: AbstractQuantileLaw, p: Array) -> Array:
    return law.unit_quantile(p)


@functools.lru_cache(maxsize=8)
def _double_exponential(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in (0, 1/2) and weights for integrals over it whose integrand may be infinite at 0 (takahasi1974)."""
    u = np.linspace(-_REACH, _REACH, count)
    inner = 0.5 * np.pi * np.sinh(u)
    nodes = 0.5 / (1 + np.exp(-2 * inner))
    weights = np.cosh(u) / np.cosh(inner) ** 2
    return nodes, weights / weights.sum() / 2
