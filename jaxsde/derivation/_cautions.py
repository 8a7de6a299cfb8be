"""Where a diffusion is a poor approximation of a transform's buffers, or none at all."""

from typing import Any

import jax
import numpy as np

from ._probe import Probe, repeated, rows_of
from ._refusals import MULTIPLIES, NotDerivable
from ._update import POSITIVE, moved_in_chart

_LONG, _EARLY = 400, 40
"""Steps after which the moves of positive buffers are looked at."""
_QUIET = 6
_WIDE, _RARE, _FACTORS, _OFTEN, _SMALL_MOVE = 0.5, 40.0, 0.02, 8, 1e-4

RATCHET = "a running maximum only ever grows, by rare jumps"


def _after_quiet(probe: Probe, state: Any, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The leaves of a state before and after some steps with smaller gradients, in which all that forgets or adds up moves."""
    before = rows_of(state)
    for _ in range(_QUIET):
        _, state = probe.step(state, x, 0.1 * probe.normal(1))
    return before, rows_of(state)


def cautions_of(probe: Probe, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Whether positive buffers move by much in one update, or rarely but then by much."""
    places = [q for q, kind in enumerate(kinds) if kind == POSITIVE]
    if not places:
        return ()
    state, x = repeated(probe.init(0.1 * probe.normal()), 1), 0.1 * probe.normal(1)
    moves = np.empty((_LONG, len(places)), object)
    for i in range(_LONG):
        old = jax.tree.leaves(state)
        _, state = probe.step(state, x, probe.normal(1))
        new = jax.tree.leaves(state)
        moves[i] = [moved_in_chart(POSITIVE, old[q], new[q], np).ravel() for q in places]
    cautions = []
    for column in moves.T:
        early, late = np.concatenate(list(column[1:_EARLY])), np.stack(list(column[_LONG // 2 :]))
        # A running maximum jumps rarely and never twice by the same factor, and decays by less than is counted here.
        jumps = np.round(early[np.abs(early) > _FACTORS], 3)
        if len(jumps) >= _OFTEN and len(np.unique(jumps)) <= len(jumps) // 4:
            raise NotDerivable(MULTIPLIES)
        spread = np.std(late)
        if spread > _WIDE:
            cautions.append("a running average forgets within a step or two, too fast for a diffusion: its decay is far from 1")
        # Coordinates whose moves are of different sizes do not look like one that jumps.
        sizes = (late - late.mean(axis=0)) / np.maximum(late.std(axis=0), _SMALL_MOVE)
        if spread <= _WIDE and np.mean(sizes**4) > _RARE * np.mean(sizes**2) ** 2:
            cautions.append("a running maximum moves by rare jumps, which a diffusion smooths out")
    before, later = _after_quiet(probe, state, x)
    if any(np.array_equal(before[q], later[q]) for q in places):
        cautions.append(RATCHET)
    return tuple(dict.fromkeys(cautions))
