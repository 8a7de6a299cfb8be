"""Means over the law of a gradient noise, as sums over nodes."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import _checks
from .._double import in_double
from ..problems import AbstractNoise, AbstractQuantileLaw, Gaussian

SMOOTH, KINK, JUMP = "smooth", "kink", "jump"
"""How an update depends on the gradient."""

_SHIFTED_NODES = 16

# Nodes in equal shares of the probability are shifted anew at each of the solver's steps, to so many places.
_SHIFTS, _STRIDE = 4096, 4
_TICKS = 64
"""Steps of the solver in a step of the optimizer that have places of their own."""

# The tanh-sinh rule for the quantiles of a law with a density that is not smooth or tails that are not normal.
_HALF_NODES, _REACH = 16, 2.9


class Rule(eqx.Module):
    """Nodes and weights for the law of scale 1: one row, or one for each shift.

    Fewer nodes, with weights of their own, serve for how a mean changes from one state to another, which takes less precision
    than the mean: those at the places `coarse`, or, where nodes are shifted, every fourth.
    """

    nodes: Float[Array, "shifts n"]
    weights: Float[Array, " n"]
    coarse_weights: Float[Array, " m"]
    coarse: tuple[int, ...] | None = eqx.field(static=True)

    def at(self, step: Int[Array, ""], share: Float[Array, ""]) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """The nodes, and the coarse ones, for the solver's step that begins when this share of an optimizer's step has passed:
        the same for all seeds. The places of successive steps are equidistributed (weyl1916)."""
        if self.coarse is not None:
            nodes = self.nodes[0]
            whole = len(self.coarse) == nodes.size
            # As slices, so that what is computed there for the mean is not computed again.
            return nodes, nodes if whole else jnp.stack([nodes[j] for j in self.coarse])
        tick = step.astype(jnp.uint32) * np.uint32(_TICKS) + jnp.round(share * _TICKS).astype(jnp.uint32)
        golden = tick * np.uint32(2654435769)  # modulo 2^32: the fractional part of a multiple of the golden ratio
        # The coarse nodes stand in shares four times as large: in which fourth they are, and the place within it.
        place = (golden >> np.uint32(32 - (_STRIDE * _SHIFTS).bit_length() + 1)).astype(jnp.int32)
        nodes = self.nodes[place % _SHIFTS]
        return nodes, nodes.reshape(-1, _STRIDE)[:, place // _SHIFTS]


def _gauss_hermite(count: int) -> Rule:
    z, w = np.polynomial.hermite_e.hermegauss(count)
    middle = count // 2
    steps = (0, 1) if count < 9 else (0, 1, 3)
    if count % 2 == 0 or count < 3:
        coarse, own = list(range(count)), w / w.sum()
    else:  # the even moments of the normal law up to the second or fourth
        coarse = sorted({middle + side * step for step in steps for side in (1, -1)})
        powers = np.array([z[coarse] ** (2 * k) for k in range(len(steps))])
        own = np.linalg.lstsq(powers, [1.0, 1.0, 3.0][: len(steps)], rcond=None)[0]
    return _rule(z[None], w / w.sum(), coarse, own)


def _rule(nodes: Any, weights: Any, coarse: Any, coarse_weights: Any) -> Rule:
    as_floats = lambda a: jnp.asarray(a, float)
    places = None if coarse is None else tuple(int(j) for j in coarse)
    return Rule(as_floats(nodes), as_floats(weights), as_floats(coarse_weights), places)


def rule_for(noise: AbstractNoise, regularity: str, smooth_nodes: int, nodes: int | None) -> Rule:
    """The nodes for an update of this regularity under the noise's law, `nodes` of them, or as many as are enough:
    `smooth_nodes` for a smooth update and normal noise. A law without quantiles counts as normal."""
    law = _law(noise)
    normal = smooth_nodes if regularity == SMOOTH else _SHIFTED_NODES
    count = normal if nodes is None else nodes
    if regularity != SMOOTH:
        count += -count % _STRIDE
    if regularity == SMOOTH and isinstance(law, Gaussian):
        return _gauss_hermite(count)
    if regularity == SMOOTH:
        p, w = _double_exponential(_HALF_NODES if nodes is None else max(1, nodes // 2))
        low, weights = _quantiles(law, p), np.concatenate([w, w[::-1]])
        return _rule(jnp.concatenate([low, -low[::-1]])[None], weights, range(2 * len(p)), weights)
    shifts = (np.arange(_SHIFTS) + 0.5)[:, None] / _SHIFTS
    places = (np.arange(count) + shifts) / count
    return _rule(_quantiles(law, places), np.full(count, 1 / count), None, np.full(count // _STRIDE, _STRIDE / count))


def equal_shares(noise: AbstractNoise, count: int) -> Rule:
    """The middles of so many equal shares of the probability."""
    nodes, weights = _quantiles(_law(noise), (np.arange(count) + 0.5)[None] / count), np.full(count, 1 / count)
    return _rule(nodes, weights, range(count), weights)


def _law(noise: AbstractNoise) -> Any:
    return noise if isinstance(noise, AbstractQuantileLaw) else Gaussian(1.0)


def _quantiles(law: AbstractQuantileLaw, p: np.ndarray) -> Array:
    """In double precision where the law's numbers are known."""
    if _checks.is_concrete(law):
        with jax.ensure_compile_time_eval():
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
