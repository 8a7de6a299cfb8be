"""An optimizer as what it is: a Markov chain driven by stochastic gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _checks, _random
from .._promotion import usual_promotion
from .._traced import AbstractFunctionHolder, with_traced
from ..problems import Problem
from ._blocks import run_blocks
from ._process import AbstractDrivenProcess, Instant, Move
from ._traced_transform import traced_transform


class ChainState(NamedTuple):
    """Parameters and the state of the Optax transform."""

    x: PyTree
    transform: Any


class Chain(AbstractDrivenProcess, AbstractFunctionHolder):
    """An Optax transform run on stochastic gradients, $x_{k+1} = x_k + u_k$ with $u_k$ the transform's update.

    **Arguments:**

    - `make_transform`: a function without arguments that returns an `optax.GradientTransformation`. As a bound method
      of an optimizer it is a pytree of the optimizer's hyperparameters, so that these can change without recompiling.
    - `problem`: the [`Problem`][].
    - `learning_rate`: $\\eta$, which gives the chain its clock, $t = k \\eta$.

    >>> from jaxsde import SGD, Gaussian, Quadratic
    >>> chain = SGD(learning_rate=0.1).chain(Problem(Quadratic([1.0]), Gaussian(0.0)))
    >>> round(chain.step(chain.init(jax.numpy.ones(1)), jax.random.key(0)).x.item(), 4)
    0.9
    """

    make_transform: Callable[[], optax.GradientTransformation]
    problem: Problem
    learning_rate: Float[Array, ""]

    def init(self, params: PyTree, key: PRNGKeyArray | None = None) -> ChainState:
        """The state before the first step. The key is for transforms that draw noise, so that each seed has its own; without
        one they start as Optax has them start."""
        state = self.make_transform().init(params)
        return ChainState(params, state if key is None else with_own_keys(state, _random.transform_key(key)))

    def noise_key(self, key: PRNGKeyArray) -> PRNGKeyArray:
        return _random.gradient_key(key)

    def run(self, state: ChainState, start: Int[Array, ""], stop: Int[Array, ""], key: PRNGKeyArray) -> ChainState:
        return self._drive(lambda state, n, draw: self.step(state, draw), state, start, stop, key)

    def run_beside(
        self, move: Move, state: ChainState, other: Any, start: Int[Array, ""], stop: Int[Array, ""], key: PRNGKeyArray
    ) -> tuple[ChainState, Any]:
        """As of any driven process. What drives a step are the parameters, the stochastic gradient there, and its draw."""

        def step(states: Any, n: Array, draw: Any) -> Any:
            state, other = states
            gradient = self.problem.stochastic_gradient(state.x, draw)
            now = Instant(n.astype(self.h.dtype) * self.h, n)
            return self.apply(state, gradient), move(other, now, (state.x, gradient, draw))

        return self._drive(step, (state, other), start, stop, key)

    def step(self, state: ChainState, key: Any) -> ChainState:
        """One optimizer step with one stochastic gradient drawn with `key`."""
        return self.apply(state, self.problem.stochastic_gradient(state.x, key))

    def apply(self, state: ChainState, gradient: PyTree) -> ChainState:
        """One optimizer step with the stochastic gradient `gradient`."""
        with usual_promotion():
            updates, transform_state = call_update(self.make_transform(), gradient, state.transform, state.x)
            return ChainState(optax.apply_updates(state.x, updates), transform_state)

    def position(self, state: ChainState) -> PyTree:
        return state.x

    @property
    def optimizer(self) -> Any:
        """The optimizer whose `transform` the chain runs, or None where a function of a user's makes the transform."""
        return getattr(self.make_transform, "__self__", None)

    @property
    def h(self) -> Float[Array, ""]:
        return self.learning_rate

    def traced(self, params: PyTree) -> "Chain":
        """The chain with the functions in it traced: those of the problem, and a transform that a user's function makes."""
        return Chain(traced_transform(self.make_transform, params), with_traced(self.problem, params), self.learning_rate)

    def _drive(self, step: Callable[[Any, Array, Any], Any], state: Any, start: Array, stop: Array, key: PRNGKeyArray) -> Any:
        """The state of whatever moves by `step(state, n, draw)` with the chain's gradients, which are drawn with `draw`."""
        source = self.problem.noise.source

        def draw_block(number: Array) -> Any:
            return source.draw_block(jax.random.fold_in(key, number))

        def drawn(state: Any, n: Array, block: Any, place: Array) -> Any:
            return step(state, n, source.read_step(block, place))

        return run_blocks(source.period, draw_block, drawn, state, start, stop)


def call_update(transform: optax.GradientTransformation, gradient: PyTree, state: Any, params: PyTree) -> tuple[PyTree, Any]:
    """The updates of a transform and its new state, with the gradient given to transforms that ask for it by name as well.

    **Raises:** `ValueError` where updates are not shaped as the parameters (adding them would broadcast), or where the update
    gives no pair.
    """
    with usual_promotion():
        result = optax.with_extra_args_support(transform).update(gradient, state, params, grad=gradient)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ValueError(f"the transform's update must return a tuple, (updates, new state), got {_checks.described(result)}")
    updates, new = result
    made, wanted = ([jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (updates, params))
    if made != wanted:
        raise ValueError(
            f"the transform's updates have the shapes {made} for parameters of the shapes {wanted}: it may need a gradient for "
            "each example, as optax.contrib.dpsgd does"
        )
    return updates, new


def with_own_keys(transform_state: Any, key: PRNGKeyArray) -> Any:
    """The state of a transform with keys drawn by `key` in place of those in it, JAX's own or, by the name of the field, raw
    ones."""
    leaves, structure = jax.tree.flatten_with_path(transform_state)

    def own(i: int, path: Any, leaf: Any) -> Any:
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if not typed and not (leaf.dtype == jnp.uint32 and "key" in jax.tree_util.keystr(path[-1:])):
            return leaf
        like = jax.eval_shape(jax.random.key_data, leaf) if typed else leaf
        words = jax.random.bits(jax.random.fold_in(key, i), like.shape, jnp.uint32)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf)) if typed else words

    return jax.tree.unflatten(structure, [own(i, path, leaf) for i, (path, leaf) in enumerate(leaves)])
