"""A law of starting parameters whose mean and covariance are known."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


class AbstractStart(eqx.Module):
    """A law of starting parameters, for `x0`, that says its mean and covariance: control variates then know the start's share
    of the noise, and take it out.

    A law is a function of a JAX key, and has `mean` and `covariance()`.

    >>> import jax.numpy as jnp
    >>> class OnACircle(AbstractStart):
    ...     mean: Array
    ...     def __call__(self, key):
    ...         angle = 2 * jnp.pi * jax.random.uniform(key)
    ...         return self.mean + jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    ...     def covariance(self):
    ...         return jnp.eye(2) / 2
    >>> OnACircle(jnp.zeros(2))(jax.random.key(0)).shape
    (2,)
    """

    mean: eqx.AbstractVar[PyTree]

    @abc.abstractmethod
    def __call__(self, key: PRNGKeyArray) -> PyTree:
        """Draws the parameters that a seed starts at."""

    @abc.abstractmethod
    def covariance(self) -> Float[Array, "d d"]:
        """Computes the covariance matrix over the raveled coordinates."""
