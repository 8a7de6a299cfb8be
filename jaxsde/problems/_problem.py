"""A problem: a loss and the law of its stochastic gradients."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._traced import AbstractFunctionHolder, shape_of, traced, with_traced
from .._tree import as_params
from ._mean_loss import MeanLoss
from ._minibatch import MiniBatch
from ._noise import AbstractNoise
from ._numbers import check_keys
from ._one_pass import OnePass


class Problem(AbstractFunctionHolder):
    """What an optimizer is run on: a loss $f$ and the noise of its gradient.

    **Arguments:**

    - `loss`: any callable from a pytree of parameters to a scalar.
    - `noise`: the law of the stochastic gradient minus the gradient, e.g. [`Gaussian`][], or one of your own: see
      `jaxsde.problems.AbstractNoise`.

    Products of matrices in your functions and in `jaxsde.networks` have JAX's default precision: on GPUs and TPUs float32
    factors are rounded to 11 or 8 bits, unless you set `jax.default_matmul_precision("highest")`. The package's own formulas
    are computed to all digits.

    >>> from jaxsde import Gaussian, Quadratic
    >>> Problem(Quadratic([1.0, 2.0]), Gaussian(0.5)).gradient(jax.numpy.ones(2)).tolist()
    [1.0, 2.0]
    """

    loss: Callable[[PyTree], Float[Array, ""]]
    noise: AbstractNoise

    def __check_init__(self):
        if not callable(self.loss):
            raise TypeError(f"loss must be callable, params pytree -> scalar, got {self.loss!r}")
        if not isinstance(self.noise, AbstractNoise):
            raise TypeError(
                f"noise must be a noise law such as jaxsde.Gaussian(0.5), got {self.noise!r}{_noise_hint(self.noise)}"
            )

    @classmethod
    def from_data(
        cls,
        example_loss: Callable[[PyTree, PyTree], Float[Array, ""]],
        data: PyTree,
        *,
        batch_size: int,
        shuffle: bool = False,
        covariance_examples: int | None = None,
        sign_batches: int | None = None,
    ) -> "Problem":
        """The mean of a loss over data, with gradients over mini-batches drawn from these.

        **Arguments:**

        - `example_loss`: `(params, example) -> scalar`.
        - `data`: a pytree of arrays with a leading axis of examples, as many in all of them.
        - `batch_size`: how many examples a stochastic gradient is the mean over.
        - `shuffle`, `covariance_examples`, `sign_batches`: how batches are drawn (by default with replacement), and over
          what the SDEs' covariance and SignSGD's signs are computed; see [`MiniBatch`][].

        **Returns:** a problem with the loss [`MeanLoss`][] and the noise [`MiniBatch`][].

        **Raises:** `TypeError` or `ValueError` for data that are no such arrays, or a batch size below 1.

        >>> problem = Problem.from_data(lambda w, example: (w @ example) ** 2, jax.numpy.eye(2), batch_size=4)
        >>> problem.loss(jax.numpy.ones(2)).item()
        1.0
        """
        loss = MeanLoss(example_loss, data)
        noise = MiniBatch(loss, batch_size, shuffle=shuffle, covariance_examples=covariance_examples, sign_batches=sign_batches)
        return cls(loss, noise)

    @classmethod
    def one_pass(
        cls,
        example_loss: Callable[[PyTree, PyTree], Float[Array, ""]],
        sampler: Callable[[PRNGKeyArray], PyTree],
        *,
        loss: Callable[[PyTree], Float[Array, ""]] | None = None,
        batch_size: int = 1,
        covariance_examples: int = 1024,
        sign_batches: int | None = None,
    ) -> "Problem":
        """The mean of a loss over a population, with gradients over fresh examples, each of which is seen once.

        **Arguments:**

        - `example_loss`: `(params, example) -> scalar`.
        - `sampler`: a function of a JAX key to an example.
        - `loss`: the population's, where it is known; by default the mean over the fixed sample of `covariance_examples`
          examples from which the SDEs take their covariance too.
        - `batch_size`, `covariance_examples`, `sign_batches`: see [`OnePass`][].

        **Returns:** a problem with that loss and the noise [`OnePass`][].

        **Raises:** as [`OnePass`][].

        >>> sampler = lambda key: jax.random.normal(key, (2,))
        >>> problem = Problem.one_pass(lambda w, a: 0.5 * (w @ a) ** 2, sampler, loss=lambda w: 0.5 * w @ w)
        >>> problem.loss(jax.numpy.ones(2)).item()
        1.0
        """
        more: dict[str, Any] = dict(batch_size=batch_size, covariance_examples=covariance_examples, sign_batches=sign_batches)
        noise = OnePass(example_loss, sampler, **more)
        return cls(noise.reference.loss if loss is None else loss, noise)

    def gradient(self, params: PyTree) -> PyTree:
        """Computes the gradient of the loss."""
        return jax.grad(self.loss)(params)

    def stochastic_gradient(self, params: PyTree, key: Any) -> PyTree:
        """Draws a stochastic gradient, with a JAX key or with what the noise's source returns for a step."""
        return self.noise.stochastic_gradient(self.loss, params, key)

    def traced(self, params: PyTree) -> "Problem":
        """The problem with a user's loss traced."""
        return Problem(traced(self.loss, params), with_traced(self.noise, params))

    def validate(self, x0: Any) -> Any:
        """`x0` as parameters of this problem; raises `ValueError` or `TypeError` where it does not fit, or where the loss
        has no value or no gradient there."""
        check_keys("x0", x0)
        x0 = as_params(x0)
        try:
            shape_of(_gradient, traced(self.loss, x0), x0)
        except Exception as error:  # whatever goes wrong in a user's function
            raise self._complaint(x0, error) from error
        self.noise.validate(x0)
        return x0

    def _complaint(self, x0: PyTree, error: Exception) -> Exception:
        """Makes the error to raise for a loss whose gradient raised `error`."""
        shapes = jax.tree.map(lambda leaf: leaf.shape, x0)
        try:
            value = shape_of(self.loss, x0)
        except Exception as error:
            kind, said = type(error).__name__, str(error)
            if _is_list_of_numbers(x0):
                said = f"{said.splitlines()[0]}. {_OF_A_LIST}"
            elif isinstance(error, _NEEDS_NUMBERS):
                said = f"{said.splitlines()[0]} {_IN_JAX}"
            return ValueError(f"the loss cannot be evaluated at x0 with shapes {shapes}: {kind}: {said}")
        if getattr(value, "shape", None) != ():
            return ValueError(f"the loss must return a scalar, got {_returned(value)}")
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return TypeError(f"the loss must return a real floating-point number, got dtype {value.dtype}: it has no gradient")
        return ValueError(f"the loss has a value, but no gradient that JAX could take, at x0 with shapes {shapes}: {error}")


