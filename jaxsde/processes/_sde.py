"""An optimizer's stochastic differential equation, a value made of functions, and its Diffrax terms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _random
from .._clock import step_of
from .._tree import is_sampler
from ..problems import Problem
from ._chain import Chain, ChainState

Y = PyTree
Diffusion = Callable[[PyTree], Y]


class Instant(NamedTuple):
    """A time on an SDE's clock, and the number of the optimizer step that it falls in, from 0 on.

    The step is a whole number of its own, because the quotient t / eta of rounded numbers may fall short of one.
    """

    t: Float[Array, ""]
    step: Int[Array, ""]


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

    def init(self, x0: Any, key: PRNGKeyArray) -> tuple[Float[Array, ""], Y]:
        """The SDE's start: $t_0$ and the state there, after `start_steps` true optimizer steps from `x0`.

        **Arguments:** `x0`: a params pytree, or a function `key -> pytree`; `key`: for those steps' noise.
        """
        key = _random.stream_key(key)
        x0 = self.problem.validate(x0(_random.start_key(key)) if is_sampler(x0) else x0)
        bounds = jnp.asarray(0), jnp.asarray(self.start_steps)
        state = self.chain.run(self.chain.init(x0), *bounds, _random.gradient_key(key))
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
    """The increment of an [`SDE`][] over one Euler step, for the control `(h, dW)`.

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
        if sde.semi_implicit is None:
            return self.prod(sde.coefficients(now, y, statistics), control)
        drift, _ = sde.coefficients(now, y, statistics)
        ahead = jax.tree.map(lambda v, b: v + h * b, sde.semi_implicit(y), sde.semi_implicit(drift))
        moved, diffusion = sde.coefficients(now, eqx.tree_at(sde.semi_implicit, y, ahead), statistics)
        return self.prod((eqx.tree_at(sde.semi_implicit, moved, sde.semi_implicit(drift)), diffusion), control)


def _no_noise(y: Y, dw: PyTree) -> Y:
    del dw
    return jax.tree.map(jnp.zeros_like, y)
