"""One training run, for what is measured after it."""

import jax
from jaxtyping import PRNGKeyArray, PyTree

from ..processes import Chain
from ..simulation import Samples, simulate


def trained(chain: Chain, params: PyTree, steps: int, key: PRNGKeyArray, *, progress: bool = False) -> PyTree:
    """The parameters after `steps` of a chain, of one seed. Raises `ValueError` where it diverges."""
    run = simulate(chain, params, steps=steps, every=steps, seeds=1, key=key, reduce=Samples(), progress=progress)
    if run.diverged[-1]:
        raise ValueError(f"training diverged within {steps} steps: there is no noise to measure")
    return jax.tree.map(lambda leaf: leaf[-1, 0], run["x"].values)
