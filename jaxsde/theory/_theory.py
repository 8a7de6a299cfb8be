"""What theory knows of an optimizer: a class of formulas, registered for the optimizer's exact type."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from ..optimizers import AbstractOptimizer, check_optimizer
from ._setting import Setting

Moments = tuple[Any, Any]
"""Mean and covariance, of JAX or of NumPy, with a leading axis of times where there are several."""


class LossBound(NamedTuple):
    """An upper bound of the expected loss above its minimum, $S_0 e^{-rt} + f (1 - e^{-rt})$."""

    loss: Float[Array, " n"]
    rate: Float[Array, ""]
    """$r$, per unit of time."""
    floor: Float[Array, ""]
    """$f$, the bound of the asymptotic loss."""


class Relaxation(NamedTuple):
    """The constants of $\\dot m = -2 (a \\eta_t + b \\eta_t^2) m + q \\eta_t^2$, which a second moment or a loss follows
    along a schedule."""

    a: Any
    b: Any
    source: Any
    """q over the reference rate."""


class AbstractTheory(abc.ABC):
    """The formulas of one kind of optimizer on a quadratic loss with noise of constant law.

    All take the optimizer and the [`Setting`][], whose learning rate is constant. Those that are not abstract may be missing:
    here they refuse.
    """

    needs_variance: ClassVar[bool] = True
    """Whether the formulas hold for noise of finite variance only."""
    bounds_hold_at_any_rate: ClassVar[bool] = False
    """Whether the bounds hold where `check_rate` raises, too."""

    @abc.abstractmethod
    def check_rate(self, opt: Any, s: Setting) -> None:
        """Raises `ValueError` where one step of the optimizer itself enlarges what its SDE contracts: past that learning rate
        the optimizer diverges, and the SDE's moments no longer describe it."""

    @abc.abstractmethod
    def transient(self, opt: Any, s: Setting, x0: Array, ts: Array) -> Moments:
        """The moments of the SDE at times `ts` from the point `x0`."""

    @abc.abstractmethod
    def stationary(self, opt: Any, s: Setting) -> Moments:
        """The moments of the SDE's stationary law."""

    @abc.abstractmethod
    def discrete_transient(self, opt: Any, s: Setting, x0: np.ndarray, steps: np.ndarray) -> Moments:
        """The moments of the optimizer itself after `steps` steps from the point `x0`."""

    @abc.abstractmethod
    def discrete_stationary(self, opt: Any, s: Setting) -> Moments:
        """The moments of the optimizer's own stationary law."""

    def bound(self, opt: Any, s: Setting, x0: Array) -> tuple[Array, Array]:
        """The rate $r$ of the bound of the loss, and the source $T$ of its floor $\\frac{\\eta T}{2r}$."""
        raise ValueError(f"there is no bound for {type(opt).__name__}")

    def phase_bound(self, opt: Any, s: Setting, x0: Array, ts: Array, phase: int | None, published: bool) -> LossBound:
        """The bound of the loss in one of SignSGD's phases, or with the published constants."""
        raise ValueError(f"phase and published are for SignSGD's bounds, got {type(opt).__name__}")


class AbstractScheduledTheory(AbstractTheory):
    """Formulas that hold along a schedule of the learning rate, too. The setting has the reference rate."""

    @abc.abstractmethod
    def scheduled_moments(self, opt: Any, s: Setting) -> Relaxation:
        """How second moments relax along a schedule, per coordinate of a diagonal quadratic."""

    @abc.abstractmethod
    def scheduled_bound(self, opt: Any, s: Setting, x0: Array, published: bool) -> Relaxation:
        """How the bound of the loss relaxes along a schedule."""

    @abc.abstractmethod
    def power_rate(self, opt: Any, s: Setting) -> float:
        """The rate at which the loss falls at the full learning rate, per unit of time."""


_Theory = TypeVar("_Theory", bound=AbstractTheory)
_THEORIES: dict[type, AbstractTheory] = {}


