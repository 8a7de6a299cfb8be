"""The SDE of any coordinate-wise Optax transform, from mean and covariance of one update."""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .. import _checks
from .._traced import AbstractFunctionHolder
from ..problems import AbstractNoise, AbstractQuantileLaw, Problem
from ..processes import SDE, Chain, ChainState, Instant
from ._anatomy import LARGEST_LEAF, Anatomy, anatomy_of
from ._moments import Nodes, mean_move, moments, spread
from ._refusals import NotDerivable
from ._rules import Rule, equal_shares, rule_for
from ._update import CLOCK, DerivedState, Move, held, one_move, state_of

_GENERIC = LARGEST_LEAF
"""Coordinates of the vector that a transform is probed with where nothing is known of the parameters: as many as larger ones
are probed with, so that one probing serves for both."""


def derive(
    transform: optax.GradientTransformation,
    problem: Problem,
    *,
    learning_rate: Any,
    start: PyTree | None = None,
    nodes: int | None = None,
    order: int = 2,
    start_steps: int = 3,
) -> SDE:
    """The SDE of an Optax transform, without pen and paper.

    A transform moves its state s, the parameters and its buffers, by $F(s, g) - s$ with a stochastic gradient g. Mean and
    covariance of that move decide the diffusion approximation,

    $dS = b(S)\\,dt + \\sqrt\\eta\\,A(S)\\,dW$ with $b(s) = E[F(s, g) - s] / \\eta$, $A A^\\top = Cov[F(s, g)] / \\eta^2$,

    and where an update treats each coordinate for itself, they are one-dimensional means over the law of the noise, which are
    taken over a few nodes. Whether it does, and what its buffers are, is found by probing. Buffers that are never negative
    are carried as logarithms.

    This equation is of weak order 1, and poor where buffers forget within few steps: with momentum 0.9 it has 0.86 of the
    chain's stationary variance. With `order=2` its solution moves by

    $\\delta = \\delta_0 + \\frac{\\alpha - 1}2\\,\\eta\\,\\big(b(S + \\delta_0) - b(S)\\big)$, $\\delta_0 = h\\,b +
    \\sqrt{\\eta h} A\\,\\xi$, $\\alpha = h / \\eta$,

    in a step h, the first correction by which the steps within $\\eta$ compose to the chain's own mean map; with h = $\\eta$
    nothing is corrected. As h falls it becomes the second-order drift $b - \\frac\\eta2 (\\nabla b\\,b + \\frac\\eta2 A
    A^\\top : \\nabla^2 b)$, and the same for the noise. `order=3` adds the next term of the series,
    $\\frac{(\\alpha - 1)(\\alpha - 2)}6$ times the change of the change.

    **Arguments:**

    - `transform`: an Optax transform whose updates are those of one gradient.
    - `problem`: the [`Problem`][]. Its noise is taken coordinate by coordinate, by its quantiles; a noise without them, that
      of mini-batches for instance, counts as normal with its variance. Correlations between coordinates then act through the
      part of an update that is linear in the noise.
    - `learning_rate`: $\\eta$, which gives the SDE its clock, $t = k \\eta$. The transform's own rate is not seen from outside.
    - `start`: parameters (or their shapes), for transforms that depend on their structure, as `optax.partition` does.
    - `nodes`: how many nodes a mean is taken over; by default as many as a smooth update under normal noise needs for an
      error of a thousandth (3 to 33), 32 for other noise, and 8, shifted at each step, for updates with kinks or jumps, or
      so steep that 33 are not enough, as tanh(10 g) is.
    - `order`: 1, 2 or 3, the terms of the series.
    - `start_steps`: how many true optimizer steps come first, in which buffers that start at zero fill.

    **Returns:** an [`SDE`][], whose state is a `DerivedState(x, buffers)`.

    **Raises:** `ValueError` for a transform that mixes coordinates, draws noise, or needs more than the gradient: the message
    says what to do instead; for noise without a variance, unless the updates are bounded; for numbers out of range.

    **Warns** where a buffer moves by as much as its own size in a step, so that no diffusion describes it well.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.5))
    >>> sde = derive(optax.sgd(0.1), problem, learning_rate=0.1)
    >>> [round(v, 4) for v in sde.drift(0.0, DerivedState(jnp.ones(2), ())).x.tolist()]
    [-1.05, -2.2]
    """
    if not hasattr(transform, "init") or not hasattr(transform, "update"):
        raise TypeError(f"transform must be an Optax transform such as optax.lion(0.01), got {transform!r}")
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    _checks.scalar("learning_rate", learning_rate, low=0.0)
    chain = Chain(lambda: transform, problem, jnp.asarray(_checks.whole_as_float(learning_rate)))
    return derived_sde(chain, start=start, nodes=nodes, order=order, start_steps=start_steps)


