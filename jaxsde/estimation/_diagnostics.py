"""Diagnostics of runs over seeds and time: R-hat, effective sample sizes, and where the burn-in ends."""

import numpy as np
from jaxtyping import ArrayLike
from scipy.special import ndtri
from scipy.stats import rankdata

# From the start that is chosen on, thirds of a curve must agree within this many standard errors.
_TREND = 5.0


def r_hat(values: ArrayLike) -> np.ndarray:
    """Rank-normalised split R-hat: near 1 where all seeds, early and late, have the same law.

    The larger of the statistic for the values and for their distances from the median (Vehtari et al., 2021).

    **Arguments:** `values`: shape `(seeds, times, ...)`, at least 4 times.

    **Returns:** shape `(...)`.

    >>> float(r_hat(jax.random.normal(jax.random.key(0), (8, 200)))) < 1.02
    True
    """
    split = _split(_checked(values))
    folded = np.abs(split - np.median(split, axis=(0, 1)))
    return np.maximum(_r_hat(_normal_scores(split)), _r_hat(_normal_scores(folded)))


def effective_sample_size(values: ArrayLike) -> np.ndarray:
    """How many independent values the correlated ones are worth for a mean: the bulk effective sample size.

    Of the rank-normalised, split sequences, with Geyer's initial monotone sequence (Vehtari et al., 2021).

    **Arguments:** `values`: shape `(seeds, times, ...)`, at least 4 times.

    **Returns:** shape `(...)`.

    >>> 1000 < float(effective_sample_size(jax.random.normal(jax.random.key(0), (8, 200)))) < 2200
    True
    """
    scores = _normal_scores(_split(_checked(values)))
    trailing = scores.shape[2:]
    flat = scores.reshape(*scores.shape[:2], -1)
    return np.array([_effective(flat[..., i]) for i in range(flat.shape[-1])]).reshape(trailing)


def burn_in(mean: ArrayLike, stderr: ArrayLike) -> tuple[int, bool]:
    """From which record on a curve of means over seeds is flat, and whether what follows shows no trend.

    The start minimises the squared standard error of the average that follows, White's marginal standard error rule
    (1997), over the first half of the curve. No trend: the averages of the first, second and last third of the rest
    agree within five of their standard errors, with errors at different times taken to be fully correlated, which is
    the worst that they can be.

    **Arguments:** `mean`, `stderr`: shape `(n,)`, of seeds independent of each other.

    **Returns:** the index of the record and the verdict.

    >>> start, flat = burn_in(jnp.exp(-jnp.arange(64.0)), jnp.full(64, 1e-3))
    >>> 5 <= start < 32, flat
    (True, True)
    """
    mean, stderr = np.asarray(mean, float), np.asarray(stderr, float)
    n = len(mean)
    if n < 6 or not np.all(np.isfinite(mean)):
        return n // 2, False
    starts = np.arange(n // 2 + 1)
    marginal = [np.sum((mean[s:] - mean[s:].mean()) ** 2) / (n - s) ** 2 for s in starts]
    start = int(starts[np.argmin(marginal)])
    thirds = np.array_split(np.arange(start, n), 3)
    averages = np.array([mean[part].mean() for part in thirds])
    # Rounding moves averages of single-precision numbers that have no spread at all.
    floor = 1e-6 * np.max(np.abs(mean))
    error = max(float(np.mean(stderr[start:])), floor)
    return start, bool(np.ptp(averages) <= _TREND * error)


def _checked(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim < 2 or array.shape[1] < 4:
        raise ValueError(f"values must have shape (seeds, times, ...) with at least 4 times, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"values must be finite, but {np.sum(~np.isfinite(array))} of them are not")
    return array


def _split(values: np.ndarray) -> np.ndarray:
    """Each sequence's first and second half as sequences of their own."""
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, -half:]])


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Values replaced by the normal quantiles of their ranks among all, per coordinate."""
    pooled = values.reshape(values.shape[0] * values.shape[1], -1)
    ranks = rankdata(pooled, axis=0)
    return ndtri((ranks - 0.375) / (len(pooled) + 0.25)).reshape(values.shape)


def _r_hat(values: np.ndarray) -> np.ndarray:
    n = values.shape[1]
    within = values.var(axis=1, ddof=1).mean(axis=0)
    between = values.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt((n - 1) / n + between / within)
    return np.where((within == 0) & (between == 0), 1.0, ratio)


def _effective(values: np.ndarray) -> float:
    """Of sequences with shape `(seeds, times)`."""
    m, n = values.shape
    centred = values - values.mean(axis=1, keepdims=True)
    transform = np.fft.rfft(centred, 2 * n, axis=1)
    covariance = np.fft.irfft(np.abs(transform) ** 2, axis=1)[:, :n].mean(axis=0) / n
    variance = covariance[0] * n / (n - 1)
    total = variance * (n - 1) / n + (values.mean(axis=1).var(ddof=1) if m > 1 else 0.0)
    if total == 0:
        return float(m * n)
    rho = 1 - (variance - covariance) / total
    rho[0] = 1.0
    # Sums of neighbouring pairs are positive and falling for any reversible chain: where they cease to be, noise begins.
    # The last pairs, of hardly any values, are left out.
    last = max((n - 1) // 2 - 1, 0)
    pairs = rho[: 2 * (last + 1)].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs < 0)
    stop = int(negative[0]) if negative.size else last
    kept = np.minimum.accumulate(pairs[:stop])
    time = max(-1 + 2 * float(np.sum(kept)) + max(float(rho[2 * stop]), 0.0), 1 / np.log10(m * n))
    return m * n / time
