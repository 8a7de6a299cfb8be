"""What a transform's state is made of, found out by probing: by its updates for random gradients, and for the same with one
coordinate changed."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .._promotion import usual_promotion
from ..processes import traced_transform
from ._rules import JUMP, KINK, SMOOTH
from ._update import (
    CLOCK,
    COUNTER,
    FIXED,
    KEPT,
    POSITIVE,
    SETTLED,
    SIGNED,
    MakeTransform,
    call_update,
    held,
    moved_in_chart,
)

_SCALES = (1e-2, 1.0, 30.0)
"""Sizes of the gradients that are tried."""
_STEPS, _FIRST_CHANGED = 6, 2
_CHANGES = 12
"""How many coordinates are changed, one at a time."""
_LARGEST_LEAF = 8
"""Larger leaves are probed as leaves of this size in each direction, whose coordinates are treated alike."""
_LONG, _EARLY = 400, 40
"""Steps after which the moves of positive buffers are looked at."""
_WIDE, _RARE, _FACTORS, _OFTEN, _SMALL_MOVE = 0.5, 40.0, 0.02, 8, 1e-4
_LINEAR = 1e-4
_NODES, _MANY_NODES, _PRECISE = (3, 5, 9, 15, 33), 65, 1e-3
_NOISES = (0.1, 1.0, 10.0)
"""Sizes of the gradient's noise at which so many nodes must be enough: an update such as tanh(g) has a scale of its own."""


class NotDerivable(ValueError):
    """A transform whose SDE cannot be derived. The message says why, and what can be done instead."""


class Anatomy(NamedTuple):
    """What probing finds. It says nothing of the values of hyperparameters."""

    kinds: tuple[str, ...]
    """Of the leaves of the transform's state."""
    owners: tuple[int, ...]
    """The leaf of the parameters whose coordinates a buffer belongs to, or -1."""
    pivots: tuple[tuple[int, ...], ...]
    """For each leaf of the parameters, the rows (itself, then its buffers) whose noise those before them do not have."""
    residual_pivots: tuple[tuple[int, ...], ...]
    """The same for what is not linear in the gradient's noise."""
    regularity: str
    """Of an update as a function of the gradient: smooth, with kinks or with jumps."""
    nodes: int
    """How many of Gauss and Hermite's nodes give mean and variances of a smooth update to a thousandth, whatever the size of
    the noise. Where no small number does, an update counts as one with kinks."""
    bounded: bool
    """Whether the moves stay bounded, or nearly so, as the gradient grows."""
    settled: tuple[Any, ...]
    """For the leaves of the transform's state that are the same from the second step on, their values."""
    cautions: tuple[str, ...]
    """Reasons for which a diffusion may be a poor approximation."""

    def rows(self, leaf: int) -> list[int]:
        """The places, among the buffers of an SDE's state, of those that belong to a leaf of the parameters."""
        return [i for i, q in enumerate(held(self.kinds)) if self.owners[q] == leaf and self.kinds[q] != CLOCK]


def anatomy_of(make: MakeTransform, like: PyTree) -> Anatomy:
    """The anatomy of the transform that `make` returns, for parameters like `like` (arrays, or shapes and dtypes).

    **Raises:** [`NotDerivable`][], which teaches, where it has no coordinate-wise diffusion approximation.
    """
    make = jax.tree.map(_representative, make)
    small = jax.tree.map(_small, like)
    with jax.ensure_compile_time_eval():
        try:
            traced = traced_transform(make, jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), small))
        except Exception as error:
            raise NotDerivable(_cannot_run(error)) from error
        known = _Probe(traced, small, make, like)
        if _has_keys(known.shapes):
            check_update(traced, small)
            raise NotDerivable(_DRAWS)
        key = _key(traced, known)
        if key not in _KNOWN:
            check_update(traced, small)
            while len(_KNOWN) >= _MOST_KNOWN:
                del _KNOWN[next(iter(_KNOWN))]
            _KNOWN[key] = _anatomy(known)
        return _KNOWN[key]


_KNOWN: dict[Any, Anatomy] = {}
_MOST_KNOWN = 64


def _key(make: MakeTransform, probe: "_Probe") -> Any:
    """What tells a probing from others: what the transform computes, with which numbers, for which shapes."""
    leaves, structure = jax.tree.flatten(make)
    values = tuple((str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) if eqx.is_array(leaf) else leaf for leaf in leaves)
    return structure, values, probe.structure, tuple(probe.full), tuple((s.shape, str(s.dtype)) for s in probe.shapes)


