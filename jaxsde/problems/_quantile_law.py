"""Laws that are known by their quantiles, which is what the SDE of any optimizer asks for."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _checks
from .._typing import ArrayLike


class AbstractQuantileLaw(eqx.Module):
    """Noise each of whose coordinates has one symmetric law, times a scale of its own.

    A law gives `unit_quantile` and `scales`.
    """

    @abc.abstractmethod
    def unit_quantile(self, probability: Float[Array, "..."]) -> Float[Array, "..."]:
        """Computes what the law of scale 1 stays below with this probability, strictly between 0 and 1."""

    @abc.abstractmethod
    def scales(self, params: PyTree) -> PyTree:
        """Gives the scale of each coordinate, shaped like `params`."""

    def quantile(self, probability: ArrayLike, params: PyTree) -> PyTree:
        """Computes what the noise of each coordinate stays below with this probability.

        **Arguments:** `probability`: one number strictly between 0 and 1; `params`: the parameters.

        **Returns:** a pytree like `params`, in units of the gradient.

        **Raises:** `ValueError` for a probability out of range.

        >>> import jaxsde as js
        >>> round(js.Laplace(2.0).quantile(0.25, jnp.zeros(1)).item(), 4)
        -1.3863
        """
        _checks.scalar("probability", probability, low=0.0, high=1.0)
        return jax.tree.map(lambda s: s * self.unit_quantile(jnp.asarray(probability, s.dtype)), self.scales(params))
