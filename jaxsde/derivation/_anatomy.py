"""What a transform's state is made of, found out by probing: by its updates for random gradients, and for the same with one
coordinate changed."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .._promotion import usual_promotion
from ..processes import call_update, traced_transform
from ._cautions import cautions_of
from ._probe import MOST_IN_TURN, Probe, repeated, rows_of
from ._refusals import DRAWS, MIXES, PERIODIC, NotDerivable
from ._response import after, enough_nodes, is_bounded, pivots_of, regularity_of
from ._rules import KINK, SMOOTH
from ._update import CLOCK, COUNTER, FIXED, KEPT, POSITIVE, SETTLED, SIGNED, MakeTransform, held

_SCALES = (1e-2, 1.0, 30.0)
"""Sizes of the gradients that are tried."""
_STEPS, _FIRST_CHANGED = 6, 2
_CHANGES = (MOST_IN_TURN - 1) // 2
"""How many coordinates are changed, one at a time, of the gradient and of the parameters."""
LARGEST_LEAF = 8
"""Larger leaves are probed as leaves of this size in each direction, whose coordinates are treated alike."""


class Anatomy(NamedTuple):
    """What probing finds. Of the values of hyperparameters it holds no more than decides which program is right."""

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
        known = Probe(traced, small, make, like)
        if _has_keys(known.shapes):
            check_update(traced, small)
            raise NotDerivable(DRAWS)
        key = _key(traced, known)
        if key not in _KNOWN:
            check_update(traced, small)
            while len(_KNOWN) >= _MOST_KNOWN:
                del _KNOWN[next(iter(_KNOWN))]
            _KNOWN[key] = _anatomy(known)
        return _KNOWN[key]


_KNOWN: dict[Any, Anatomy] = {}
_MOST_KNOWN = 64


def _key(make: MakeTransform, probe: "Probe") -> Any:
    """What tells a probing from others: what the transform computes, with which numbers, for which parameters once these are
    small, and which buffers are as large as the parameters in truth."""
    leaves, structure = jax.tree.flatten(make)
    values = tuple((str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) if eqx.is_array(leaf) else leaf for leaf in leaves)
    like = tuple((leaf.shape, str(leaf.dtype)) for leaf in probe.leaves)
    state = tuple((str(s.dtype), tuple(s.shape == full for full in probe.full)) for s in probe.shapes)
    return structure, values, probe.structure, like, state


def _representative(leaf: Any) -> Any:
    """Some number for one that is being traced: what kind of buffer there is does not depend on it."""
    return np.full(leaf.shape, 0.5, leaf.dtype) if isinstance(leaf, Tracer) else leaf


def _small(leaf: Any) -> jax.ShapeDtypeStruct:
    """A leaf with as many axes, none of them long."""
    leaf = jnp.asarray(leaf) if not hasattr(leaf, "shape") else leaf
    return jax.ShapeDtypeStruct(tuple(min(n, LARGEST_LEAF) for n in leaf.shape), leaf.dtype)


def check_update(make: MakeTransform, like: PyTree) -> None:
    """Raises [`NotDerivable`][] for a transform that takes more than a gradient like the parameters."""

    def update(x: PyTree) -> PyTree:
        with usual_promotion():
            transform = make()
            return call_update(transform, x, transform.init(x), x)[0]

    try:
        jax.eval_shape(update, like)
    except Exception as error:
        raise NotDerivable(_cannot_run(error)) from error


def _cannot_run(error: Exception) -> str:
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return (
        "the transform cannot be run with the gradient and the parameters alone: it may need the loss's value, its Hessian, a "
        f"second gradient, or a gradient for each example ({reason})"
    )


def _anatomy(probe: Probe) -> Anatomy:
    start = probe.init(probe.normal())
    other = jax.tree.leaves(probe.init(probe.normal()))
    differs = [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(start), other, strict=True)]
    seen = _Seen(len(differs))
    for scale in _SCALES:
        _follow(probe, scale, seen)
    kinds, owners = _kinds(probe, seen, differs, start)
    _check_each_step_moves(probe)
    state, x = after(probe, 60)
    regularity = regularity_of(probe, state, x)
    bounded = is_bounded(probe, kinds, state, x)
    pivots, residual = pivots_of(probe, kinds, owners, state, x)
    nodes = enough_nodes(probe, kinds, state, x) if regularity == SMOOTH else 0
    regularity = KINK if regularity == SMOOTH and not nodes else regularity
    settled = tuple(seen.runs[0][-1][q].item() if kind == SETTLED else None for q, kind in enumerate(kinds))
    return Anatomy(kinds, owners, pivots, residual, regularity, nodes, bounded, settled, cautions_of(probe, kinds))


class _Seen:
    """What changes were seen, leaf by leaf of the state."""

    def __init__(self, count: int):
        self.changed, self.answers, self.negative = (np.zeros(count, bool) for _ in range(3))
        self.owners = np.full(count, -1)
        self.runs: list[list[list[np.ndarray]]] = []


def _follow(probe: Probe, scale: float, seen: _Seen) -> None:
    """Makes some steps, and watches what the change of one coordinate does to this and the next one."""
    changed = probe.rng.permutation(probe.count)[:_CHANGES]
    batch = 1 + 2 * len(changed)
    x = probe.normal()
    state = repeated(probe.init(x), batch)
    run = []
    for i in range(_STEPS):
        run.append([leaf[0] for leaf in rows_of(state)])
        gradients, xs = np.tile(scale * probe.normal(), (batch, 1)), np.tile(x, (batch, 1))
        if i >= _FIRST_CHANGED:
            for b, c in enumerate(changed):
                gradients[1 + b, c] *= -3.7
                xs[1 + len(changed) + b, c] = -1.9 * xs[1 + len(changed) + b, c] + 0.3
        moves, after = probe.step(state, xs, gradients)
        leaves = rows_of(after)
        if i >= _FIRST_CHANGED:
            later = probe.step(after, xs[:1].repeat(batch, 0), np.tile(scale * probe.normal(), (batch, 1)))
            for updates, states in ((moves, leaves), (later[0], rows_of(later[1]))):
                _attribute(probe, changed, updates, states, seen)
        for q, (old, new) in enumerate(zip(rows_of(state), leaves, strict=True)):
            seen.changed[q] |= not np.array_equal(old[0], new[0])
            seen.negative[q] |= bool(np.any(new[0] < 0))
        x = x + moves[0]
        state = jax.tree.map(lambda leaf: np.broadcast_to(leaf[:1], leaf.shape), after)
    seen.runs.append(run)


def _attribute(probe: Probe, changed: np.ndarray, updates: np.ndarray, states: list[np.ndarray], seen: _Seen) -> None:
    """Notes which entries moved where a coordinate was changed. They are compared exactly: one apart must not move by a bit."""
    for b in range(1, len(updates)):
        c = int(changed[(b - 1) % len(changed)])
        leaf, place = int(probe.leaf_of[c]), int(probe.place_of[c])
        if np.any(np.flatnonzero(updates[b] != updates[0]) != c):
            raise NotDerivable(MIXES)
        for q, rows in enumerate(states):
            moved = np.flatnonzero(rows[b] != rows[0])
            if not len(moved):
                continue
            seen.answers[q] = True
            owned = rows.shape[1] == probe.sizes[leaf] and list(moved) == [place] and seen.owners[q] in (-1, leaf)
            if not owned:
                raise NotDerivable(MIXES)
            seen.owners[q] = leaf


def _has_keys(leaves: Any) -> bool:
    return any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or leaf.dtype == jnp.uint32 for leaf in leaves)


def _check_each_step_moves(probe: Probe) -> None:
    """Raises where the same gradient makes an update at some steps and none at others."""
    x, gradient = probe.normal(1), probe.normal(1)
    state = repeated(probe.init(x[0]), 1)
    for i in range(2 * _STEPS):
        moves, state = probe.step(state, x, gradient)
        if i and not np.any(moves):
            raise NotDerivable(PERIODIC)


def _kinds(probe: Probe, seen: _Seen, differs: list[bool], start: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
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
                raise NotDerivable(PERIODIC)
            kinds.append(COUNTER if counts else SETTLED)
        elif not seen.answers[q]:
            kinds.append(CLOCK)
        else:
            if probe.shapes[q].shape != probe.full[owner]:
                raise NotDerivable(MIXES)
            kinds.append(SIGNED if seen.negative[q] else POSITIVE)
        owners.append(owner if kinds[-1] in (SIGNED, POSITIVE) else -1)
    return tuple(kinds), tuple(owners)