def _representative(leaf: Any) -> Any:
    """Some number for one that is being traced: what kind of buffer there is does not depend on it."""
    return np.full(leaf.shape, 0.5, leaf.dtype) if isinstance(leaf, Tracer) else leaf


def _small(leaf: Any) -> jax.ShapeDtypeStruct:
    """A leaf of two coordinates at least, so that those that are mixed can be seen, where it has any shape."""
    leaf = jnp.asarray(leaf) if not hasattr(leaf, "shape") else leaf
    return jax.ShapeDtypeStruct(tuple(min(n, _LARGEST_LEAF) for n in leaf.shape), leaf.dtype)


def check_update(make: MakeTransform, like: PyTree) -> None:
    """Raises [`NotDerivable`][] for a transform that takes more than a gradient like the parameters."""

    def update(x: PyTree) -> PyTree:
        with usual_promotion():
            transform = make()
            return call_update(transform, x, transform.init(x), x)[0]

    try:
        made = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(update, like))]
        wanted = [jnp.shape(leaf) for leaf in jax.tree.leaves(like)]
        if made != wanted:
            raise ValueError(f"its updates have the shapes {made} for parameters of the shapes {wanted}")
    except Exception as error:
        raise NotDerivable(_cannot_run(error)) from error


def _cannot_run(error: Exception) -> str:
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return (
        "the transform cannot be run with the gradient and the parameters alone: it may need the loss's value, its Hessian, a "
        f"second gradient, or a gradient for each example ({reason})"
    )


class _Probe:
    """A transform with random parameters and gradients, as flat vectors of NumPy."""

    def __init__(self, make: MakeTransform, like: PyTree, original: MakeTransform, full: PyTree):
        self.make, self.rng = make, np.random.default_rng(0)
        self.leaves, self.structure = jax.tree.flatten(like)
        self.sizes = [int(np.prod(leaf.shape)) for leaf in self.leaves]
        self.count = sum(self.sizes)
        self.leaf_of = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self.place_of = np.concatenate([np.arange(n) for n in self.sizes])
        with usual_promotion():
            self.shapes = jax.tree.leaves(jax.eval_shape(lambda p: original().init(p), full))
        self.full = [jnp.shape(leaf) for leaf in jax.tree.leaves(full)]

    def params(self, vectors: np.ndarray) -> PyTree:
        """Vectors of all coordinates as pytrees with the same leading axes."""
        parts = np.split(vectors, np.cumsum(self.sizes)[:-1], axis=-1)
        shaped = [jnp.asarray(v.reshape((*v.shape[:-1], *a.shape)), a.dtype) for v, a in zip(parts, self.leaves, strict=True)]
        return jax.tree.unflatten(self.structure, shaped)

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=(*shape, self.count))

    def init(self, x: np.ndarray) -> Any:
        return _initial(self.make, self.params(x))

    def step(self, state: Any, x: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, Any]:
        """One update for each of the rows of `x` and `gradient`, with a state for each: the moves of x, and the new states."""
        update, state = _updated(self.make, self.params(gradient), state, self.params(x))
        flat = [np.asarray(u).reshape(len(x), -1) for u in jax.tree.leaves(update)]
        return np.concatenate(flat, axis=1).astype(float), state


@eqx.filter_jit
def _initial(make: MakeTransform, x: PyTree) -> Any:
    with usual_promotion():
        return make().init(x)


@eqx.filter_jit
def _updated(make: MakeTransform, gradient: PyTree, state: Any, x: PyTree) -> tuple[PyTree, Any]:
    update = functools.partial(call_update, make())
    if len(jax.tree.leaves(x)[0]) > 1 + 2 * _CHANGES:
        return jax.vmap(update)(gradient, state, x)
    # One after another: in a batch, places in a vector register decide how a number is rounded, and rows would differ by that.
    return jax.lax.map(lambda row: update(*row), (gradient, state, x))


def _repeated(state: Any, times: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (times, *jnp.shape(leaf))), state)


