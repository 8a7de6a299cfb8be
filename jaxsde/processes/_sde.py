"""An optimizer's stochastic differential equation, a value made of functions, and its Diffrax terms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from .. import _random, _threefry
from .._clock import step_of
from .._tree import is_sampler
from ..problems import Problem
from ._chain import Chain, ChainState
from ._euler import euler
from ._groups import group_size, over_groups
from ._increments import AbstractIncrements, as_increments, drive, empty_block
from ._process import AbstractDrivenProcess, Instant, Move

Y = PyTree
Diffusion = Callable[[PyTree], Y]


class SDE(eqx.Module):
    """The Itô equation $dY = b(t, Y)\\,dt + A(t, Y)\\,dW$ of an optimizer, in the clock $t = k \\eta$.

    Made by an optimizer's `sde(problem)`. The gradient, the expensive part, is evaluated by `statistics`, once for
    drift and diffusion together; `coefficients` is arithmetic on what it returns.

    - `statistics`: `params -> G`, the law of the stochastic gradient at `params` as far as the SDE needs it.
    - `coefficients`: `(now, y, G) -> (drift, diffusion)` at the [`Instant`][] `now`: the drift is shaped like `y`; the
      diffusion is a linear map from an increment shaped like the noise to one shaped like `y`, or `None` for an ODE.
    - `position`: `y -> params`.
    - `state_from_chain`: the state `y` that goes with a state of the optimizer's chain.
    - `chain`: that chain.
    - `start_steps`: how many true optimizer steps bring the state to the SDE's start, $t_0$ = `start_steps` $\\eta$.
    - `semi_implicit`: picks the part of `y` whose drift a step follows first, so that a denominator which starts near zero has
      grown before it divides; `None` where there is none.
    - `noise_like`: picks from `y` a pytree shaped like the noise; `None` where it is the gradient's noise itself.
    - `whiten`: `(params, stochastic gradient) -> increment`: the noise of one stochastic gradient as the increment
      that stands for it, with mean 0 and covariance 1 given the parameters; `None` where it is not known.
    - `model`: what `sde(problem, model)` was asked for; `None` where the SDE is no model's.
    - `fitted_step`: `(now, y, G, h, dW) -> move`: the move over a step h of a scheme that is fitted to the optimizer's own
      steps, to be made in place of Euler's $h\\,b + A\\,dW$, to which it tends; `None` where there is none.
    - `ordered_step`: `(now, y, G, h, dW) -> y`: Euler's step for an h of at most $\\eta$, written in an order in which no part
      of the state needs the old value of another that has been replaced. A compiled loop then replaces them in place, and
      copies none at each step. `None` where this is so anyway.
    """

    statistics: Callable[[PyTree], Any]
    coefficients: Callable[[Instant, Y, Any], tuple[Y, Diffusion | None]]
    position: Callable[[Y], PyTree]
    state_from_chain: Callable[[ChainState], Y]
    chain: Chain
    start_steps: int = eqx.field(static=True)
    semi_implicit: Callable[[Y], PyTree] | None = None
    noise_like: Callable[[Y], PyTree] | None = None
    whiten: Callable[[PyTree, PyTree], PyTree] | None = None
    model: str | None = eqx.field(static=True, default=None)
    fitted_step: Callable[[Instant, Y, Any, Array, PyTree], Y] | None = None
    ordered_step: Callable[[Instant, Y, Any, Array, PyTree], Y] | None = None

    def noise_shaped(self, y: Y) -> PyTree:
        """A pytree shaped like the noise: as that of the gradient, unless the SDE says otherwise."""
        if self.noise_like is None:
            return self.problem.noise.increments_like(self.position(y))
        return self.noise_like(y)

    @property
    def problem(self) -> Problem:
        """The problem this SDE belongs to."""
        return self.chain.problem

    @property
    def learning_rate(self) -> Float[Array, ""]:
        """$\\eta$, the length of one optimizer step on the SDE's clock."""
        return self.chain.learning_rate

    def discretised(
        self, substeps: int = 1, increments: str | AbstractIncrements | None = None, moments_only: bool = True
    ) -> "DiscretisedSDE":
        """The SDE as a process, by Euler's scheme.

        **Arguments:**

        - `substeps`: how many of the scheme's steps make up a step of the optimizer.
        - `increments`: the law of its increments, `"two-point"`, `"three-point"`, `"gaussian"` or an [`AbstractIncrements`][];
          by default two-point where `moments_only`, which these serve to the same order in the step, and else Gaussian.

        **Raises:** `ValueError` for an unknown name of increments, and for substeps beyond an int32.
        """
        group = group_size(substeps)
        if increments is None:
            increments = "two-point" if moments_only else "gaussian"
        increments = as_increments(increments)
        h = self.learning_rate / substeps
        return DiscretisedSDE(self, increments, h, jnp.asarray(substeps, jnp.int32), jnp.asarray(group, jnp.int32))

    def init(self, x0: Any, key: PRNGKeyArray) -> tuple[Float[Array, ""], Y]:
        """The SDE's start: $t_0$ and the state there, after `start_steps` true optimizer steps from `x0`.

        **Arguments:** `x0`: a params pytree, or a function `key -> pytree`; `key`: for those steps' noise.
        """
        key = _random.stream_key(key)
        x0 = self.problem.validate(x0(_random.start_key(key)) if is_sampler(x0) else x0)
        bounds = jnp.asarray(0), jnp.asarray(self.start_steps)
        state = self.chain.run(self.chain.init(x0, key), *bounds, _random.gradient_key(key))
        dtype = jnp.result_type(*jax.tree.leaves(x0))
        return self.start_steps * self.learning_rate.astype(dtype), self.state_from_chain(state)

    def instant(self, t: Any) -> Instant:
        """The time `t` with the optimizer step that it falls in; a multiple of $\\eta$ begins a step, however it is rounded."""
        if isinstance(t, Instant):
            return t
        t = jnp.asarray(t, jnp.result_type(float, t))
        precision = max(float(jnp.finfo(a.dtype).eps) for a in (t, self.learning_rate))
        return Instant(t, step_of(t / self.learning_rate, precision))

    def fields(self, t: Any, y: Y) -> tuple[Y, Diffusion | None]:
        """Drift and diffusion at `(t, y)`, from one evaluation of the gradient. `t`: a time or an [`Instant`][]."""
        return self.coefficients(self.instant(t), y, self.statistics(self.position(y)))

    def drift(self, t: Any, y: Y, args: Any = None) -> Y:
        """The drift $b(t, y)$, as a Diffrax vector field."""
        del args
        return self.fields(t, y)[0]

    def diffusion(self, t: Any, y: Y, args: Any = None) -> Diffusion:
        """The diffusion $A(t, y)$ as a linear map on increments shaped like the noise."""
        del args
        diffusion = self.fields(t, y)[1]
        return eqx.Partial(_no_noise, y) if diffusion is None else diffusion

    def terms(self, path: diffrax.AbstractPath | Callable[[Any, Any], PyTree]) -> diffrax.MultiTerm:
        """The SDE as Diffrax terms.

        **Arguments:** `path`: a Brownian path shaped like the noise, `noise_shaped(y)` (a `diffrax.AbstractPath`, or a
        callable `(t0, t1) -> increment`). That is like the parameters, but for mini-batches, which have a number for each
        example, and for models that keep the noise of V.

        **Returns:** `MultiTerm(ODETerm, DiffusionTerm)`, for `diffrax.diffeqsolve` with an Itô solver that needs only
        products of the diffusion with increments, such as `diffrax.Euler`.
        """
        return diffrax.MultiTerm(diffrax.ODETerm(self.drift), DiffusionTerm(self.diffusion, path))

    @property
    def term(self) -> "SDETerm":
        """The SDE as one term for [`IndexedEuler`][]: drift and diffusion from one evaluation of the gradient."""
        return SDETerm(self)


