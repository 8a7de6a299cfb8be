"""An optimizer as what it is: a Markov chain driven by stochastic gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..problems import Problem


class ChainState(NamedTuple):
    """Parameters and the state of the Optax transform."""

    x: PyTree
    transform: Any


class Chain(eqx.Module):
    """An Optax transform run on stochastic gradients, $x_{k+1} = x_k + u_k$ with $u_k$ the transform's update.

    **Arguments:**

    - `make_transform`: a function without arguments that returns an `optax.GradientTransformation`. As a bound method
      of an optimizer it is a pytree of the optimizer's hyperparameters, so that these can change without recompiling.
    - `problem`: the [`Problem`][].
    - `learning_rate`: $\\eta$, which gives the chain its clock, $t = k \\eta$.
    - `make_sde`: a function without arguments that returns the SDE which describes the chain, or `None`. Estimates make
      use of it, where there is one, to remove most of their own noise.

    >>> from jaxsde import SGD, Gaussian, Quadratic
    >>> chain = SGD(learning_rate=0.1).chain(Problem(Quadratic([1.0]), Gaussian(0.0)))
    >>> round(chain.step(chain.init(jax.numpy.ones(1)), jax.random.key(0)).x.item(), 4)
    0.9
    """

    make_transform: Callable[[], optax.GradientTransformation]
    problem: Problem
    learning_rate: Float[Array, ""]
    make_sde: Callable[[], Any] | None = None

    def init(self, x0: PyTree) -> ChainState:
        """The state before the first step."""
        return ChainState(x0, self.make_transform().init(x0))

    def run(self, state: ChainState, start: Int[Array, ""], stop: Int[Array, ""], key: PRNGKeyArray) -> ChainState:
        """The state after the steps from `start` up to, but not including, `stop`, with noise under `key`."""
        return self.drive(lambda state, n, draw: self.step(state, draw), state, start, stop, key)

    def drive(self, step: Callable[[Any, Array, Any], Any], state: Any, start: Array, stop: Array, key: PRNGKeyArray) -> Any:
        """The state of whatever moves by `step(state, n, draw)` with the chain's gradients, which are drawn with `draw`."""
        source = self.problem.noise.source
        period = source.period

        def one(n: Array, state: Any, supply: Any, place: Array) -> Any:
            return step(state, n, source.read_step(supply, place))

        supply = lambda number: source.draw_block(jax.random.fold_in(key, number))
        if period == 1:
            return jax.lax.fori_loop(start, stop, lambda n, state: one(n, state, supply(n), jnp.zeros_like(n)), state)

        def block(number: Array, state: Any, start: Array, stop: Array) -> Any:
            drawn = supply(number)
            return jax.lax.fori_loop(start, stop, lambda n, state: one(n, state, drawn, n - number * period), state)

        def blocks(carry: tuple[Array, Any]) -> tuple[Array, Any]:
            n, state = carry
            number = n // period
            end = jnp.minimum(stop, (number + 1) * period)
            return end, block(number, state, n, end)

        return jax.lax.while_loop(lambda carry: carry[0] < stop, blocks, (start, state))[1]

    def step(self, state: ChainState, key: Any) -> ChainState:
        """One optimizer step with one stochastic gradient drawn with `key`."""
        return self.apply(state, self.problem.stochastic_gradient(state.x, key))

    def apply(self, state: ChainState, gradient: PyTree) -> ChainState:
        """One optimizer step with the stochastic gradient `gradient`."""
        transform = optax.with_extra_args_support(self.make_transform())
        updates, transform_state = transform.update(gradient, state.transform, state.x, grad=gradient)
        return ChainState(optax.apply_updates(state.x, updates), transform_state)

    def position(self, state: ChainState) -> PyTree:
        """The parameters."""
        return state.x