def _rows(state: Any) -> list[np.ndarray]:
    """The leaves of a batch of states, each as a matrix."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    return [leaf.reshape(len(leaf), -1) for leaf in leaves]


def _anatomy(probe: _Probe) -> Anatomy:
    start = probe.init(probe.normal())
    other = jax.tree.leaves(probe.init(probe.normal()))
    differs = [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(start), other, strict=True)]
    seen = _Seen(len(differs))
    for scale in _SCALES:
        _follow(probe, scale, seen)
    kinds, owners = _kinds(probe, seen, differs, start)
    _check_each_step_moves(probe)
    state, x = _after(probe, 60)
    regularity = _regularity(probe, state, x)
    bounded = _is_bounded(probe, kinds, state, x)
    pivots, residual = _pivots(probe, kinds, owners, state, x)
    nodes = _enough_nodes_for_all(probe, kinds, state, x) if regularity == SMOOTH else 0
    regularity = KINK if regularity == SMOOTH and not nodes else regularity
    settled = tuple(seen.runs[0][-1][q].item() if kind == SETTLED else None for q, kind in enumerate(kinds))
    return Anatomy(kinds, owners, pivots, residual, regularity, nodes, bounded, settled, _cautions(probe, kinds))


class _Seen:
    """What changes were seen, leaf by leaf of the state."""

    def __init__(self, count: int):
        self.changed, self.answers, self.negative = (np.zeros(count, bool) for _ in range(3))
        self.owners = np.full(count, -1)
        self.runs: list[list[list[np.ndarray]]] = []


def _follow(probe: _Probe, scale: float, seen: _Seen) -> None:
    """Makes some steps, and watches what the change of one coordinate does to this and the next one."""
    changed = probe.rng.permutation(probe.count)[:_CHANGES]
    batch = 1 + 2 * len(changed)
    x = probe.normal()
    state = _repeated(probe.init(x), batch)
    run = []
    for i in range(_STEPS):
        run.append([leaf[0] for leaf in _rows(state)])
        gradients, xs = np.tile(scale * probe.normal(), (batch, 1)), np.tile(x, (batch, 1))
        if i >= _FIRST_CHANGED:
            for b, c in enumerate(changed):
                gradients[1 + b, c] *= -3.7
                xs[1 + len(changed) + b, c] = -1.9 * xs[1 + len(changed) + b, c] + 0.3
        moves, after = probe.step(state, xs, gradients)
        leaves = _rows(after)
        if i >= _FIRST_CHANGED:
            later = probe.step(after, xs[:1].repeat(batch, 0), np.tile(scale * probe.normal(), (batch, 1)))
            for effect, updates, states in ((0, moves, leaves), (1, later[0], _rows(later[1]))):
                _attribute(probe, changed, updates, states, seen, direct=effect == 0)
        for q, (old, new) in enumerate(zip(_rows(state), leaves, strict=True)):
            seen.changed[q] |= not np.array_equal(old[0], new[0])
            seen.negative[q] |= bool(np.any(new[0] < 0))
        x = x + moves[0]
        state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), after)
    seen.runs.append(run)


def _attribute(
    probe: _Probe, changed: np.ndarray, updates: np.ndarray, states: list[np.ndarray], seen: _Seen, direct: bool
) -> None:
    """Notes which entries moved where a coordinate was changed. They are compared exactly: one apart must not move by a bit."""
    for b in range(1, len(updates)):
        c = int(changed[(b - 1) % len(changed)])
        leaf, place = int(probe.leaf_of[c]), int(probe.place_of[c])
        if np.any(np.flatnonzero(updates[b] != updates[0]) != c):
            raise NotDerivable(_MIXES)
        for q, rows in enumerate(states):
            moved = np.flatnonzero(rows[b] != rows[0])
            if not len(moved):
                continue
            seen.answers[q] = True
            owned = rows.shape[1] == probe.sizes[leaf] and list(moved) == [place] and seen.owners[q] in (-1, leaf)
            if not owned:
                raise NotDerivable(_MIXES)
            seen.owners[q] = leaf


_MIXES = (
    "the transform mixes coordinates (an update depends on the gradient of other coordinates, as with norms, factored moments "
    "and matrix roots), so that its moments are no one-dimensional means: use jaxsde.relax, which needs none"
)
_DRAWS = "the transform draws noise of its own, over which no mean is taken here: use jaxsde.relax, which draws it"
_PERIODIC = (
    "the transform does something else at some steps than at others (it accumulates gradients or synchronises weights "
    "periodically), which no coefficients of an SDE follow: give the problem a larger batch, and derive the transform inside"
)

_MULTIPLIES = (
    "the transform multiplies its step sizes by fixed factors, so that they move by as much as their own size at each step, "
    "however small the learning rate: there is no diffusion limit"
)


def _has_keys(leaves: Any) -> bool:
    return any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or leaf.dtype == jnp.uint32 for leaf in leaves)


def _check_each_step_moves(probe: _Probe) -> None:
    """Raises where the same gradient makes an update at some steps and none at others."""
    x, gradient = probe.normal(1), probe.normal(1)
    state = _repeated(probe.init(x[0]), 1)
    for i in range(2 * _STEPS):
        moves, state = probe.step(state, x, gradient)
        if i and not np.any(moves):
            raise NotDerivable(_PERIODIC)


def _kinds(probe: _Probe, seen: _Seen, differs: list[bool], start: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    kinds, owners = [], []
    for q, leaf in enumerate(jax.tree.leaves(start)):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        owner = int(seen.owners[q])
        if not seen.changed[q]:
            kinds.append(KEPT if differs[q] and floating else FIXED)
        elif not floating:
            values = np.array([[int(step[q].ravel()[0]) for step in run] for run in seen.runs])
            counts, settles = np.all(np.diff(values) == 1), np.all(values[:, 1:] == values[0, 1])
            if leaf.size != 1 or not (counts or settles):
                raise NotDerivable(_PERIODIC)
            kinds.append(COUNTER if counts else SETTLED)
        elif not seen.answers[q]:
            kinds.append(CLOCK)
        else:
            if probe.shapes[q].shape != probe.full[owner]:
                raise NotDerivable(_MIXES)
            kinds.append(SIGNED if seen.negative[q] else POSITIVE)
        owners.append(owner if kinds[-1] in (SIGNED, POSITIVE) else -1)
    return tuple(kinds), tuple(owners)


def _after(probe: _Probe, steps: int, size: float = 1.0) -> tuple[Any, np.ndarray]:
    """A state some steps of noise of this size later, and the parameters."""
    x = 0.1 * probe.normal(1)
    state = _repeated(probe.init(x[0]), 1)
    for _ in range(steps):
        moves, state = probe.step(state, x, size * probe.normal(1))
        x = x + 1e-3 * moves
    return state, x


def _along(
    probe: _Probe, state: Any, x: np.ndarray, gradients: np.ndarray, chart: Callable[..., list[np.ndarray]]
) -> np.ndarray:
    """All that an update moves, as a row for each of the gradients."""
    n = len(gradients)
    moves, new = probe.step(
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], (n, *leaf.shape[1:])), state), x.repeat(n, 0), gradients
    )
    return np.concatenate([moves, *chart(state, new)], axis=1)


def _floats(state: Any, new: Any) -> list[np.ndarray]:
    return [rows.astype(float) for rows in _rows(new) if np.issubdtype(rows.dtype, np.floating)]


def _regularity(probe: _Probe, state: Any, x: np.ndarray) -> str:
    """A jump does not shrink as gradients come closer. The bend at a kink shrinks like their distance, and not its square."""
    wide, narrow = (
        _along(probe, state, x, np.linspace(-3.3, 3.1, m + 1)[:, None] * np.ones(probe.count), _floats) for m in (256, 2048)
    )
    span = np.ptp(wide, axis=0) + 1e-30
    jumps = [np.max(np.abs(np.diff(v, axis=0)), axis=0) / span for v in (wide, narrow)]
    bends = [np.max(np.abs(np.diff(v, 2, axis=0)), axis=0) / span for v in (wide, narrow)]
    if np.any((jumps[1] > 0.5 * jumps[0]) & (jumps[1] > 2e-3)):
        return JUMP
    return KINK if np.any((bends[1] > 0.08 * bends[0]) & (bends[1] > 3e-4)) else SMOOTH


def _charted(kinds: tuple[str, ...]) -> Callable[..., list[np.ndarray]]:
    def moves(state: Any, new: Any) -> list[np.ndarray]:
        old, new = jax.tree.leaves(state), jax.tree.leaves(new)
        parts = [np.asarray(moved_in_chart(kinds[q], old[q], new[q]), float) for q in held(kinds)]
        return [part.reshape(len(part), -1) for part in parts]

    return moves


def _is_bounded(probe: _Probe, kinds: tuple[str, ...], state: Any, x: np.ndarray) -> bool:
    near, far = (_along(probe, state, x, np.full((1, probe.count), size), _charted(kinds)) for size in (1e3, 1e6))
    return bool(np.all(np.abs(far) <= 10 * np.abs(near) + 1e-6))


def _enough_nodes_for_all(probe: _Probe, kinds: tuple[str, ...], state: Any, x: np.ndarray) -> int:
    """As many as are enough at all sizes of the noise, or 0; `state` and `x` are those at size 1."""
    most = 0
    for size in _NOISES:
        there = (state, x) if size == 1 else _after(probe, 60, size)
        count = _enough_nodes(probe, kinds, *there, size)
        if not count:
            return 0
        most = max(most, count)
    return most


def _enough_nodes(probe: _Probe, kinds: tuple[str, ...], state: Any, x: np.ndarray, size: float) -> int:
    """As many as are enough for noise of this size, or 0."""

    def law(count: int) -> tuple[np.ndarray, np.ndarray]:
        z, w = np.polynomial.hermite_e.hermegauss(count)
        moved = _along(probe, state, x, size * z[:, None] * np.ones(probe.count), _charted(kinds))
        w = w / w.sum()
        mean = w @ moved
        return mean, w @ (moved - mean) ** 2

    mean, variance = law(_MANY_NODES)
    scale = np.sqrt(variance) + _LINEAR * np.abs(mean) + 1e-30
    for count in _NODES:
        other, spread = law(count)
        if np.all(np.abs(other - mean) < _PRECISE * scale) and np.all(np.abs(spread - variance) < _PRECISE * scale**2):
            return count
    return 0


def _pivots(
    probe: _Probe, kinds: tuple[str, ...], owners: tuple[int, ...], state: Any, x: np.ndarray
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """The rows with noise of their own, of all of the noise and of what is not linear in it."""
    z = np.asarray(jax.scipy.stats.norm.ppf((np.arange(64) + 0.5) / 64), float)
    moved = _along(probe, state, x, z[:, None] * np.ones(probe.count), _charted(kinds))
    bounds = np.cumsum([probe.count] + [jax.tree.leaves(state)[q][0].size for q in held(kinds)])
    firsts = np.concatenate([[0], np.cumsum(probe.sizes)])
    whole, residual = [], []
    for leaf in range(len(probe.sizes)):
        columns = [firsts[leaf]] + [bounds[i] for i, q in enumerate(held(kinds)) if owners[q] == leaf]
        block = moved[:, columns]
        block = block - block.mean(axis=0)
        slope = z @ block / (z @ z)
        whole.append(_independent(block, block))
        residual.append(_independent(block - np.outer(z, slope), block))
    return tuple(whole), tuple(residual)


def _independent(block: np.ndarray, scale: np.ndarray) -> tuple[int, ...]:
    """The columns that are not combinations of those before them, but for a small share of their size in `scale`."""
    kept, basis = [], np.zeros((len(block), 0))
    for a, column in enumerate(block.T):
        rest = column - basis @ (basis.T @ column)
        size = np.linalg.norm(rest)
        if size > _LINEAR * max(np.linalg.norm(scale[:, a]), 1e-30):
            kept.append(a)
            basis = np.column_stack([basis, rest / size])
    return tuple(kept)


RATCHET = "a running maximum only ever grows, by rare jumps"


def _rows_after_quiet(probe: _Probe, state: Any, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The leaves of a state before and after some steps with smaller gradients, in which all that forgets or adds up moves."""
    before = _rows(state)
    for _ in range(_STEPS):
        _, state = probe.step(state, x, 0.1 * probe.normal(1))
    return before, _rows(state)


