"""What the hyperparameters of an Optax factory do: by Optax's own names for them, and by what its updates do."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from .. import _checks
from .._promotion import usual_promotion
from ..derivation import CLOCK, POSITIVE, SIGNED, SMOOTH, NotDerivable, anatomy_of
from ..processes import call_update
from ._roles import Roles

# Optax's own names for what hyperparameters do.
AVERAGE_NAMES = ("b1", "b2", "b3", "beta", "beta3", "decay", "decay_rate", "momentum", "nesterov_decay", "rho")
_GRADIENTS = ("eps", "max_delta")
_SQUARES = ("eps_root", "initial_accumulator_value", "initial_scale")
_DECAYS = ("weight_decay",)
ROLE_NAMES = (*AVERAGE_NAMES, *_GRADIENTS, *_SQUARES, *_DECAYS)
_SEVERAL = ("betas",)
"""Names of tuples of decay constants, of which no one is data."""

_RATE, _LARGER = 0.01, 10.0
_FAST, _SLOW = 0.5, 0.95
"""Decay constants whose updates are compared."""
_STEPS, _SETTLED, _LATER = 100, 60, 3
_SAME, _ALIKE = 0.01, 3.0
_LIKE = {"matrix": (3, 4), "vector": (4,)}

Factory = Callable[..., optax.GradientTransformation]
Numbers = dict[str, Any]


class _Found(NamedTuple):
    """What probing finds. It depends on the factory and on which hyperparameters are numbers, not on these numbers."""

    averages: tuple[str, ...]
    squared: tuple[str, ...]
    """Of those that usually have the units of the gradient, the ones that have those of its square."""
    normalised: bool
    svag: bool


_KNOWN: dict[Any, _Found] = {}
_MOST_KNOWN = 64


def probed_roles(factory: Factory, numbers: Numbers, settings: dict[str, Any]) -> Roles:
    """The roles of a factory's hyperparameters.

    Of the names for decay constants those count that make an update follow later, and leave what a steady gradient leads to as
    it is: the momentum of `optax.sgd` is the decay of a sum, which makes steps longer.

    **Raises:** `ValueError` where that cannot be found out.
    """
    known = [k for k, v in settings.items() if k in (*ROLE_NAMES, *_SEVERAL) and v is not None and not isinstance(v, bool)]
    if known:
        raise ValueError(f"{', '.join(known)} is no number: say what it does with roles=")
    key = factory, tuple(sorted(settings.items())), tuple(numbers)
    if key not in _KNOWN:
        while len(_KNOWN) >= _MOST_KNOWN:
            del _KNOWN[next(iter(_KNOWN))]
        # Values that are being traced are replaced.
        values = {k: np.asarray(v) if _checks.is_concrete(v) else np.float32(_FAST) for k, v in numbers.items()}
        with jax.ensure_compile_time_eval():
            _KNOWN[key] = _find(factory, values, settings)
    found = _KNOWN[key]
    gradients = tuple(name for name in numbers if name in _GRADIENTS and name not in found.squared)
    squares = tuple(name for name in numbers if name in (*_SQUARES, *found.squared))
    decays = tuple(name for name in numbers if name in _DECAYS)
    return Roles(found.normalised, found.averages, gradients, squares, decays, found.svag)


def _find(factory: Factory, numbers: Numbers, settings: dict[str, Any]) -> _Found:
    updates = _Updates(factory, settings)
    rng = np.random.default_rng(0)
    drawn, mean = rng.normal(size=(_STEPS, updates.size)), rng.normal(size=updates.size)
    # Not always the same, or there would be no variance to divide by.
    steady = mean * np.where(np.arange(_STEPS) % 4, 1.3, 0.1)[:, None]
    try:
        usual = updates(numbers, drawn, 1.0)[-1]
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"its updates cannot be tried ({type(error).__name__}: {reason}): say what they do with roles="
        ) from error
    named = lambda names: [k for k in numbers if k in names]
    squares = {k: v * _LARGER**2 for k, v in numbers.items() if k in _SQUARES}
    scaled = squares | {k: numbers[k] * _LARGER for k in named(_GRADIENTS)}
    normalised = _same(updates(numbers | scaled, _LARGER * drawn, 1.0)[-1], usual)

    def is_square(name: str) -> bool:
        """Whether it is added to a square, as `eps` is in some of Optax's factories."""
        large = numbers | {name: np.float32(1)}
        as_square = large | squares | {name: np.float32(_LARGER**2)}
        return _same(updates(as_square, _LARGER * drawn, 1.0)[-1], updates(large, drawn, 1.0)[-1])

    candidates = [k for k in named(AVERAGE_NAMES) if 0 <= float(numbers[k]) < 1]
    turned = np.concatenate([steady, -3 * steady[:_LATER]])

    def is_average(name: str) -> bool:
        fast, slow = (updates(numbers | {name: np.float32(b)}, turned, 0.0) for b in (_FAST, _SLOW))
        sizes = [np.mean(np.abs(rows[_SETTLED:_STEPS])) for rows in (fast, slow)]
        # Adadelta's steps grow all the time.
        return not _same(fast[-1], slow[-1]) and (name == "rho" or bool(1 / _ALIKE < sizes[1] / sizes[0] < _ALIKE))

    averages = tuple(filter(is_average, candidates))
    squared = tuple(filter(is_square, named(_GRADIENTS))) if normalised else ()
    is_linear = lambda: _same(updates(numbers, _LARGER * drawn, 0.0)[-1], _LARGER * updates(numbers, drawn, 0.0)[-1])
    able = len(averages) == len(candidates) and _is_all_averaged(updates.of(numbers), len(averages))
    return _Found(averages, squared, normalised, able and (normalised or is_linear()))