def register(*kinds: type[AbstractOptimizer]) -> Callable[[type[_Theory]], type[_Theory]]:
    """Registers a class of formulas for these kinds of optimizers: a decorator of an [`AbstractTheory`][].

    For their exact types: a subclass may be another optimizer, so it does not inherit the formulas.
    """

    def registered(theory: type[_Theory]) -> type[_Theory]:
        for kind in kinds:
            _THEORIES[kind] = theory()
        return theory

    return registered


def has_theory(opt: AbstractOptimizer) -> bool:
    """Whether formulas are registered for the optimizer.

    >>> import jaxsde as js
    >>> has_theory(js.SGD(0.1))
    True
    """
    return type(opt) in _THEORIES


def theory_of(opt: Any) -> AbstractTheory:
    """The formulas registered for the optimizer; raises `ValueError` where there are none."""
    check_optimizer(opt)
    if type(opt) not in _THEORIES:
        names = ", ".join(sorted(kind.__name__ for kind in _THEORIES))
        raise ValueError(f"a closed form is not known for the optimizer {opt.called}, only for {names}")
    return _THEORIES[type(opt)]


def scheduled_theory_of(opt: Any) -> AbstractScheduledTheory:
    """The formulas registered for the optimizer; raises `ValueError` where there are none along schedules."""
    theory = theory_of(opt)
    if not isinstance(theory, AbstractScheduledTheory):
        able = sorted(kind.__name__ for kind, other in _THEORIES.items() if isinstance(other, AbstractScheduledTheory))
        raise ValueError(f"schedules have closed forms for {' and '.join(able)}, got {type(opt).__name__}")
    return theory


def check_lengths(opt: Any, s: Setting, matrix: np.ndarray, reason: str) -> None:
    """Raises `ValueError` where a direction is multiplied by `matrix` in one step so that the step is too long, which has the
    `reason`, with `{size}` for the factor.

    Real multipliers from 1 on belong to flat or unstable directions, which the SDE shares. Only negative or complex ones mean
    that the step is too long.
    """
    sizes = np.linalg.eigvals(matrix)
    past = sizes[(np.abs(sizes) >= 1 - 1e-9) & ~((np.abs(sizes.imag) < 1e-9) & (sizes.real > 0))]
    if past.size:
        why = reason.format(size=f"{np.abs(past).max():.4g}")
        raise ValueError(
            f"learning_rate {float(s.rate):.4g} is past the limit of {type(opt).__name__} on this quadratic: {why}"
        )


class Spectrum(NamedTuple):
    """What the bounds need of a Hessian's eigenvalues: the least, the largest, and the sum."""

    mu: Array
    smoothness: Array
    trace: Array


def convex_spectrum(s: Setting) -> Spectrum:
    """The spectrum of the Hessian; raises `ValueError` unless it is positive."""
    spectrum = jnp.linalg.eigvalsh(s.dense_hessian)
    if _checks.is_concrete(spectrum) and float(spectrum[0]) <= 0:
        raise ValueError(f"a strongly convex loss is assumed, but the Hessian has the eigenvalue {spectrum[0]:.4g}")
    return Spectrum(spectrum[0], spectrum[-1], jnp.sum(spectrum))


def exponential_bound(s: Setting, x0: Array, ts: Array, rate: Array, source: Array) -> LossBound:
    """The bound that falls at a `rate` to the floor that the `source` of noise makes."""
    floor = 0.5 * s.rate * source / rate
    start = s.loss(x0, jnp.zeros_like(s.dense_hessian))
    left = jnp.exp(-rate * ts)
    return LossBound(start * left + floor * (1 - left), rate, floor)


def largest_variance(s: Setting) -> Array:
    """The noise's variance in the direction where it is largest."""
    return jnp.max(jnp.linalg.eigvalsh(s.noise)) if s.noise.ndim == 2 else jnp.max(s.noise)
