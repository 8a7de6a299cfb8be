"""The noise of gradients over fresh examples: each of them is seen once."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .. import _checks, _random
from .._traced import AbstractFunctionHolder, traced, with_traced
from ._mean_loss import MeanLoss
from ._minibatch import MiniBatch
from ._noise import AbstractNoise
from ._sign_law import AbstractSignLaw, Signs

_MOST = 2**31 - 1


class OnePass(AbstractNoise, AbstractSignLaw, AbstractFunctionHolder):
    """The noise of a gradient over examples that are drawn anew for each step, from a population without end.

    An optimizer's chain takes the mean over `batch_size` fresh examples. The SDEs take covariance and signs from a fixed sample
    of the population, `reference`, as [`MiniBatch`][] does from data: off by chance of the order of one over the root of its
    size. [`one_pass_regression`][] has them in closed form.

    **Arguments:**

    - `example_loss`: $\\ell$, `(params, example) -> scalar`.
    - `sampler`: a function of a JAX key to an example, a pytree of arrays.
    - `batch_size`: how many examples a stochastic gradient is the mean over.
    - `covariance_examples`: how many examples make up the fixed sample, drawn with a key that is always the same.
    - `sign_batches`: for SignSGD's SDE, as in [`MiniBatch`][]: how many batches of the sample give the signs.

    **Raises:** `TypeError` for what is no function, numbers that are not whole, or examples that are no arrays of numbers;
    `ValueError` for numbers that are too small, and for a sampler that fails.

    >>> noise = OnePass(lambda w, a: 0.5 * (w @ a) ** 2, lambda key: jax.random.normal(key, (2,)), batch_size=4)
    >>> noise.stochastic_gradient(None, jnp.ones(2), jax.random.key(0)).shape
    (2,)
    """

    sampler: Callable[[PRNGKeyArray], PyTree]
    reference: MiniBatch
    """Batches out of the fixed sample, whose mean loss is an estimate of the population's."""

    def __init__(
        self,
        example_loss: Callable[[PyTree, PyTree], Float[Array, ""]],
        sampler: Callable[[PRNGKeyArray], PyTree],
        *,
        batch_size: int = 1,
        covariance_examples: int = 1024,
        sign_batches: int | None = None,
    ):
        if not callable(sampler):
            raise TypeError(f"sampler must be a function of a JAX key to an example, got {sampler!r}")
        self.sampler = sampler
        count = _checks.count("covariance_examples", covariance_examples, least=2, most=_MOST)
        try:
            sample = jax.vmap(sampler)(jax.random.split(_random.stream_key(jax.random.key(0)), count))
        except Exception as error:  # whatever goes wrong in a user's function
            raise ValueError(
                f"sampler, a function of a JAX key to an example, raised {type(error).__name__}: {error}"
            ) from error
        self.reference = MiniBatch(MeanLoss(example_loss, sample), batch_size, sign_batches=sign_batches)

    @property
    def batch_size(self) -> int:
        """B, the number of examples that a stochastic gradient is the mean over."""
        return self.reference.batches.batch_size

    @property
    def independent_signs(self) -> bool:
        return self.reference.independent_signs

    @property
    def has_exact_moments(self) -> bool:
        return False

    def traced(self, params: PyTree) -> "OnePass":
        """The noise with a user's sampler and loss of an example traced."""
        key = _random.stream_key(jax.random.key(0))
        parts = traced(self.sampler, key), with_traced(self.reference, params)
        return eqx.tree_at(lambda s: (s.sampler, s.reference), self, parts)

    def sample(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        """Draws the stochastic gradient minus that of the fixed sample, which stands for the population's."""
        loss = self.reference.loss
        return jax.tree.map(jnp.subtract, self.stochastic_gradient(loss, params, key), jax.grad(loss)(params))

    def stochastic_gradient(self, loss: Callable[[PyTree], Array] | None, params: PyTree, key: PRNGKeyArray) -> PyTree:
        del loss
        drawn = jax.vmap(self.sampler)(jax.random.split(_random.stream_key(key), self.batch_size))
        # In the precision of the fixed sample, which a run converts to that of the parameters.
        examples = jax.tree.map(lambda new, like: new.astype(like.dtype), drawn, self.reference.loss.data)
        return jax.grad(lambda p: jnp.mean(self.reference.loss.each(p, examples)))(params)

    def increments_like(self, params: PyTree) -> PyTree:
        return self.reference.increments_like(params)

    def variance(self, params: PyTree) -> PyTree:
        return self.reference.variance(params)

    def sqrt_covariance(self, params: PyTree) -> Callable[[PyTree], PyTree]:
        return self.reference.sqrt_covariance(params)

    def covariance(self, params: PyTree) -> Float[Array, "d d"]:
        return self.reference.covariance(params)

    def mean_sign(self, gradient: PyTree, params: PyTree) -> PyTree:
        return self.reference.mean_sign(gradient, params)

    def prob_nonzero(self, gradient: PyTree, params: PyTree) -> PyTree:
        return self.reference.prob_nonzero(gradient, params)

    def sign_moments(self, gradient: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        return self.reference.sign_moments(gradient, params)

    def prob_negative(self, gradient: PyTree, params: PyTree) -> PyTree:
        return self.reference.prob_negative(gradient, params)

    def sign_covariance(self, gradient: PyTree, params: PyTree) -> Float[Array, "d d"]:
        return self.reference.sign_covariance(gradient, params)

    def signs(self, gradient: PyTree, params: PyTree) -> Signs:
        return self.reference.signs(gradient, params)

    def sign_increments_like(self, params: PyTree) -> PyTree:
        return self.reference.sign_increments_like(params)
