"""`stationary`: the stationary law of a process, estimated over seeds and time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .. import _checks, _random
from .._tree import flat, is_sampler, size
from ..processes import SDE, Accompanied, Chain
from ..simulation import Ensemble, Jackknife, Moments, Samples, simulate
from ._control import accompany, expected_controls, observables, tangent_law
from ._diagnostics import burn_in, effective_sample_size, r_hat

# Means and covariances are kept up to this many coordinates.
_KEPT = 64
_RECORDS, _FIRST_STEPS, _SETTLED = 64, 512, 1e-5


class StationaryErrors(NamedTuple):
    """Of the entries of a [`Stationary`][]: standard errors, or factors by which variances were reduced."""

    mean: np.ndarray
    covariance: np.ndarray
    loss: np.ndarray


class Stationary(NamedTuple):
    """What [`stationary`][] returns: estimates for the law of the parameters, raveled to `d` coordinates."""

    mean: np.ndarray
    covariance: np.ndarray
    loss: np.ndarray
    stderr: StationaryErrors
    reduction: StationaryErrors
    """By how much control variates divided the variance of each estimate."""
    effective_samples: np.ndarray
    """Per coordinate, of all seeds and recorded times together (bulk, rank-normalised)."""
    r_hat: np.ndarray
    """Per coordinate, over seeds: rank-normalised and split. Near 1 where each seed has seen the whole law; above it where
    runs are short, or seeds are stuck in different places. Averages over seeds don't need it, averages over time do."""
    settled: bool
    """Whether no curve of means over seeds shows a trend after `burn_in`."""
    burn_in: float
    """The time from which on averages are taken."""
    ts: np.ndarray
    samples: np.ndarray
    """Parameters of some seeds at the recorded times after burn-in, shape `(times, seeds, d)`."""
    diverged: int
    seeds: int
    steps: int

    def quantile(self, q: Any) -> np.ndarray:
        """Quantiles of each coordinate, shape `(*q.shape, d)`, of the samples."""
        return np.quantile(self.samples.reshape(-1, self.samples.shape[-1]), q, axis=0)

    def density(self, bins: Any = 60, coordinate: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """A histogram of the samples of one coordinate: densities and edges, as `numpy.histogram` gives."""
        return np.histogram(self.samples[..., coordinate].ravel(), bins=bins, density=True)


def stationary(
    process: Chain | SDE,
    x0: Any,
    *,
    key: PRNGKeyArray,
    seeds: int = 4096,
    steps: int | None = None,
    substeps: int = 1,
    groups: int = 32,
    kept: int = 256,
    most_steps: int = 2**17,
    progress: bool = True,
) -> Stationary:
    """The stationary law of a process: averages over seeds, and over time after burn-in.

    Seeds are independent, so standard errors come from a jackknife over groups of seeds, whatever the correlation in
    time. Where the process has a linearisation, most of the sampling noise of mean, covariance and loss is taken out by
    control variates of exactly known expectation, as in [`expectations`][].

    **Arguments:**

    - `process`: an optimizer's `chain(problem)` or `sde(problem)`.
    - `x0`: where all seeds start, a pytree of parameters (at most 64 coordinates), or a function `key -> pytree`.
    - `key`, `seeds`, `substeps`, `progress`: as in [`simulate`][]. An SDE's law is that of its solver with these
      `substeps`; two runs show what is left of the step.
    - `steps`: optimizer steps of the run; by default as many as it takes, found by doubling, up to `most_steps`.
    - `groups`: of seeds, for the jackknife.
    - `kept`: of how many seeds samples are kept, for quantiles, R-hat and effective sample sizes.

    **Returns:** a [`Stationary`][]: `.mean` `(d,)`, `.covariance` `(d, d)`, `.loss`, `.stderr`, `.reduction`, the
    diagnostics of Vehtari et al. (2021) and the verdict `.settled`.

    **Raises:** `ValueError` or `TypeError` for arguments that don't fit.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> law = stationary(js.SGD(0.1).chain(problem), jnp.zeros(1), key=jax.random.key(0), seeds=64)
    >>> round(float(law.covariance[0, 0]), 5)  # 0.1 / (2 - 0.1)
    0.05263
    """
    _checks.instance("process", process, (Chain, SDE), "an optimizer's chain(problem) or sde(problem)")
    key = _random.checked_key(key)
    steps = None if steps is None else _checks.count("steps", steps)
    substeps, most_steps = _checks.count("substeps", substeps), _checks.count("most_steps", most_steps)
    seeds = _checks.count("seeds", seeds, least=2)
    groups = min(_checks.count("groups", groups, least=2), seeds)
    kept = min(_checks.count("kept", kept, least=2), seeds)
    example = process.problem.validate(x0(key) if is_sampler(x0) else x0)
    if size(example) > _KEPT:
        raise ValueError(f"stationary keeps full covariances, for at most {_KEPT} coordinates; x0 has {size(example)}")
    companion = accompany(process, x0, substeps)
    length = steps if steps is not None else _length(companion, process, x0, key, substeps, most_steps)
    while True:
        length = _RECORDS * max(1, round(length / _RECORDS)) if length >= _RECORDS else length
        law = _estimate(process, companion, x0, key, seeds, length, substeps, groups, kept, progress)
        if law.settled or steps is not None or 2 * length > most_steps:
            return law
        length *= 2


def _length(companion: Accompanied | None, process: Any, x0: Any, key: Any, substeps: int, most: int) -> int:
    """Twice the steps after which the tangent process has settled; where there is none, a first try."""
    steps = _FIRST_STEPS
    if companion is None:
        return steps
    while steps <= most:
        law = tangent_law(companion, steps, jnp.arange(_RECORDS + 1) * (steps // _RECORDS), substeps)
        means, covariances = np.asarray(jax.vmap(flat)(law.mean), float), np.asarray(law.covariance, float)
        spread = max(float(np.max(np.diagonal(covariances[-1]))), 1e-30)
        away = np.max(np.abs(means - means[-1]), axis=1) / np.sqrt(spread)
        away = np.maximum(away, np.max(np.abs(covariances - covariances[-1]), axis=(1, 2)) / spread)
        settled = int(np.flatnonzero(away > _SETTLED)[-1]) + 1 if np.any(away > _SETTLED) else 0
        if 2 * settled <= _RECORDS:
            return max(2 * settled * (steps // _RECORDS), _FIRST_STEPS // 4)
        steps *= 2
    return most


def _estimate(
    process: Any,
    companion: Any,
    x0: Any,
    key: Any,
    seeds: int,
    steps: int,
    substeps: int,
    groups: int,
    kept: int,
    progress: bool,
) -> Stationary:
    every = max(1, steps // _RECORDS)
    common: dict[str, Any] = dict(steps=steps, every=every, key=key, substeps=substeps, progress=progress)
    # The law of the kept seeds: for the diagnostics, and for a point of reference that keeps digits in covariances.
    paths = simulate(process, x0, seeds=kept, observe={"x": flat}, reduce=Samples(), **common)
    samples = np.asarray(paths["x"].values, float)
    finite = np.all(np.isfinite(samples), axis=(0, 2))
    reference = jnp.asarray(np.mean(samples[-1, finite], axis=0) if finite.any() else 0.0, paths["x"].values.dtype)
    functions = _functions(process.problem.loss, reference)
    jackknife = Jackknife(Moments(), groups)
    if companion is None:
        run = simulate(process, x0, seeds=seeds, observe=functions, reduce=jackknife, **common)
        fine, known = {}, {}
    else:
        run = simulate(companion, x0, seeds=seeds, observe=observables(functions), reduce=jackknife, **common)
        known = expected_controls(functions, tangent_law(companion, steps, run.steps, substeps))
        fine = {n: _Curves.of(run, f"{n} controlled", known[n]) for n in functions}
    crude = {n: _Curves.of(run, n, 0.0) for n in functions}
    start, trendless = _settling(fine or crude)
    d = reference.shape[0]
    plain = _averages(crude, start, d, np.asarray(reference, float))
    best = plain if not fine else _averages(fine, start, d, np.asarray(reference, float))
    values, errors, factors = _select(plain, best)
    # ArviZ's convention: chains (seeds) first, then draws (recorded times).
    tail = np.swapaxes(samples[start:, finite], 0, 1)
    enough = tail.shape[0] > 1 and tail.shape[1] >= 4
    ratio = r_hat(tail) if enough else np.full(d, np.nan)
    effective = effective_sample_size(tail) * seeds / max(1, tail.shape[0]) if enough else np.full(d, np.nan)
    ts = np.asarray(run.ts, float)
    return Stationary(
        values.mean, values.covariance, values.loss, errors, factors, effective, ratio, trendless, float(ts[start]), ts,
        samples[start:][:, finite], int(run.diverged[-1]), seeds, steps,
    )  # fmt: skip


def _functions(loss: Callable, reference: jax.Array) -> dict[str, Callable[[PyTree], jax.Array]]:
    return {"mean": eqx.Partial(_offset, reference), "second": eqx.Partial(_square, reference), "loss": loss}


def _offset(reference: jax.Array, x: PyTree) -> jax.Array:
    return flat(x) - reference.astype(flat(x).dtype)


def _square(reference: jax.Array, x: PyTree) -> jax.Array:
    offset = _offset(reference, x)
    return jnp.outer(offset, offset)


class _Curves(NamedTuple):
    """An observable's mean over time with all seeds, shape `(n, k)`, and without each group, `(groups, n, k)`."""

    total: np.ndarray
    without: np.ndarray
    stderr: np.ndarray

    @staticmethod
    def of(run: Ensemble, name: str, known: Any) -> "_Curves":
        statistics = run[name]

        def curve(moments: Any) -> np.ndarray:
            mean = np.asarray(moments.mean, float)
            return mean.reshape(mean.shape[0], -1) + known

        stderr = np.asarray(statistics.total.stderr, float)
        return _Curves(
            curve(statistics.total), np.stack([curve(m) for m in statistics.without]), stderr.reshape(stderr.shape[0], -1)
        )


def _settling(curves: Mapping[str, _Curves]) -> tuple[int, bool]:
    """The first record from which on no curve shows a trend, and whether there is one."""
    found = [
        burn_in(c.total[:, i], c.stderr[:, i], c.without[..., i]) for c in curves.values() for i in range(c.total.shape[1])
    ]
    return max(int(f[0]) for f in found), all(bool(f[1]) for f in found)


def _averages(curves: Mapping[str, _Curves], start: int, d: int, reference: np.ndarray) -> tuple[Any, Any]:
    """Time averages of mean, covariance and loss, and their jackknife standard errors."""

    def quantities(pick: Callable[[_Curves], np.ndarray]) -> list[np.ndarray]:
        mean, second, loss = (pick(curves[n])[..., start:, :].mean(axis=-2) for n in ("mean", "second", "loss"))
        product = mean[..., :, None] * mean[..., None, :]
        return [mean, second.reshape(*second.shape[:-1], d, d) - product, loss[..., 0]]

    values, parts = quantities(lambda c: c.total), quantities(lambda c: c.without)
    groups = parts[0].shape[0]
    errors = [np.sqrt((groups - 1) / groups * np.sum((p - p.mean(axis=0)) ** 2, axis=0)) for p in parts]
    values[0] = values[0] + reference
    return StationaryErrors(*values), StationaryErrors(*errors)


def _select(plain: tuple[Any, Any], best: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """Entry by entry the estimate of the smaller standard error."""
    chosen = []
    for crude, fine, rough, sharp in zip(plain[0], best[0], plain[1], best[1], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(rough > 0, (rough / sharp) ** 2, 1.0)
        helps = factor >= 1
        chosen.append((np.where(helps, fine, crude), np.where(helps, sharp, rough), np.where(helps, factor, 1.0)))
    values, errors, factors = (StationaryErrors(*entries) for entries in zip(*chosen, strict=True))
    return values, errors, factors
