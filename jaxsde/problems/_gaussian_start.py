"""Starting parameters with independent normal coordinates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks
from .._start import AbstractStart
from .._tree import as_params


class GaussianStart(AbstractStart):
    """Starts with independent normal coordinates, $x_0 \\sim N(\\mu, s^2)$.

    **Arguments:**

    - `mean`: $\\mu$, a pytree of arrays of floating-point numbers.
    - `std`: $s \\ge 0$, a number, or a pytree as `mean` is, of numbers or of arrays of the same shapes.

    **Raises:** `ValueError` or `TypeError` for arguments that are no such numbers.

    >>> import jaxsde as js
    >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    >>> start = GaussianStart(jnp.ones(1), std=2.0)
    >>> run = js.expectations(
    ...     js.SGD(0.1).chain(problem), start, {"loss": problem.loss}, steps=9, seeds=9, key=jax.random.key(0)
    ... )
    >>> round(float(run["loss"].mean[0]), 4)  # (1 + 4) / 2, exactly
    2.5
    """

    mean: PyTree
    std: PyTree

    def __init__(self, mean: Any, std: Any = 1.0):
        self.mean = as_params(mean)
        leaves, structure = jax.tree.flatten(self.mean)
        stds = jax.tree.leaves(std) if jax.tree.structure(std) == structure else [std] * len(leaves)
        self.std = jax.tree.unflatten(structure, [_std_like(s, leaf) for s, leaf in zip(stds, leaves, strict=True)])

    def __call__(self, key: PRNGKeyArray) -> PyTree:
        leaves, structure = jax.tree.flatten(self.mean)
        keys = jax.random.split(key, len(leaves))
        drawn = [
            m + s * jax.random.normal(k, m.shape, m.dtype)
            for k, m, s in zip(keys, leaves, jax.tree.leaves(self.std), strict=True)
        ]
        return jax.tree.unflatten(structure, drawn)

    def covariance(self) -> Float[Array, "d d"]:
        return jnp.diag(jnp.concatenate([jnp.ravel(s**2) for s in jax.tree.leaves(self.std)]))


def _std_like(std: Any, leaf: Array) -> Array:
    given = jnp.asarray(std)
    if given.shape not in ((), leaf.shape) or not jnp.issubdtype(given.dtype, jnp.number):
        raise ValueError(f"std must be a number or shaped as mean is, {leaf.shape}, got {std!r}")
    if _checks.is_concrete(given) and not np.all(np.isfinite(given) & (np.asarray(given) >= 0)):
        raise ValueError(f"std must be finite and not negative, got {std!r}")
    return jnp.broadcast_to(given.astype(leaf.dtype), leaf.shape)