class DiffusionTerm(diffrax.AbstractTerm):
    """A Diffrax term $A(t, y)\\,dW$ whose vector field is a linear map given as a function.

    Only the products with increments are ever formed: no matrix, and no noise for parts of the state that have none.
    """

    vector_field: Callable[[Any, Y, Any], Diffusion]
    control: Any

    def vf(self, t: Any, y: Y, args: Any) -> Diffusion:
        return self.vector_field(t, y, args)

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> PyTree:
        if isinstance(self.control, diffrax.AbstractPath):
            return self.control.evaluate(t0, t1, **kwargs)
        return self.control(t0, t1)

    def prod(self, vf: Diffusion, control: PyTree) -> Y:
        return vf(control)


class SDETerm(diffrax.AbstractTerm):
    """The increment of an [`SDE`][] over one Euler step, or the fitted one that it has instead, for the control `(h, dW)`.

    Where the SDE has a semi-implicit part, that part moves along its drift first and the coefficients of the rest are those at
    its new value. The gradient is still evaluated once.
    """

    sde: SDE

    def vf(self, t: Any, y: Y, args: Any) -> tuple[Y, Diffusion | None]:
        del args
        return self.sde.fields(t, y)

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> PyTree:
        return t1 - t0, None  # no path: the solver makes the noise

    def prod(self, vf: tuple[Y, Diffusion | None], control: PyTree) -> Y:
        drift, diffusion = vf
        h, dw = control
        step = jax.tree.map(lambda b: h * b, drift)
        return step if diffusion is None else jax.tree.map(jnp.add, step, diffusion(dw))

    def vf_prod(self, t: Any, y: Y, args: Any, control: PyTree) -> Y:
        del args
        sde, (h, _) = self.sde, control
        now, statistics = sde.instant(t), sde.statistics(sde.position(y))
        if sde.fitted_step is not None:
            return sde.fitted_step(now, y, statistics, *control)
        if sde.semi_implicit is None:
            return self.prod(sde.coefficients(now, y, statistics), control)
        drift, _ = sde.coefficients(now, y, statistics)
        ahead = jax.tree.map(lambda v, b: v + h * b, sde.semi_implicit(y), sde.semi_implicit(drift))
        moved, diffusion = sde.coefficients(now, eqx.tree_at(sde.semi_implicit, y, ahead), statistics)
        return self.prod((eqx.tree_at(sde.semi_implicit, moved, sde.semi_implicit(drift)), diffusion), control)


