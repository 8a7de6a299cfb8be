"""Optax transforms that a user's function makes, known by what they compute."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import PyTree

from .._promotion import usual_promotion
from .._traced import TracedFunction, is_lasting, traced, with_traced


class _TracedTransform(eqx.Module):
    """Makes the transform with a traced `init` and `update`."""

    start: TracedFunction
    step: TracedFunction

    def __call__(self) -> optax.GradientTransformationExtraArgs:
        def init(params: PyTree) -> Any:
            return self.start(params)

        def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any) -> Any:
            del extra  # the gradient once more, which the traced function has
            return self.step(updates, state, params)

        return optax.GradientTransformationExtraArgs(init, update)


def traced_transform(
    make_transform: Callable[[], optax.GradientTransformation], params: PyTree
) -> Callable[[], optax.GradientTransformation]:
    """`make_transform`, known by what its transform computes for parameters like `params`.

    An optimizer's own method is one whose optimizer's functions are traced. A user's function is traced as a whole, unless
    its transform cannot be: then it is returned as it is.
    """
    make_transform = with_traced(make_transform, params)
    if is_lasting(make_transform):
        return make_transform
    with usual_promotion():
        transform = optax.with_extra_args_support(make_transform())
        state = jax.eval_shape(transform.init, params)
        update = lambda gradient, state, params: transform.update(gradient, state, params, grad=gradient)
        start, step = traced(transform.init, params), traced(update, params, state, params)
    if isinstance(start, TracedFunction) and isinstance(step, TracedFunction):
        return _TracedTransform(start, step)
    return make_transform