def _is_all_averaged(make: Callable[[], optax.GradientTransformation], averages: int) -> bool:
    """Whether the update is smooth, and each of its buffers an average whose decay constant is known: the parts of a step then
    add up, whatever else they are."""
    try:
        anatomy = anatomy_of(make, {name: jnp.zeros(shape) for name, shape in _LIKE.items()})
    except NotDerivable:
        return False
    buffers = sum(kind in (SIGNED, POSITIVE) for kind in anatomy.kinds) / len(_LIKE)
    return anatomy.regularity == SMOOTH and CLOCK not in anatomy.kinds and buffers <= averages


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(a)) and np.max(np.abs(a - b)) <= _SAME * np.max(np.abs(b)))


class _Updates:
    """The updates of a factory's transform at parameters that stay where they are."""

    def __init__(self, factory: Factory, settings: dict[str, Any]):
        self.factory, self.settings = factory, settings
        self.size = sum(int(np.prod(shape)) for shape in _LIKE.values())
        self.step = jax.jit(self._step)

    def of(self, numbers: Numbers) -> Callable[[], optax.GradientTransformation]:
        return lambda: self.factory(learning_rate=_RATE, **numbers, **self.settings)

    def __call__(self, numbers: Numbers, gradients: np.ndarray, x: float) -> np.ndarray:
        """The updates as rows, for gradients as rows and all parameters at `x`."""
        numbers = {k: jnp.asarray(v) for k, v in numbers.items()}
        params = _shaped(np.full(self.size, x))
        with usual_promotion():
            state = self.of(numbers)().init(params)
        rows = []
        for gradient in gradients:
            update, state = self.step(numbers, state, _shaped(gradient), params)
            rows.append(np.concatenate([np.ravel(u) for u in jax.tree.leaves(update)]))
        return np.asarray(rows, float)

    def _step(self, numbers: Numbers, state: Any, gradient: PyTree, params: PyTree) -> tuple[PyTree, Any]:
        return call_update(self.of(numbers)(), gradient, state, params)


def _shaped(vector: np.ndarray) -> PyTree:
    ends = np.cumsum([int(np.prod(shape)) for shape in _LIKE.values()])[:-1]
    parts = zip(_LIKE.items(), np.split(vector, ends), strict=True)
    return {name: jnp.asarray(part.reshape(shape), jnp.float32) for (name, shape), part in parts}
