"""The one loop over steps: random numbers are drawn for a block of steps at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Step = Callable[[Any, Int[Array, ""], Any, Int[Array, ""]], Any]


def run_blocks(
    period: int, draw_block: Callable[[Array], Any], step: Step, state: Any, start: Int[Array, ""], stop: Int[Array, ""]
) -> Any:
    """Moves `state` by `step(state, n, block, place)` for the steps n from `start` up to, but not including, `stop`.

    Block b serves the steps b `period` to (b + 1) `period` - 1, whichever of them are made: `draw_block(b)` draws it, and
    `place` is the step's number within it.
    """
    draw = lambda n, block: draw_block(n // period)
    return _loop(period, draw, lambda block: None, step, state, None, start, stop)[0]


def resume_blocks(
    period: int,
    renewed: Callable[[Array, Any], Any],
    step: Step,
    state: Any,
    block: Any,
    start: Int[Array, ""],
    stop: Int[Array, ""],
) -> tuple[Any, Any]:
    """As `run_blocks`, but goes on with the block at hand, and returns the last one with the state.

    `renewed(n, block)` is the block for step n. So a run that is cut within a block does not draw it again.
    """
    return _loop(period, renewed, lambda block: block, step, state, block, start, stop)


def _loop(
    period: int, renewed: Any, keep: Any, step: Step, state: Any, block: Any, start: Array, stop: Array
) -> tuple[Any, Any]:
    # Where JAX compiles nothing, it counts by Python's numbers.
    number = lambda n: jnp.asarray(n, jnp.result_type(start))
    if period == 1:
        zero = jnp.zeros((), jnp.int32)

        def one_step(n: Any, state: Any) -> Any:
            return step(state, number(n), renewed(number(n), block), zero)

        return jax.lax.fori_loop(start, stop, one_step, state), block

    def one_block(carry: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
        n, state, block = carry
        end = n + jnp.minimum(stop - n, period - n % period)  # the block's own end may be beyond the largest int32
        drawn = renewed(n, block)
        place = lambda i: jax.lax.rem(i, jnp.asarray(period, i.dtype))
        # The block is fixed within it: the inner loop carries nothing but the state.
        state = jax.lax.fori_loop(n, end, lambda i, s: step(s, number(i), drawn, place(number(i))), state)
        return end, state, keep(drawn)

    return jax.lax.while_loop(lambda carry: carry[0] < stop, one_block, (start, state, block))[1:]
