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

_SHIFTED_NODES = 8

# Nodes in equal shares of the probability are shifted anew at each of the solver's steps, to so many places.
_SHIFTS, _STRIDE = 4096, 2
_TICKS = 64
"""Steps of the solver in a step of the optimizer that have places of their own."""
_MULTIPLIER = np.uint32(2780939091)
"""Over 2^32, and so doubled up to seven times, a number whose multiples are equidistributed modulo 1: places with 1 to 64 steps
of the solver, of all nodes and of the coarse ones. Of 300,000 random ones it has the smallest star discrepancy of the first 16
to 1,024 multiples in the worst of these cases, .55 log(N + 1) / N; the golden ratio's is 1.61 log(N + 1) / N."""

# The tanh-sinh rule for the quantiles of a law with a density that is not smooth or tails that are not normal.
_HALF_NODES, _REACH = 16, 2.9


class Rule(eqx.Module):
    """Nodes and weights for the law of scale 1: one row, or one for each shift.

    Fewer nodes, with weights of their own, serve for how a mean changes from one state to another, which takes less precision
    than the mean: those at the places `coarse`. Weights that are None are equal.
    """

    nodes: Float[Array, "shifts n"]
    weights: Float[Array, " n"] | None
    coarse_weights: Float[Array, " m"] | None
    coarse: tuple[int, ...] = eqx.field(static=True)

    @property
    def stride(self) -> int:
        """Of how many samples the nodes consist that differ by their shift alone."""
        return 1 if self.nodes.shape[0] == 1 else _STRIDE

    def at(self, step: Int[Array, ""], share: Float[Array, ""]) -> Float[Array, " n"]:
        """The nodes for the solver's step that begins when this share of an optimizer's step has passed: the same for all
        seeds. The places of successive steps are equidistributed (weyl1916)."""
        if self.nodes.shape[0] == 1:
            return self.nodes[0]
        tick = step.astype(jnp.uint32) * np.uint32(_TICKS) + jnp.round(share * _TICKS).astype(jnp.uint32)
        turned = tick * _MULTIPLIER  # modulo 2^32
        # The coarse nodes stand in shares as many times as large: in which part of one they are, and the place within it.
        place = (turned >> np.uint32(32 - (_STRIDE * _SHIFTS).bit_length() + 1)).astype(jnp.int32)
        shares = self.nodes[place % _SHIFTS].reshape(-1, _STRIDE)
        return jnp.roll(shares, -(place // _SHIFTS), axis=1).ravel()  # the coarse ones come first, at places that are known


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
    as_floats = lambda a: None if a is None else jnp.asarray(a, float)
    return Rule(jnp.asarray(nodes, float), as_floats(weights), as_floats(coarse_weights), tuple(int(j) for j in coarse))


def rule_for(noise: AbstractNoise, regularity: str, smooth_nodes: int, nodes: int | None) -> Rule:
    """The nodes for an update of this regularity under the noise's law, `nodes` of them, or as many as are enough:
    `smooth_nodes` for a smooth update and normal noise. A law without quantiles counts as normal."""
    law = _law(noise)
    normal = smooth_nodes if regularity == SMOOTH else _SHIFTED_NODES
    count = normal if nodes is None else nodes
    if regularity != SMOOTH:
        count = max(2 * _STRIDE, count + -count % _STRIDE)  # each sample has a node beside the central one
    if regularity == SMOOTH and isinstance(law, Gaussian):
        return _gauss_hermite(count)
    if regularity == SMOOTH:
        p, w = _double_exponential(_HALF_NODES if nodes is None else max(1, nodes // 2))
        low, weights = _quantiles(law, p), np.concatenate([w, w[::-1]])
        return _rule(jnp.concatenate([low, -low[::-1]])[None], weights, range(2 * len(p)), weights)
    shifts = (np.arange(_SHIFTS) + 0.5)[:, None] / _SHIFTS
    places = (np.arange(count) + shifts) / count
    return _rule(_quantiles(law, places), None, range(0, count, _STRIDE), None)


def equal_shares(noise: AbstractNoise, count: int) -> Rule:
    """The middles of so many equal shares of the probability."""
    return _rule(_quantiles(_law(noise), (np.arange(count) + 0.5)[None] / count), None, range(count), None)


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
