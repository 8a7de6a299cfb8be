"""Types that several modules share."""

from collections.abc import Sequence
from typing import Any

import jaxtyping

ArrayLike = jaxtyping.ArrayLike | Sequence[Any]
"""What `jnp.asarray` takes: an array, a number, or a sequence of them, nested or not."""