def derived_sde(
    chain: Chain,
    *,
    start: PyTree | None = None,
    nodes: int | None = None,
    order: int = 2,
    start_steps: int = 3,
    noisy: bool = True,
    model: str | None = None,
) -> SDE:
    """The SDE of a chain's transform on its problem; see [`derive`][]. Without noise the drift alone."""
    order = _checks.count("order", order, most=3)
    nodes = None if nodes is None else _checks.count("nodes", nodes, least=2, most=256)
    like = jnp.zeros(_GENERIC) if start is None else start
    derived = Derivation(chain, None, None, None, nodes, order, noisy)
    try:
        # The transform itself is traced where the parameters are known.
        derived = dataclasses.replace(derived.traced(like), chain=chain)
    except NotDerivable as error:
        if start is not None or "cannot be run" not in str(error):
            raise
        try:
            chain.make_transform()
        except Exception:
            raise error from None
        raise NotDerivable(f"{error}. If it depends on the structure of the parameters, give start=") from error
    assert derived.anatomy is not None
    for caution in derived.anatomy.cautions:
        warnings.warn(f"the derived SDE may be far from the optimizer: {caution}", stacklevel=3)
    return SDE(
        statistics=derived.statistics,
        coefficients=derived.coefficients,
        position=_position,
        state_from_chain=derived.state_from_chain,
        chain=chain,
        start_steps=_checks.count("start_steps", start_steps, least=0),
        noise_like=derived.noise_like,
        fitted_step=derived.fitted_step if order > 1 else None,
        model=model,
    )


class Law(NamedTuple):
    """What the moments of an update need of the stochastic gradient at a point."""

    gradient: PyTree
    scale: PyTree
    """What the nodes of the law of scale 1 are multiplied by, for each coordinate."""
    rule: Rule


