"""What is computed of a network and an example."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .._tree import size


def cross_entropy(network: Callable[[Array], Array], example: tuple[Array, Array]) -> Float[Array, ""]:
    """The cross-entropy of a network on one example `(features, label)`, a loss for [`Problem.from_data`][].

    Where there is a label for every position, as in text, the mean over positions.

    >>> round(cross_entropy(lambda x: x, (jnp.zeros(2), jnp.array(1))).item(), 4)
    0.6931
    """
    features, label = example
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(network(features), label))


def accuracy(network: Callable[[Array], Array], examples: tuple[Array, Array]) -> Float[Array, ""]:
    """The share of labels that a network predicts of examples `(features, labels)`, with a leading axis.

    >>> accuracy(lambda x: x, (jnp.eye(2), jnp.array([0, 0]))).item()
    0.5
    """
    features, labels = examples
    return jnp.mean(jnp.argmax(jax.vmap(network)(features), axis=-1) == labels)


def count(network: PyTree) -> int:
    """How many parameters a network has.

    >>> count({"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)})
    8
    """
    return size(eqx.filter(network, eqx.is_inexact_array))


def functional(
    example_loss: Callable[[Any, Any], Float[Array, ""]], module: PyTree
) -> tuple[Callable[[PyTree, Any], Float[Array, ""]], PyTree]:
    """A loss of any Equinox module as one of its parameters alone.

    **Arguments:**

    - `example_loss`: `(module, example) -> scalar`, such as [`cross_entropy`][].
    - `module`: with leaves of any kind: activation functions, flags, integers.

    **Returns:** `(loss, params)`: a function `(params, example) -> scalar` for [`Problem.from_data`][], and the module's
    floating-point arrays as the parameters to start from.

    **Raises:** `ValueError` for a module without any.

    >>> import equinox as eqx
    >>> module = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    >>> loss, x0 = functional(cross_entropy, module)
    >>> loss(x0, (jnp.ones(3), jnp.array(0))).shape
    ()
    """
    params, rest = eqx.partition(module, eqx.is_inexact_array)
    if not jax.tree.leaves(params):
        raise ValueError(f"module must have floating-point arrays, its parameters, got {module!r}")
    return eqx.Partial(_of_params, example_loss, rest), params


def _of_params(example_loss: Callable[[Any, Any], Float[Array, ""]], rest: PyTree, params: PyTree, example: Any) -> Array:
    return example_loss(eqx.combine(params, rest), example)
