"""An optimizer beside an SDE, driven by the same noise."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..problems import Problem
from ._chain import Chain, ChainState
from ._process import AbstractProcess, Instant
from ._sde import DiscretisedSDE, DiscretisedState


class PairedState(NamedTuple):
    """The states of the SDE and of the optimizer's chain, and the increments since the optimizer's step began."""

    sde: DiscretisedState
    chain: ChainState
    total: PyTree
    """The sum of these increments."""
    taken: Int[Array, ""]
    """How many they are."""


class PairedPosition(NamedTuple):
    """The parameters of both."""

    chain: PyTree
    sde: PyTree


class Paired(AbstractProcess):
    """An optimizer's chain on normal noise beside an SDE, with the chain's noise made of the SDE's increments.

    The gradient noise of the step from $t$ to $t + \\eta$ is $\\Sigma^{1/2}(x)\\,(W_{t + \\eta} - W_t) / \\sqrt\\eta$: of the
    optimizer's own law if the increments are normal, so that the pair has the right laws, and its difference little variance.

    - `process`: the SDE, discretised with normal increments; its problem has normal noise, [`Gaussian`][] or [`AsGaussian`][].
    - `of_gradient`: picks the increment of the gradient's noise from those of the SDE.

    `init` raises `ValueError` where that increment is not shaped as the noise takes it.
    """

    process: DiscretisedSDE
    of_gradient: Callable[[PyTree], PyTree]

    @property
    def problem(self) -> Problem:
        return self.process.problem

    @property
    def learning_rate(self) -> Float[Array, ""]:
        return self.process.learning_rate

    @property
    def chain(self) -> Chain:
        """The optimizer's chain."""
        return self.process.sde.chain

    def init(self, params: PyTree, key: PRNGKeyArray) -> PairedState:
        chain, zero = self.chain, jnp.zeros((), jnp.int32)
        state = chain.init(params, key)
        # An SDE that starts after some steps of the optimizer makes them with the noise that these have.
        if self.process.sde.start_steps:
            state = chain.run(state, zero, zero + self.process.sde.start_steps, chain.noise_key(key))
        sde, wanted = self.process.init(params, key), self.problem.noise.increments_like(params)
        _check_same_shapes(self.of_gradient(self.process.sde.noise_shaped(sde.y)), wanted)
        return PairedState(sde, state, jax.tree.map(jnp.zeros_like, wanted), zero)

    def noise_key(self, key: PRNGKeyArray) -> Array:
        return self.process.noise_key(key)

    def run(self, state: PairedState, start: Int[Array, ""], stop: Int[Array, ""], key: Array) -> PairedState:
        def move(other: tuple[ChainState, PyTree, Array], now: Instant, dw: PyTree) -> tuple[ChainState, PyTree, Array]:
            del now
            chain, total, taken = other
            total = jax.tree.map(jnp.add, total, self.of_gradient(dw))
            ends = taken + 1 == self.process.substeps
            moved = jax.lax.cond(ends, lambda *both: self._moved(*both), lambda *both: both, chain, total)
            return *moved, jnp.where(ends, 0, taken + 1)

        other = state.chain, state.total, state.taken
        sde, other = self.process.run_beside(move, state.sde, other, start, stop, key)
        return PairedState(sde, *other)

    def position(self, state: PairedState) -> PairedPosition:
        # Before the SDE's start both are where its way to the start is.
        as_sde = state.sde._replace(y=self.process.sde.state_from_chain(state.chain))
        return PairedPosition(self.process.position(as_sde), self.process.position(state.sde))

    def check_steps(self, steps: int) -> None:
        self.process.check_steps(steps)

    def _moved(self, chain: ChainState, total: PyTree) -> tuple[ChainState, PyTree]:
        scale = 1 / jnp.sqrt(self.learning_rate)
        noise = self.problem.noise.sqrt_covariance(chain.x)(jax.tree.map(lambda w: scale.astype(w.dtype) * w, total))
        gradient = jax.tree.map(jnp.add, self.problem.gradient(chain.x), noise)
        return self.chain.apply(chain, gradient), jax.tree.map(jnp.zeros_like, total)


def _check_same_shapes(given: PyTree, wanted: PyTree) -> None:
    """Raises where an SDE's noise is not that of the stochastic gradient, but of its sign, say."""
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (given, wanted)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the SDE's increments have the shapes {shapes[0]}, and those that the gradient's noise is made of {shapes[1]}: "
            "optimizer and SDE have no noise in common"
        )
