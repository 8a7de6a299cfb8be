"""What a chain's stochastic gradients are drawn from, in blocks of steps: fresh keys, or batches of examples."""

import abc
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray


class AbstractSource(eqx.Module):
    """A source of draws for a chain's steps.

    It draws for `period` steps at a time: block b serves the steps b `period`, ..., (b + 1) `period` - 1.
    """

    @property
    @abc.abstractmethod
    def period(self) -> int:
        """How many steps one block serves."""

    @abc.abstractmethod
    def draw_block(self, key: PRNGKeyArray) -> Any:
        """Draws what one block of steps is served from, with the block's key."""

    @abc.abstractmethod
    def read_step(self, block: Any, place: Int[Array, ""]) -> Any:
        """Reads from a block what `stochastic_gradient` takes at the block's step number `place`, from 0 to `period` - 1."""


class FreshKeys(AbstractSource):
    """A key of its own for every step."""

    @property
    def period(self) -> int:
        return 1

    def draw_block(self, key: PRNGKeyArray) -> Any:
        return key

    def read_step(self, block: Any, place: Int[Array, ""]) -> Any:
        del place
        return block


class Batch(NamedTuple):
    """A batch that has been drawn: the numbers of its examples."""

    examples: Int[Array, " B"]


class AbstractBatches(AbstractSource):
    """Batches of `batch_size` examples out of `count`."""

    count: eqx.AbstractVar[int]
    batch_size: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def share(self) -> float:
        """The covariance of a batch's mean over that of one example."""

    @abc.abstractmethod
    def prob_some(self, share: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The probability that a batch has at least one example out of a share of the data."""

    def draw(self, key: PRNGKeyArray) -> Int[Array, " B"]:
        """Draws one batch."""
        return self.read_step(self.draw_block(key), jnp.asarray(0)).examples


class WithReplacement(AbstractBatches):
    """Batches of independent examples."""

    count: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    @property
    def period(self) -> int:
        return 1

    @property
    def share(self) -> float:
        return 1 / self.batch_size

    def draw_block(self, key: PRNGKeyArray) -> Int[Array, " B"]:
        # The dtype decides what is drawn, and is not to change with `jax_enable_x64`.
        return jax.random.randint(key, (self.batch_size,), 0, self.count, jnp.int32)

    def read_step(self, block: Int[Array, " B"], place: Int[Array, ""]) -> Batch:
        del place
        return Batch(block)

    def prob_some(self, share: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        with np.errstate(divide="ignore"):
            return -np.expm1(self.batch_size * np.log1p(-share))


class Epochs(AbstractBatches):
    """The batches of shuffled epochs; where `batch_size` does not divide `count`, an epoch ends before the last examples."""

    count: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    @property
    def period(self) -> int:
        return self.count // self.batch_size

    @property
    def share(self) -> float:
        return (self.count - self.batch_size) / (max(self.count - 1, 1) * self.batch_size)

    def draw_block(self, key: PRNGKeyArray) -> Int[Array, " N"]:
        return jax.random.permutation(key, self.count)

    def read_step(self, block: Int[Array, " N"], place: Int[Array, ""]) -> Batch:
        return Batch(jax.lax.dynamic_slice(block, (place * self.batch_size,), (self.batch_size,)))

    def prob_some(self, share: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return np.interp(share * self.count, np.arange(self.count + 1), _prob_some_of(self.count, self.batch_size))


@functools.lru_cache(maxsize=8)
def _prob_some_of(count: int, batch_size: int) -> Float[np.ndarray, " n"]:
    """The probability that a batch drawn without replacement has at least one of the first 0, 1, ..., `count` examples."""
    # One example more is the first to be drawn with the probability that none of those before it is in the batch.
    left = count - np.arange(count)
    first = np.minimum(batch_size / left, 1.0)
    none = np.concatenate([[1.0], np.cumprod(1 - first)[:-1]])
    return np.concatenate([[0.0], np.cumsum(none * first)])
