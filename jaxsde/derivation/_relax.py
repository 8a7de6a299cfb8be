"""Update-level SVAG: a chain that tends to the SDE of any transform, without drift or diffusion in hand."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _checks, _random
from .._traced import AbstractFunctionHolder
from ..problems import Problem
from ..processes import AbstractProcess, Chain, ChainState, call_update, with_own_keys
from ._anatomy import anatomy_of
from ._refusals import NotDerivable
from ._update import POSITIVE

_MOST = 4096
"""Parts of a step. The weights of its two updates grow like the root of their number, and amplify rounding."""


class Relaxed(AbstractProcess, AbstractFunctionHolder):
    """An optimizer's chain whose steps are made in m parts; see [`relax`][]."""

    chain: Chain
    parts: int = eqx.field(static=True)
    start_steps: int = eqx.field(static=True)
    positive: tuple[int, ...] = eqx.field(static=True)

    @property
    def problem(self) -> Problem:
        return self.chain.problem

    @property
    def learning_rate(self) -> Float[Array, ""]:
        return self.chain.learning_rate

    def traced(self, params: PyTree) -> "Relaxed":
        """The process with the chain's functions traced, for parameters like `params`."""
        try:
            kinds = anatomy_of(self.chain.make_transform, params).kinds
        except NotDerivable:
            kinds = ()
        positive = tuple(q for q, kind in enumerate(kinds) if kind == POSITIVE)
        return Relaxed(self.chain.traced(params), self.parts, self.start_steps, positive)

    def init(self, params: PyTree, key: PRNGKeyArray) -> ChainState:
        return self.chain.init(params, key)

    def noise_key(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.gradient_key(key)

    def position(self, state: ChainState) -> PyTree:
        return state.x

    def run(self, state: ChainState, start: Int[Array, ""], stop: Int[Array, ""], key: PRNGKeyArray) -> ChainState:
        def step(n: Array, state: ChainState) -> ChainState:
            mine = jax.random.fold_in(key, n)
            in_parts = lambda: jax.lax.fori_loop(
                0, self.parts, lambda i, s: self._part(s, i, jax.random.fold_in(mine, i)), state
            )
            return jax.lax.cond(n < self.start_steps, lambda: self.chain.step(state, mine), in_parts)

        return jax.lax.fori_loop(start, stop, step, state)

    def _part(self, state: ChainState, i: Array, key: PRNGKeyArray) -> ChainState:
        """One part of a step, by the moves of two independent stochastic gradients."""
        m, transform = self.parts, self.chain.make_transform()
        moves = []
        drawn = jax.random.split(key, 4)
        for k, own in zip(drawn[:2], drawn[2:], strict=True):
            gradient = self.problem.stochastic_gradient(state.x, k)
            moves.append(call_update(transform, gradient, with_own_keys(state.transform, own), state.x))
        (one, after_one), (other, after_other) = moves
        root = math.sqrt(2 * m - 1)
        a, b = (1 + root) / (2 * m), (1 - root) / (2 * m)
        x = jax.tree.map(lambda u, v: (a * u + b * v).astype(u.dtype), one, other)
        leaves, structure = jax.tree.flatten(state.transform)
        new = []
        for q, (s, u, v) in enumerate(zip(leaves, *map(jax.tree.leaves, (after_one, after_other)), strict=True)):
            if jnp.issubdtype(s.dtype, jnp.floating):
                moved = s + (a * (u - s) + b * (v - s)).astype(s.dtype)
                # The second weight is negative: a positive buffer keeps half of the least that it would be.
                new.append(jnp.maximum(moved, 0.5 * jnp.minimum(s, jnp.minimum(u, v))) if q in self.positive else moved)
            elif jnp.issubdtype(s.dtype, jax.dtypes.prng_key):
                new.append(s)
            else:  # counters count whole steps
                new.append(jnp.where(i == m - 1, u, s))
        return ChainState(optax.apply_updates(state.x, x), jax.tree.unflatten(structure, new))


def relax(optimizer: Any, problem: Problem, m: int, *, start_steps: int = 3) -> Relaxed:
    """The chain of an optimizer whose steps are made in m parts, so that it tends to the optimizer's SDE as m grows.

    Each part moves the state s, parameters and buffers, by $\\frac{c_1 D_1 + c_2 D_2}{m}$ with $D_i = F(s, g_i) - s$, the
    moves by two independent stochastic gradients, and $c_{1, 2} = \\frac{1 \\pm \\sqrt{2 m - 1}}2$: SVAG (li2021) at the level
    of updates. Mean and covariance of the m parts are those of $D$, as $c_1 + c_2 = 1$ and $c_1^2 + c_2^2 = m$, and the third
    moment is smaller by $m^2$. No mean is computed, so transforms may mix coordinates (Muon, LAMB, clipping by the global
    norm) and may draw noise (`optax.noisy_sgd`). What it tends to is the SDE of weak order 1, without the correction that
    [`derive`][] makes.

    **Arguments:**

    - `optimizer`: an optimizer, such as `jaxsde.Optax(optax.contrib.muon, 0.01)`.
    - `problem`: the [`Problem`][].
    - `m`: the parts of a step; with 1 it is the optimizer.
    - `start_steps`: how many whole steps come first, in which buffers that start at zero fill.

    **Returns:** a process with the steps and times of the optimizer, for [`simulate`][].

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit.

    >>> import jaxsde as js
    >>> opt = js.Optax(optax.contrib.muon, learning_rate=0.01)
    >>> process = relax(opt, js.Problem(lambda w: jnp.sum(w**2), js.Gaussian(0.1)), 4)
    >>> js.simulate(process, jnp.ones((2, 2)), steps=8, seeds=4, key=jax.random.key(0))["x"].mean.shape
    (2, 2, 2)
    """
    if not callable(getattr(optimizer, "chain", None)):
        raise TypeError(f"optimizer must be an optimizer such as jaxsde.Optax(optax.lion, 0.01), got {optimizer!r}")
    parts = _checks.count("m", m, most=_MOST)
    first = _checks.count("start_steps", start_steps, least=0)
    return Relaxed(optimizer.chain(problem), parts, first if parts > 1 else 0, ())
