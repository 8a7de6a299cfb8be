"""The gradient noise along a training run, and in anyone's batches."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _checks, _random
from .._progress import progress_bar
from .._typing import Key
from ..optimizers import AbstractOptimizer
from ..problems import Problem
from ..simulation import Samples, simulate
from ._advice import batch_of
from ._curvature import LEAST_PRODUCTS, PRECONDITIONERS
from ._noise_report import NoiseReport, noise_report, reported

_LEAST_BATCHES = 16


class NoisePath(NamedTuple):
    """What [`noise_path`][] returns: reports along a run, and the numbers in them that one follows, each of shape `(n,)`."""

    steps: np.ndarray
    """After how many steps of the optimizer."""
    loss: np.ndarray
    reports: list[NoiseReport]
    batch_size: int | None
    """Of the problem; None where it has no batches."""

    @property
    def signal_to_noise(self) -> np.ndarray:
        """The norm of the gradient over that of the noise."""
        return np.array([report.whole.signal_to_noise for report in self.reports])

    @property
    def critical_batch(self) -> np.ndarray:
        """The batch size at which noise and gradient are as large; in units of the batch where its size is not known."""
        return np.array([report.critical_ratio for report in self.reports]) * (self.batch_size or 1)

    @property
    def tail_index(self) -> np.ndarray:
        """Hill's estimate for the tail of the noise."""
        return np.array([report.whole.tail_index for report in self.reports])

    @property
    def sign_gap(self) -> np.ndarray:
        """How far mean signs are from those of normal noise."""
        return np.array([report.whole.sign_gap for report in self.reports])

    @property
    def curvature(self) -> dict[str, np.ndarray]:
        """The largest curvature, by optimizer."""
        return {name: np.array([report.curvature[name] for report in self.reports]) for name in self.reports[0].curvature}


