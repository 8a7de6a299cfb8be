"""Types that several modules share."""

from collections.abc import Sequence
from typing import Any

import jax
import jaxtyping
import numpy as np

ArrayLike = jaxtyping.ArrayLike | Sequence[Any]
"""What `jnp.asarray` takes: an array, a number, or a sequence of them, nested or not."""

Key = jaxtyping.Key[jax.Array, ""] | jaxtyping.UInt32[jax.Array, "2"] | jaxtyping.UInt32[jax.Array, "4"] | np.ndarray
"""A JAX key, typed or raw; a raw one may be an array of NumPy's."""