class DiscretisedState(NamedTuple):
    """State of a discretised SDE: that of the SDE, the block of random numbers at hand, and how it came to its start."""

    y: Y
    block: PyTree
    lead: "Lead | None"

    def moved(self, step: Array, y: Y, block: PyTree) -> "DiscretisedState":
        """The state at an optimizer's step, with the SDE's state there and the block at hand."""
        return DiscretisedState(y, block, None if self.lead is None else self.lead._replace(step=step))


class Lead(NamedTuple):
    """The true optimizer steps that lead to an SDE's start, and the number of the step that comes next."""

    params: PyTree
    """The parameters before each of them, with a leading axis."""
    step: Int[Array, ""]


class DiscretisedSDE(AbstractDrivenProcess):
    """An SDE as a process: Euler's scheme, with steps and noise as those of [`IndexedEuler`][].

    - `sde`: the SDE; `increments`: the law of the scheme's increments; `h`: the length of its steps; `substeps`: how many of
      them make up a step of the optimizer; `group`: how many steps of the optimizer make up a group.

    The scheme's steps are counted from the first of a group, whose steps an int32 counts. Each group has noise under a key of
    its own, the first one under the seed's own key. Where the SDE starts after some true optimizer steps, `init` makes these.
    """

    sde: SDE
    increments: AbstractIncrements
    h: Float[Array, ""]
    substeps: Int[Array, ""]
    group: Int[Array, ""]

    @property
    def problem(self) -> Problem:
        return self.sde.problem

    @property
    def learning_rate(self) -> Float[Array, ""]:
        return self.sde.learning_rate

    def init(self, params: PyTree, key: PRNGKeyArray) -> DiscretisedState:
        state, lead = self.sde.chain.init(params, key), None
        if self.sde.start_steps:
            stream = self.sde.chain.noise_key(key)

            def step(state: ChainState, n: Array) -> tuple[ChainState, PyTree]:
                return self.sde.chain.run(state, n, n + 1, stream), self.sde.chain.position(state)

            state, before = jax.lax.scan(step, state, jnp.arange(self.sde.start_steps, dtype=jnp.int32))
            lead = Lead(before, jnp.zeros((), jnp.int32))
        y = self.sde.state_from_chain(state)
        like = self.sde.noise_shaped(y)
        return DiscretisedState(y, empty_block(self.increments.for_shape(like), like), lead)

    def noise_key(self, key: PRNGKeyArray) -> UInt32[Array, "2"]:
        return _threefry.key_words(_random.brownian_key(key))

    def run(self, state: DiscretisedState, start: Array, stop: Array, key: Array) -> DiscretisedState:
        step = lambda y, taken: self.step(y, *taken[0])
        y, block = self.drive(step, state.y, state, start, stop, key)
        return state.moved(stop, y, block)

    def run_beside(
        self, move: Move, state: DiscretisedState, other: Any, start: Array, stop: Array, key: Array
    ) -> tuple[DiscretisedState, Any]:
        """As of any driven process. What drives a step is the increment of the Brownian motion."""

        def step(states: Any, taken: tuple[tuple[Instant, PyTree], ...]) -> Any:
            (y, other), ((now, dw),) = states, taken
            return self.step(y, now, dw), move(other, now, dw)

        (y, other), block = self.drive(step, (state.y, other), state, start, stop, key)
        return state.moved(stop, y, block), other

    def position(self, state: DiscretisedState) -> PyTree:
        x, lead = self.sde.position(state.y), state.lead
        if lead is None:
            return x
        before = jax.tree.map(lambda leaf: leaf[jnp.minimum(lead.step, self.sde.start_steps - 1)], lead.params)
        return jax.tree.map(lambda a, b: jnp.where(lead.step < self.sde.start_steps, a, b), before, x)

    def check_steps(self, steps: int) -> None:
        if steps < self.sde.start_steps:
            raise ValueError(f"steps must be at least the SDE's start_steps={self.sde.start_steps}, got {steps}")

    def step(self, y: Y, now: Instant, dw: PyTree) -> Y:
        """The SDE's state after the solver's step from `now` on, with the increment `dw`."""
        sde = self.sde
        if sde.ordered_step is None:
            return euler(sde.term, now, self.h, y, dw)
        moved = sde.ordered_step(now, y, sde.statistics(sde.position(y)), self.h, dw)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, y)

    def drive(
        self, step: Any, moved: Any, state: DiscretisedState, start: Array, stop: Array, key: Array, together: int = 1
    ) -> tuple[Any, PyTree]:
        """Moves `moved` over the solver's steps from optimizer step `start` to `stop`, by `step(moved, taken)`: `taken` are the
        next steps, `together` of them, each the [`Instant`][] at which it begins and its increment."""
        start_steps, substeps = self.sde.start_steps, self.substeps
        start = jnp.maximum(start, start_steps) if start_steps else start
        h, rate, like = self.h, self.learning_rate, self.sde.noise_shaped(state.y)
        increments = self.increments.for_shape(like)

        def in_group(carry: tuple[Any, PyTree], number: Array, begin: Array, end: Array) -> tuple[Any, PyTree]:
            origin = number * self.group

            def at(n: Array) -> Instant:
                return Instant(origin.astype(rate.dtype) * rate + n.astype(h.dtype) * h, origin + n // substeps)

            def taken(moved: Any, n: Array, dws: tuple[PyTree, ...]) -> Any:
                return step(moved, tuple((at(n + i), dw) for i, dw in enumerate(dws)))

            mine = _threefry.part_key(key, number)
            first = jnp.maximum(start_steps - origin, 0) * substeps  # that of a later group is drawn anyway
            bounds = begin * substeps, end * substeps
            return drive(increments, taken, *carry, mine, *bounds, first, jnp.sqrt(h), like, together)

        return over_groups(self.group, in_group, (moved, state.block), start, stop)


def _no_noise(y: Y, dw: PyTree) -> Y:
    del dw
    return jax.tree.map(jnp.zeros_like, y)