def noise_path(
    problem: Problem,
    opt: AbstractOptimizer,
    params: PyTree,
    *,
    steps: int,
    every: int | None = None,
    key: Key | None = None,
    draws: int = 256,
    progress: bool = True,
    **more: Any,
) -> NoisePath:
    """Measures the gradient noise along one training run.

    Runs the optimizer with one seed, and makes a [`noise_report`][] at the start and after each `every` steps.

    **Arguments:**

    - `problem`, `opt`, `params`: what is trained, by what, and from where.
    - `steps`, `every`: the length of the run, and the distance of the reports; by default there are eight after the start.
    - `key`: of the run and of the draws.
    - `draws`, `progress`, `more`: as in [`noise_report`][].

    **Returns:** a [`NoisePath`][]; `jaxsde.reporting.plot_noise_path` draws it.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit, and where training diverges.

    >>> import jax.numpy as jnp, jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0, 4.0]), js.Gaussian(0.1))
    >>> way = noise_path(problem, js.SGD(0.1), jnp.ones(2), steps=20, every=10, draws=16, progress=False)
    >>> bool(way.signal_to_noise[0] > way.signal_to_noise[-1])
    True
    """
    _checks.instance("problem", problem, Problem, "a jaxsde.Problem(loss, noise)")
    _checks.instance("opt", opt, AbstractOptimizer, "an optimizer such as jaxsde.SGD(0.01)")
    _checks.eager("noise_path", problem, opt, params, key)
    steps = _checks.count("steps", steps)
    every = max(1, steps // 8) if every is None else _checks.count("every", every, most=steps)
    params = problem.validate(params)
    key = _random.typed_key(jax.random.key(0) if key is None else key)
    training, drawing = jax.random.split(key)
    run = simulate(
        opt.chain(problem), params, steps=steps, every=every, seeds=1, key=training, reduce=Samples(), progress=progress
    )
    if run.diverged[-1]:
        raise ValueError(f"training diverged within {steps} steps: there is no noise to follow")
    places = [jax.tree.map(lambda leaf, n=n: leaf[n, 0], run["x"].values) for n in range(len(run.steps))]
    reports = [
        noise_report(problem, place, key=jax.random.fold_in(drawing, n), draws=draws, progress=progress, **more)
        for n, place in enumerate(places)
    ]
    loss = np.asarray(run["loss"].values, float)[:, 0]
    return NoisePath(np.asarray(run.steps), loss, reports, batch_of(problem))


def batch_noise(
    loss: Callable[[PyTree, Any], Any],
    params: PyTree,
    batches: Iterable[Any],
    *,
    draws: int = 256,
    tolerance: float = 0.1,
    curvature_products: int = 64,
    progress: bool = True,
) -> NoiseReport:
    """Measures the gradient noise of anyone's training loop: of a loss and the batches that it sees.

    As [`noise_report`][], for parameters of any library that are a pytree, Flax's or Haiku's or Optax's own. The gradient is
    that over all batches together, so the more of them, the better; its square is corrected for the noise that is left in it.
    Curvature is that of the first batch.

    **Arguments:**

    - `loss`: `(params, batch) -> scalar`, the mean over the batch.
    - `params`: the parameters, a pytree of floating-point arrays.
    - `batches`: pytrees of arrays, of equal shapes; at least 16.
    - `draws`: how many to take at most.
    - `tolerance`, `curvature_products`, `progress`: as in [`noise_report`][].

    **Returns:** a [`NoiseReport`][].

    **Raises:** `ValueError` for fewer batches, and where a gradient is not finite.

    >>> import jax.numpy as jnp
    >>> data = jax.random.normal(jax.random.key(0), (64, 8, 3))
    >>> report = batch_noise(lambda w, x: jnp.mean((x @ w - 1.0) ** 2), jnp.ones(3), data, progress=False)
    >>> report.draws
    64
    """
    if not callable(loss):
        raise TypeError(f"loss must be callable, (params, batch) -> scalar, got {loss!r:.60}")
    draws = _checks.count("draws", draws, least=_LEAST_BATCHES)
    _checks.scalar("tolerance", tolerance, low=0.0, high=1.0)
    curvature_products = _checks.count("curvature_products", curvature_products, least=LEAST_PRODUCTS)
    taken = list(itertools.islice(iter(batches), draws))
    if len(taken) < _LEAST_BATCHES:
        raise ValueError(f"batches must be at least {_LEAST_BATCHES}, got {len(taken)}")
    with progress_bar(progress, len(taken) + len(PRECONDITIONERS) * curvature_products, "gradient") as bar:
        rows = []
        for batch in taken:
            rows.append(
                [np.asarray(leaf, np.float32).ravel() for leaf in jax.tree.leaves(_batch_gradient(loss, params, batch))]
            )
            bar.update(1)
        drawn = [np.stack(leaf) for leaf in zip(*rows, strict=True)]
        if not all(np.isfinite(leaf).all() for leaf in drawn):
            raise ValueError("the gradient of a batch is not finite")
        count = len(taken)
        means = [leaf.mean(axis=0) for leaf in drawn]
        # About their own mean draws spread less than about the true one.
        noises = [(leaf - mean) * math.sqrt(count / (count - 1)) for leaf, mean in zip(drawn, means, strict=True)]
        leaves, structure = jax.tree.flatten(params)
        shaped = [jnp.asarray(mean.reshape(np.shape(leaf)), leaf.dtype) for mean, leaf in zip(means, leaves, strict=True)]
        gradient = jax.tree.unflatten(structure, shaped)
        first = eqx.Partial(_at_batch, loss, taken[0])
        return reported(first, params, gradient, noises, tolerance, curvature_products, bar, unsure=1 / count)


@eqx.filter_jit
def _batch_gradient(loss: Callable[[PyTree, Any], Any], params: PyTree, batch: Any) -> PyTree:
    return jax.grad(loss)(params, batch)


def _at_batch(loss: Callable[[PyTree, Any], Any], batch: Any, params: PyTree) -> Array:
    return loss(params, batch)
