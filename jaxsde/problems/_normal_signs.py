"""The signs of normal variables."""

import jax
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import PyTree

from .._special import erf
from ._scale import safe_divide
from ._sign_law import prob_nonzero


def mean_sign(gradient: PyTree, std: PyTree) -> PyTree:
    """Computes the mean of sign(g + Z), coordinate by coordinate, with Z normal of this standard deviation."""
    return jax.tree.map(lambda g, s: erf(safe_divide(g, s * np.sqrt(2).astype(g.dtype))), gradient, std)


def prob_negative(gradient: PyTree, std: PyTree) -> PyTree:
    """Computes P(g + Z < 0), to full relative precision."""
    return jax.tree.map(lambda g, s: prob_nonzero(g, s) * ndtr(-safe_divide(g, s)), gradient, std)
