"""Euler's scheme with a step that is exact and noise keyed by the step's index, as a Diffrax solver."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _checks, _random, _threefry
from ._increments import AbstractIncrements, TwoPointIncrements, empty_block, renewed

_LAST_INDEX = 2**31 - 1


class IndexedEuler(diffrax.AbstractItoSolver):
    """The Euler-Maruyama scheme $Y_{n+1} = Y_n + h\\,b(t_n, Y_n) + \\sqrt h\\,A(t_n, Y_n)\\,\\xi_n$ of weak order 1.

    Step and noise come from the solver, not from floating-point times: $h$ is `step`, exactly, and $\\xi_n$ depends on
    `key` and on the integer $n$ alone. So a run never repeats its noise, and a longer run begins with the shorter one.

    **Arguments:**

    - `step`: $h$. In `diffrax.diffeqsolve` give it as `dt0` too, with `t1 - t0` a multiple of it.
    - `key`: one trajectory's key; vmap over keys for an ensemble.
    - `increments`: the law of $\\xi$: [`TwoPointIncrements`][] (the default), [`GaussianIncrements`][] or another.
    - `first`: the index of the first step, below 2^31. No two of 2^32 successive steps share a draw, although their indices go
      on from the negative ones then.
    - `noise_like`: picks, from the state, a pytree shaped like the noise; by default the state's `x`, or else the state.

    **Raises:** `ValueError` or `TypeError` unless `step` is a positive number, `key` a key and `first` a whole number in range.

    Use with `sde.term`, or any `diffrax.MultiTerm(drift term, diffusion term)`, whose path is not asked.

    >>> import jaxsde as js
    >>> sde = js.SignSGD(0.1).sde(js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))
    >>> solver = IndexedEuler(step=0.1, key=jax.random.key(0))
    >>> diffrax.diffeqsolve(sde.term, solver, 0.0, 1.0, 0.1, jnp.ones(1)).ys.shape
    (1, 1)
    """

    step_size: Float[Array, ""]
    key: PRNGKeyArray
    increments: AbstractIncrements
    first: Int[Array, ""]
    noise_like: Callable[[Any], PyTree]

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def __init__(
        self,
        step: Any,
        key: PRNGKeyArray,
        increments: AbstractIncrements | None = None,
        first: Any = 0,
        noise_like: Callable[[Any], PyTree] | None = None,
    ):
        _checks.scalar("step", step, low=0.0)
        self.step_size = jnp.asarray(_checks.whole_as_float(step))
        self.key = _random.typed_key(key)
        self.increments = TwoPointIncrements() if increments is None else increments
        self.first = _as_index(first)
        self.noise_like = _parameters_of if noise_like is None else noise_like

    def order(self, terms: Any) -> int:
        return 1

    def strong_order(self, terms: Any) -> float:
        return 0.5

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> tuple[Array, Any]:
        return self.first, empty_block(self.increments, self.noise_like(y0))

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, None, dict[str, Any], Any, diffrax.RESULTS]:
        n, block = solver_state
        h, increments, like = self.step_size, self.increments, self.noise_like(y0)
        now = renewed(increments, block, _threefry.key_words(self.key), n, self.first, like)
        dw = increments.read_step(now, n % increments.period, jnp.sqrt(h), like)
        y1 = euler(terms, t0, h, y0, dw, args)
        return y1, None, dict(y0=y0, y1=y1), (n + 1, now), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return terms.vf(t0, y0, args)


def _as_index(first: Any) -> Int[Array, ""]:
    if _checks.is_concrete(first):
        # An array of no dimensions is as good as its number.
        first = _checks.count("first", first.item() if hasattr(first, "item") else first, least=0)
        if first > _LAST_INDEX:
            raise ValueError(f"first must be below 2**31, got {first}")
    return jnp.asarray(first, jnp.int32)


def over_step(h: Array, noise: PyTree) -> PyTree:
    """The increment over a step `h` of a Brownian motion, from one of unit variance."""
    root = jnp.sqrt(h)
    return jax.tree.map(lambda z: root.astype(z.dtype) * z, noise)


def euler(terms: Any, t: Any, h: Array, y: PyTree, dw: PyTree, args: Any = None) -> PyTree:
    """One step of Euler's scheme."""
    change = terms.vf_prod(t, y, args, (h, dw))
    return jax.tree.map(lambda y, dy: y + dy.astype(y.dtype), y, change)


def _parameters_of(y: Any) -> PyTree:
    return getattr(y, "x", y)
