"""Diagnostics of stationarity: effective sample sizes, R-hat, burn-in. Computed in float64 on the host."""

from typing import Any

import numpy as np
import scipy  # whose parts load when they are first used

from ._statistics import jackknife_stderr

# The largest difference, in standard errors, between the averages over the halves of a settled curve.
_TREND = 3
# The largest relative difference between float32 means that may be rounding.
_ROUNDING = 1e-6


def effective_sample_size(values: Any) -> np.ndarray:
    """Estimates how many independent draws would give as precise a mean: the bulk effective sample size.

    The draws are rank-normalised over split chains, and $S = N / \\hat\\tau$ with
    $\\hat\\tau = -1 + 2 \\sum_k (\\hat\\rho_{2k} + \\hat\\rho_{2k+1})$, summed over Geyer's initial monotone sequence
    (vehtari2021, equations 10 to 14). A constant has as many as there are draws.

    **Arguments:** `values`: shape `(chains, draws, ...)`, at least 4 draws; of an ensemble, seeds are the chains and
    recorded times the draws.

    **Returns:** the trailing shape `(...)`, in draws.

    **Raises:** `ValueError` for another shape or values that are not finite.

    >>> bool(100 < effective_sample_size(jax.random.normal(jax.random.key(0), (4, 50))) < 400)
    True
    """
    split, shape = _split(values, chains=1)
    size = split.shape[0] * split.shape[1]
    z = _normal_scores(split)
    n = z.shape[1]
    centred = z - np.mean(z, axis=1, keepdims=True)
    length = 1 << (2 * n - 1).bit_length()
    power = np.mean(np.abs(np.fft.rfft(centred, length, axis=1)) ** 2, axis=0)
    covariance = np.fft.irfft(power, length, axis=0)[:n] / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + np.var(np.mean(z, axis=1), axis=0, ddof=1)
    with np.errstate(invalid="ignore"):
        rho = 1 - (within - covariance) / total
    rho[0] = 1
    # Geyer's pairs up to the first that is not positive, which counts with its even half alone.
    pairs = max(1, (n - 1) // 2)
    sums = rho[0 : 2 * pairs : 2] + rho[1 : 2 * pairs : 2]
    ended = sums <= 0
    last = np.where(np.any(ended, axis=0), np.argmax(ended, axis=0), pairs - 1)
    before = np.arange(pairs)[:, None] < last
    half, pair = (np.take_along_axis(a, last[None], axis=0)[0] for a in (rho[0 : 2 * pairs : 2], sums))
    tail = np.where((half > 0) | (pair >= 0), half, 0)
    tau = -1 + 2 * np.sum(np.where(before, np.minimum.accumulate(sums, axis=0), 0), axis=0) + tail
    return np.where(total > 0, size / np.maximum(tau, 1 / np.log10(size)), size).reshape(shape)


def r_hat(values: Any) -> np.ndarray:
    """Computes whether chains agree: 1 if they do, above about 1.01 if they have not mixed.

    $\\hat R = \\sqrt{(B / W + n - 1) / n}$ with the variances $B / n$ between and $W$ within split chains of length $n$,
    of the rank-normalised draws and of their rank-normalised distances from the median; the larger of the two
    (vehtari2021, section 4). A constant has 1.

    **Arguments:** `values`: shape `(chains, draws, ...)`, at least 2 chains of 4 draws; of an ensemble, seeds are the
    chains and recorded times the draws.

    **Returns:** the trailing shape `(...)`.

    **Raises:** `ValueError` for another shape or values that are not finite.

    >>> bool(r_hat(jax.random.normal(jax.random.key(0), (4, 500))) < 1.02)
    True
    """
    split, shape = _split(values, chains=2)
    folded = np.abs(split - np.median(split, axis=(0, 1)))
    ratio = np.fmax(_scale_reduction(_normal_scores(split)), _scale_reduction(_normal_scores(folded)))
    return np.where(np.isnan(ratio), 1.0, ratio).reshape(shape)


def burn_in(mean: Any, stderr: Any, without: Any = None) -> tuple[int, bool]:
    """Finds the record from which on a curve is stationary, and tells whether it is.

    The start $k$ minimises $\\sum_{i \\ge k} (m_i - \\bar m_k)^2 / (n - k)^2$, the squared standard error that the rest
    of the curve would have if it were white noise about its average $\\bar m_k$: MSER (white1997), with $k$ at most
    $n / 2$. The rest counts as stationary if the averages over its two halves agree within three standard errors of
    their difference. These come from the jackknife if `without` is given. If not, the correlation in time is unknown, and the
    bound takes each average to be as uncertain as its records, so that a drift within their noise goes unseen.

    **Arguments:**

    - `mean`: a mean over independent seeds at equally spaced times, shape `(n,)`.
    - `stderr`: its standard errors, shape `(n,)`.
    - `without`: the mean without each group of seeds, shape `(groups, n)`, if known.

    **Returns:** the index of the first stationary record, and the verdict; False for a curve that is not finite.

    **Raises:** `ValueError` for shapes that don't fit.

    >>> ts = jnp.arange(100)
    >>> burn_in(jnp.exp(-ts) + 0.01 * jnp.cos(3 * ts), jnp.full(100, 0.01))
    (5, True)
    """
    mean, stderr = np.asarray(mean, float), np.asarray(stderr, float)
    if mean.ndim != 1 or mean.shape != stderr.shape or mean.size < 2:
        raise ValueError(f"mean and stderr must have one shape (n,), n at least 2, got {mean.shape} and {stderr.shape}")
    n = mean.size
    latest = n // 2
    if not np.all(np.isfinite(mean)) or not np.all(np.isfinite(stderr)):
        return latest, False
    centred = mean - np.mean(mean[latest:])
    sums, squares = (np.cumsum(a[::-1])[::-1][: latest + 1] for a in (centred, centred**2))
    lengths = n - np.arange(latest + 1)
    start = int(np.argmin((squares - sums**2 / lengths) / lengths**2))
    parts = None if without is None else np.asarray(without, float)[..., start:]
    return start, trendless(mean[start:], stderr[start:], parts)


def trendless(mean: np.ndarray, stderr: np.ndarray, without: np.ndarray | None = None, limit: float = _TREND) -> bool:
    """Tells whether the averages over the two halves of a curve agree within `limit` standard errors. Arguments are those of
    [`burn_in`][]."""
    middle = mean.size // 2

    def halves(curves: np.ndarray) -> tuple[np.ndarray | np.floating, np.ndarray | np.floating]:
        return np.mean(curves[..., :middle], axis=-1), np.mean(curves[..., middle:], axis=-1)

    if without is None:
        spread = np.hypot(*halves(stderr))
    else:
        spread = jackknife_stderr(np.subtract(*halves(without)))
    trend = np.abs(np.subtract(*halves(mean)))
    return bool(trend <= limit * spread + _ROUNDING * np.max(np.abs(mean)))


def _split(values: Any, chains: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Cuts each chain in two and ravels trailing axes: shape `(2 chains, draws // 2, k)`, and the trailing shape."""
    values = np.asarray(values, float)
    if values.ndim < 2 or values.shape[0] < chains or values.shape[1] < 4:
        raise ValueError(f"values must have shape (chains, draws, ...), at least ({chains}, 4), got {values.shape}")
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(f"values must be finite, got {bad} that are not: leave out the chains that diverged")
    shape, half = values.shape[2:], values.shape[1] // 2
    values = values.reshape(*values.shape[:2], -1)
    return np.concatenate([values[:, :half], values[:, -half:]]), shape


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Replaces draws by normal quantiles of their ranks over all chains, with Blom's offset."""
    size = values.shape[0] * values.shape[1]
    ranks = scipy.stats.rankdata(values.reshape(size, -1), axis=0)
    return scipy.special.ndtri((ranks - 0.375) / (size + 0.25)).reshape(values.shape)


def _scale_reduction(values: np.ndarray) -> np.ndarray:
    n = values.shape[1]
    within = np.mean(np.var(values, axis=1, ddof=1), axis=0)
    between = n * np.var(np.mean(values, axis=1), axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((between / within + n - 1) / n)