class Derivation(AbstractFunctionHolder):
    """The coefficients of a derived SDE."""

    chain: Chain
    rule: Rule | None
    anatomy: Anatomy | None = eqx.field(static=True)
    like: Any = eqx.field(static=True)
    """The structure, shapes and dtypes of the parameters that the anatomy is for."""
    nodes: int | None = eqx.field(static=True)
    order: int = eqx.field(static=True)
    noisy: bool = eqx.field(static=True)

    def traced(self, params: PyTree) -> "Derivation":
        """The derivation for parameters like `params`."""
        make, problem = self.chain.make_transform, self.chain.problem
        anatomy = anatomy_of(make, params)
        noise = problem.noise
        if not noise.has_variance and not anatomy.bounded:
            raise NotDerivable(
                f"the variance of {type(noise).__name__} noise is infinite here, and so is that of an update that grows with "
                "the gradient; one that is bounded, such as optax.sign_sgd's, has an SDE"
            )
        rule = self.rule
        if self.anatomy is None or _means(self.anatomy) != _means(anatomy):
            rule = rule_for(noise, anatomy.regularity, anatomy.nodes, self.nodes)
        return Derivation(self.chain.traced(params), rule, anatomy, _described(params), self.nodes, self.order, self.noisy)

    def with_nodes(self, count: int) -> "Derivation":
        """The derivation with so many nodes at the middles of equal shares of the probability, the same at each step."""
        return dataclasses.replace(self, rule=equal_shares(self.chain.problem.noise, count))

    def _for(self, x: PyTree) -> "Derivation":
        """The derivation for parameters like `x`, which is this one, unless it is used without a simulation."""
        return self if self.like == _described(x) else self.traced(x)

    def statistics(self, x: PyTree) -> Law:
        self = self._for(x)
        problem = self.chain.problem
        assert self.rule is not None
        return Law(problem.gradient(x), _scale(problem.noise, x), self.rule)

    def coefficients(self, now: Instant, y: DerivedState, law: Law) -> tuple[DerivedState, Any]:
        """Drift and diffusion in continuous time, to which the fitted steps tend."""
        self = self._for(y.x)
        mean, diffusion = self._first_order(now, y, law)
        eta = self.chain.learning_rate
        corrected = lambda move: self._series(now, y, law, move, jnp.zeros_like(eta))
        drift = jax.tree.map(lambda d: d / eta, corrected(mean))
        return drift, None if diffusion is None else lambda dw: corrected(diffusion(dw))

    def fitted_step(self, now: Instant, y: DerivedState, law: Law, h: Array, dw: PyTree) -> DerivedState:
        """The move over a step h."""
        self = self._for(y.x)
        mean, diffusion = self._first_order(now, y, law)
        alpha = h / self.chain.learning_rate
        move = jax.tree.map(lambda b: alpha * b, mean)
        if diffusion is not None:
            move = jax.tree.map(jnp.add, move, diffusion(dw))
        return self._series(now, y, law, move, alpha)

    def state_from_chain(self, state: ChainState) -> DerivedState:
        return state_of(self._for(state.x)._kinds, state.x, state.transform)

    def noise_like(self, y: DerivedState) -> PyTree:
        """For each number of an increment, the leaves that have so many. Where the noise is correlated, the first is shaped as
        its own increments are."""
        self = self._for(y.x)
        leaves = jax.tree.leaves(y.x)
        pivots, first = self._pivots, () if self._independent else (self.chain.problem.noise.increments_like(y.x),)
        most = max(map(len, pivots))
        return first + tuple(tuple(x for x, p in zip(leaves, pivots, strict=True) if len(p) > k) for k in range(most))

    @property
    def _kinds(self) -> tuple[str, ...]:
        assert self.anatomy is not None
        return self.anatomy.kinds

    @property
    def _independent(self) -> bool:
        return self.chain.problem.noise.independent

    @property
    def _pivots(self) -> tuple[tuple[int, ...], ...]:
        assert self.anatomy is not None
        return self.anatomy.pivots if self._independent else self.anatomy.residual_pivots

    def _moves(self, now: Instant, y: DerivedState, law: Law, z: Array) -> Move:
        gradient = jax.tree.map(lambda g, s: g + s * z.astype(g.dtype), law.gradient, law.scale)
        assert self.anatomy is not None
        return one_move(self.chain.make_transform, self._kinds, self.anatomy.settled, now.step, y, gradient)

    def _rows(self, move: Move) -> list[list[Array]]:
        """The move's rows, leaf by leaf of the parameters."""
        assert self.anatomy is not None
        return [[x, *(move.buffers[i] for i in self.anatomy.rows(p))] for p, x in enumerate(move.x)]

    def _joined(self, y: DerivedState, rows: list[list[Array]], others: list[Array]) -> DerivedState:
        """Rows, and what the buffers that belong to no leaf do, as a state."""
        assert self.anatomy is not None
        buffers = list(others)
        for p, leaf in enumerate(rows):
            for i, row in zip(self.anatomy.rows(p), leaf[1:], strict=True):
                buffers[i] = row
        return DerivedState(jax.tree.unflatten(jax.tree.structure(y.x), [leaf[0] for leaf in rows]), tuple(buffers))

    def _nodes(self, now: Instant, law: Law, coarse: bool = False) -> Nodes:
        """The nodes of a step and their weights, all or the coarse ones."""
        rate, dtype, rule = self.chain.learning_rate, jnp.result_type(*jax.tree.leaves(law.scale)), law.rule
        nodes = rule.at(now.step, now.t / rate - now.step.astype(rate.dtype)).astype(dtype)
        if coarse and len(rule.coarse) < nodes.size:  # as slices, so that what is computed for the mean is not computed again
            nodes = jnp.stack([nodes[j] for j in rule.coarse])
        weights = rule.coarse_weights if coarse else rule.weights
        return Nodes(nodes, None if weights is None else weights.astype(dtype), 1 if coarse else rule.stride)

    def _others(self, now: Instant, y: DerivedState, law: Law) -> list[Array]:
        """What clocks do in a step, whatever the noise; nothing for copies."""
        if CLOCK not in self._kinds:
            return [jnp.zeros_like(b) for b in y.buffers]
        still = self._moves(now, y, law, jnp.zeros((), self.chain.learning_rate.dtype)).buffers
        clocks = [self._kinds[q] == CLOCK for q in held(self._kinds)]
        return [b if clock else jnp.zeros_like(b) for b, clock in zip(still, clocks, strict=True)]

    def _coarse_mean(self, now: Instant, y: DerivedState, law: Law) -> DerivedState:
        """The mean of an update over few nodes: what it is at one state less what it is at another is precise enough. Where
        these are nodes of the mean itself, the updates there are computed once."""
        rows_at = lambda z: self._rows(self._moves(now, y, law, z))
        mean = mean_move(rows_at, self._nodes(now, law, coarse=True))
        return self._joined(y, mean, self._others(now, y, law))

    def _first_order(self, now: Instant, y: DerivedState, law: Law) -> tuple[DerivedState, Any]:
        """The mean of an update, and the diffusion."""
        nodes = self._nodes(now, law)
        rows_at = lambda z: self._rows(self._moves(now, y, law, z))
        others = self._others(now, y, law)
        if not self.noisy:
            return self._joined(y, mean_move(rows_at, nodes), others), None
        blocks = moments(rows_at, nodes, self._pivots, aligned=not self._independent)
        still = [jnp.zeros_like(b) for b in y.buffers]

        def diffusion(dw: Any) -> DerivedState:
            increments = self._by_leaf(y, law, dw)
            moved = [spread(block, own) for block, own in zip(blocks, increments, strict=True)]
            root = 1 / jnp.sqrt(self.chain.learning_rate)
            return jax.tree.map(lambda d: root.astype(d.dtype) * d, self._joined(y, moved, still))

        return self._joined(y, [b.mean for b in blocks], others), diffusion

    def _by_leaf(self, y: DerivedState, law: Law, dw: Any) -> list[list[Array]]:
        """The increments that move each leaf of the parameters."""
        own: list[list[Array]] = [[] for _ in self._pivots]
        if not self._independent:
            noise, *dw = dw
            drawn = self.chain.problem.noise.sqrt_covariance(y.x)(noise)
            over = lambda z, s: jnp.where(s > 0, z / jnp.where(s > 0, s, 1), 0)
            for mine, first in zip(own, jax.tree.leaves(jax.tree.map(over, drawn, law.scale)), strict=True):
                mine.append(first)
        for k, increments in enumerate(dw):
            places = [p for p, pivots in enumerate(self._pivots) if len(pivots) > k]
            for p, increment in zip(places, increments, strict=True):
                own[p].append(increment)
        return own

    def _series(self, now: Instant, y: DerivedState, law: Law, move: DerivedState, alpha: Array) -> DerivedState:
        """The corrected move, $\\frac{(1 + u)^\\alpha - 1}{\\alpha u}$ of it with u the change of $\\eta b$ along a move."""
        total, change, factor = move, move, jnp.ones_like(alpha)
        here = self._coarse_mean(now, y, law) if self.order > 1 else None
        for k in range(1, self.order):
            there = jax.tree.map(jnp.add, y, change)
            ahead = self._coarse_mean(now, there, self.statistics(there.x))
            change = jax.tree.map(jnp.subtract, ahead, here)
            factor = factor * (alpha - k) / (k + 1)
            term = jax.tree.map(functools.partial(jnp.multiply, factor), change)
            total = jax.tree.map(jnp.add, total, term)
        return total


def _means(anatomy: Anatomy) -> tuple[str, int]:
    """What decides by which nodes means are taken."""
    return anatomy.regularity, anatomy.nodes


def _described(params: PyTree) -> Any:
    leaves, structure = jax.tree.flatten(params)
    return structure, tuple((tuple(jnp.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)


def _scale(noise: AbstractNoise, x: PyTree) -> PyTree:
    if isinstance(noise, AbstractQuantileLaw):
        return noise.scales(x)
    return jax.tree.map(lambda v: jnp.sqrt(jnp.maximum(v, 0)), noise.variance(x))


def _position(y: DerivedState) -> PyTree:
    return y.x
