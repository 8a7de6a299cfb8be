"""JAX's usual rules for arrays of different dtypes and ranks, where Optax's code needs them."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
    """Within, JAX promotes dtypes and ranks as it does by default, whatever the user has set.

    Optax takes a float to the power of a step, and divides steps by numbers: under strict promotion its transforms and
    schedules raise. The package's own code needs no such rules.

    >>> with jax.numpy_dtype_promotion("strict"), usual_promotion():
    ...     (jnp.int32(2) * jnp.float32(1.5)).item()
    3.0
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
