"""The linear noise approximation: a linear process driven by the same noise as another, whose moments are known exactly."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from .._linalg import congruence, matmul
from .._tree import flat
from ._process import Instant
from ._sde import SDE

Y = PyTree


class LinearNoiseState(NamedTuple):
    """The noiseless trajectory and the deviation from it to first order in the noise, both shaped like an SDE's state."""

    mean: Y
    deviation: Y


class LinearNoiseLaw(NamedTuple):
    """The mean trajectory's parameters and the exact covariance of the linear noise approximation, at the recorded steps."""

    mean: PyTree
    covariance: Float[Array, "n d d"]


class StartLaw(eqx.Module):
    """The mean and the covariance of starts, and how an SDE's state where it starts follows a start to first order."""

    mean: PyTree
    covariance: Float[Array, "d d"]
    response: Float[Array, "D d"]

    def deviation(self, params: PyTree) -> Float[Array, " D"]:
        """The deviation of the state, raveled, that a start leads to."""
        return matmul(self.response, flat(params) - flat(self.mean))

    def state_covariance(self) -> Float[Array, "D D"]:
        """The covariance of that deviation."""
        return congruence(self.response, self.covariance)


class LinearNoiseApproximation(eqx.Module):
    """An SDE's Euler scheme, linearised about its noiseless trajectory $m$:

    $m_{n+1} = m_n + h\\,b(m_n)$, $\\delta_{n+1} = \\delta_n + h\\,Db(m_n)\\,\\delta_n + \\sqrt h A(m_n)\\,\\xi_n$.

    Whatever the law of the increments, if they have mean 0 and covariance 1 given the past, then $\\delta_n$ has mean 0
    and a covariance that follows from a linear recursion. Driven by the increments of the process itself, $m + \\delta$
    stays close to it where noise is small, and so makes a control variate whose expectation is exact.

    - `sde`: the SDE.
    - `start`: its state at the SDE's start; before that step the approximation rests there.
    - `substeps`: how many steps make up one of the optimizer.
    - `increment_covariance`: a function of the parameters, the covariance of the increments over one unit of time; by default
      they are independent and have variance 1.
    - `start_law`: that of the parameters at step 0, where each seed draws its own.
    """

    sde: SDE
    start: Y
    substeps: Int[Array, ""]
    increment_covariance: Callable[[PyTree], Float[Array, "m m"]] | None = None
    start_law: StartLaw | None = None

    def init(self, params: PyTree) -> LinearNoiseState:
        """The state up to the SDE's start, of a seed that starts at `params`."""
        if self.start_law is None:
            return LinearNoiseState(self.start, jax.tree.map(jnp.zeros_like, self.start))
        return LinearNoiseState(self.start, ravel_pytree(self.start)[1](self.start_law.deviation(params)))

    def same_for_all(self, state: LinearNoiseState) -> LinearNoiseState:
        """Which arrays of the state all seeds share: those of the noiseless trajectory."""
        return LinearNoiseState(jax.tree.map(lambda _: True, state.mean), jax.tree.map(lambda _: False, state.deviation))

    def step(self, state: LinearNoiseState, now: Instant, h: Array, dw: PyTree) -> LinearNoiseState:
        """The state after the step of length `h` from `now` on, with the increment `dw` of variance `h`."""
        vector, unravel = ravel_pytree(state.mean)
        change = lambda v: flat(self._change(now, h, unravel(v)))
        # All seeds share the trajectory, and so this matrix: one for all of them, in place of a derivative for each. It is that
        # of the change, because 1 - h lambda would lose the digits of a small h lambda.
        response = jax.jacfwd(change)(vector)
        deviation = flat(state.deviation)
        deviation = deviation + matmul(response, deviation) + flat(self._kick(now, h, state.mean, dw))
        moved = LinearNoiseState(unravel(vector + change(vector)), unravel(deviation))
        return self._from_start(now, state, moved)

    def law(self, h: Array, stop: Array, every: Array, records: int) -> LinearNoiseLaw:
        """The law at step 0 and after each of the first `records` - 1 multiples of `every` optimizer steps, up to step `stop`,
        with steps of length `h`."""
        vector, unravel = ravel_pytree(self.start)
        like = self.sde.noise_shaped(self.start)
        no_noise, as_noise = ravel_pytree(like)
        of_position = jax.jacfwd(lambda v: ravel_pytree(self.sde.position(unravel(v)))[0])(vector)

        def step(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            # The optimizer step, and the number of the step within it: their product may be beyond an int32.
            k, j, mean, covariance = carry
            now = Instant((k.astype(h.dtype) * self.substeps.astype(h.dtype) + j.astype(h.dtype)) * h, k)

            def noiseless(v: Array) -> Array:
                return ravel_pytree(self._noiseless(now, h, unravel(v)))[0]

            def kick(w: Array) -> Array:
                return ravel_pytree(self._kick(now, h, unravel(mean), as_noise(w)))[0]

            # The kick is linear. Where there is an increment for each example, it has many more of them than coordinates.
            jacobian = jax.jacrev if no_noise.size > vector.size else jax.jacfwd
            flow, spread = jax.jacfwd(noiseless)(mean), jacobian(kick)(jnp.zeros_like(no_noise))
            moved = noiseless(mean), congruence(flow, covariance) + h * self._squared(spread, unravel(mean))
            j = j + 1
            ends = j == self.substeps
            return k + ends.astype(k.dtype), jnp.where(ends, 0, j), *self._from_start(now, (mean, covariance), moved)

        def record(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            begin, end = (i - 1) * every, jnp.where(i == 0, -every, jnp.minimum(i * every, stop))
            counters = begin, jnp.zeros_like(begin)
            carry = jax.lax.while_loop(lambda c: c[0] < end, step, (*counters, *carry))[2:]
            return carry, (carry[0], congruence(of_position, carry[1]))

        still = jnp.zeros((vector.shape[0],) * 2, vector.dtype)
        start = vector, still if self.start_law is None else self.start_law.state_covariance()
        means, covariances = jax.lax.scan(record, start, jnp.arange(records, dtype=jnp.int32))[1]
        return LinearNoiseLaw(jax.vmap(lambda v: self.sde.position(unravel(v)))(means), covariances)

    def _squared(self, spread: Float[Array, "D m"], mean: Y) -> Float[Array, "D D"]:
        if self.increment_covariance is None:
            return matmul(spread, spread.T)
        return congruence(spread, self.increment_covariance(self.sde.position(mean)))

    def _from_start(self, now: Instant, rest: PyTree, moved: PyTree) -> PyTree:
        """`moved` from the SDE's start on, `rest` before it."""
        return jax.tree.map(lambda a, b: jnp.where(now.step < self.sde.start_steps, a, b), rest, moved)

    def _noiseless(self, now: Instant, h: Array, y: Y) -> Y:
        return jax.tree.map(jnp.add, y, self._change(now, h, y))

    def _change(self, now: Instant, h: Array, y: Y) -> Y:
        """What a step without noise adds to `y`."""
        return _without_noise(self.sde).term.vf_prod(now, y, None, (h, None))

    def _kick(self, now: Instant, h: Array, mean: Y, dw: PyTree) -> Y:
        change = self.sde.term.vf_prod(now, mean, None, (h, dw))
        return jax.tree.map(jnp.subtract, change, self._change(now, h, mean))


def _without_noise(sde: SDE) -> SDE:
    return eqx.tree_at(lambda s: s.coefficients, sde, eqx.Partial(_drift_alone, sde.coefficients))


def _drift_alone(coefficients: Any, now: Instant, y: Y, statistics: Any) -> tuple[Y, None]:
    return coefficients(now, y, statistics)[0], None