def _cautions(probe: _Probe, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Whether positive buffers move by much in one update, or rarely but then by much."""
    places = [q for q, kind in enumerate(kinds) if kind == POSITIVE]
    if not places:
        return ()
    state, x = _repeated(probe.init(0.1 * probe.normal()), 1), 0.1 * probe.normal(1)
    moves = np.empty((_LONG, len(places)), object)
    for i in range(_LONG):
        old = jax.tree.leaves(state)
        _, state = probe.step(state, x, probe.normal(1))
        new = jax.tree.leaves(state)
        moves[i] = [np.asarray(moved_in_chart(POSITIVE, old[q], new[q])).ravel() for q in places]
    cautions = []
    for column in moves.T:
        early, late = np.concatenate(list(column[1:_EARLY])), np.stack(list(column[_LONG // 2 :]))
        # A running maximum jumps rarely and never twice by the same factor, and decays by less than is counted here.
        jumps = np.round(early[np.abs(early) > _FACTORS], 3)
        if len(jumps) >= _OFTEN and len(np.unique(jumps)) <= len(jumps) // 4:
            raise NotDerivable(_MULTIPLIES)
        spread = np.std(late)
        if spread > _WIDE:
            cautions.append("a running average forgets within a step or two, too fast for a diffusion: its decay is far from 1")
        # Coordinates whose moves are of different sizes do not look like one that jumps.
        sizes = (late - late.mean(axis=0)) / np.maximum(late.std(axis=0), _SMALL_MOVE)
        if spread <= _WIDE and np.mean(sizes**4) > _RARE * np.mean(sizes**2) ** 2:
            cautions.append("a running maximum moves by rare jumps, which a diffusion smooths out")
    quiet = _rows_after_quiet(probe, state, x)
    if any(np.array_equal(a[q], b[q]) for q in places for a, b in [quiet]):
        cautions.append(RATCHET)
    return tuple(dict.fromkeys(cautions))
