"""The signs of normal variables."""

import jax
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import PyTree

from .._special import erf
from ._noise import nonzero, over


def mean_sign(gradient: PyTree, std: PyTree) -> PyTree:
    """The mean of sign(g + Z), coordinate by coordinate, with Z normal of this standard deviation."""
    return jax.tree.map(lambda g, s: erf(over(g, s * np.sqrt(2).astype(g.dtype))), gradient, std)


def prob_negative(gradient: PyTree, std: PyTree) -> PyTree:
    """P(g + Z < 0), to full relative precision."""
    return jax.tree.map(lambda g, s: nonzero(g, s) * ndtr(-over(g, s)), gradient, std)
