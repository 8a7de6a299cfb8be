"""How an update depends on the gradient: smoothly or not, how strongly, with how much noise of which rank."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy  # whose parts load when they are first used

from ._probe import Probe, repeated, rows_of
from ._rules import JUMP, KINK, SMOOTH
from ._update import held, moved_in_chart

_LINEAR = 1e-4
_NODES, _MANY_NODES, _PRECISE = (3, 5, 9, 15, 33), 65, 1e-3
_NOISES = (0.1, 1.0, 10.0)
"""Sizes of the gradient's noise at which so many nodes must be enough: an update such as tanh(g) has a scale of its own."""


def after(probe: Probe, steps: int, size: float = 1.0) -> tuple[Any, np.ndarray]:
    """A state some steps of noise of this size later, and the parameters."""
    x = 0.1 * probe.normal(1)
    state = repeated(probe.init(x[0]), 1)
    for _ in range(steps):
        moves, state = probe.step(state, x, size * probe.normal(1))
        x = x + 1e-3 * moves
    return state, x


def _along(
    probe: Probe, state: Any, x: np.ndarray, gradients: np.ndarray, chart: Callable[..., list[np.ndarray]]
) -> np.ndarray:
    """All that an update moves, as a row for each of the gradients."""
    n = len(gradients)
    moves, new = probe.step(
        jax.tree.map(lambda leaf: np.broadcast_to(leaf[:1], (n, *leaf.shape[1:])), state), x.repeat(n, 0), gradients
    )
    return np.concatenate([moves, *chart(state, new)], axis=1)


def _floats(state: Any, new: Any) -> list[np.ndarray]:
    return [rows.astype(float) for rows in rows_of(new) if np.issubdtype(rows.dtype, np.floating)]


def regularity_of(probe: Probe, state: Any, x: np.ndarray) -> str:
    """A jump does not shrink as gradients come closer. The bend at a kink shrinks like their distance, and not its square."""
    wide, narrow = (
        _along(probe, state, x, np.linspace(-3.3, 3.1, m + 1)[:, None] * np.ones(probe.count), _floats) for m in (255, 2047)
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
        parts = [moved_in_chart(kinds[q], old[q], new[q], np).astype(float) for q in held(kinds)]
        return [part.reshape(len(part), -1) for part in parts]

    return moves


def is_bounded(probe: Probe, kinds: tuple[str, ...], state: Any, x: np.ndarray) -> bool:
    near, far = (_along(probe, state, x, np.full((1, probe.count), size), _charted(kinds)) for size in (1e3, 1e6))
    return bool(np.all(np.abs(far) <= 10 * np.abs(near) + 1e-6))


def enough_nodes(probe: Probe, kinds: tuple[str, ...], state: Any, x: np.ndarray) -> int:
    """As many as are enough at all sizes of the noise, or 0; `state` and `x` are those at size 1."""
    most = 0
    for size in _NOISES:
        there = (state, x) if size == 1 else after(probe, 60, size)
        count = _enough_at(probe, kinds, *there, size)
        if not count:
            return 0
        most = max(most, count)
    return most


def _enough_at(probe: Probe, kinds: tuple[str, ...], state: Any, x: np.ndarray, size: float) -> int:
    """As many as are enough for noise of this size, or 0."""

    laws = [np.polynomial.hermite_e.hermegauss(count) for count in (_MANY_NODES, *_NODES)]
    z = np.concatenate([z for z, _ in laws])
    moved = _along(probe, state, x, size * z[:, None] * np.ones(probe.count), _charted(kinds))
    moments = []
    for (_, w), there in zip(laws, np.split(moved, np.cumsum([len(z) for z, _ in laws])[:-1]), strict=True):
        share = w / w.sum()
        mean = share @ there
        moments.append((mean, share @ (there - mean) ** 2))
    mean, variance = moments[0]
    scale = np.sqrt(variance) + _LINEAR * np.abs(mean) + 1e-30
    for count, (other, spread) in zip(_NODES, moments[1:], strict=True):
        if np.all(np.abs(other - mean) < _PRECISE * scale) and np.all(np.abs(spread - variance) < _PRECISE * scale**2):
            return count
    return 0


def pivots_of(
    probe: Probe, kinds: tuple[str, ...], owners: tuple[int, ...], state: Any, x: np.ndarray
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """The rows with noise of their own, of all of the noise and of what is not linear in it."""
    z = scipy.special.ndtri((np.arange(64) + 0.5) / 64)
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