# What JAX raises where a function asks for the numbers of an array that is being traced.
_NEEDS_NUMBERS = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
_OF_A_LIST = "A list of numbers is a pytree of scalars; for a vector pass jax.numpy.array(...)"
_IN_JAX = "(write the loss with jax.numpy in place of numpy, and without float(), int() or an if on the parameters)"


def _noise_hint(noise: Any) -> str:
    if isinstance(noise, type) and issubclass(noise, AbstractNoise):
        return f": this is the class; make a law of it, {noise.__name__}(...)"
    own = "derive a law of your own from jaxsde.problems.AbstractNoise, or AbstractIndependentNoise"
    return f": {own}" if callable(noise) else ""


def _is_list_of_numbers(x0: PyTree) -> bool:
    return isinstance(x0, list | tuple) and all(eqx.is_array(leaf) and leaf.shape == () for leaf in x0)


def _returned(value: Any) -> str:
    """What a loss returned in place of a scalar, and what to do."""
    if isinstance(value, jax.ShapeDtypeStruct):
        hint = "take its mean or sum; a loss for each example belongs in Problem.from_data"
        return f"an array of shape {value.shape}: {hint}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}: return the loss alone"
    return str(value)


def _gradient(loss: Callable[[PyTree], Array], params: PyTree) -> PyTree:
    return jax.grad(loss)(params)
