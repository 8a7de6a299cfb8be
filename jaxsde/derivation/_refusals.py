"""Why an SDE cannot be derived, in words that say what to do instead."""


class NotDerivable(ValueError):
    """A transform whose SDE cannot be derived. The message says why, and what can be done instead."""


MIXES = (
    "the transform mixes coordinates (an update depends on the gradient of other coordinates, as with norms, factored moments "
    "and matrix roots), so that its moments are no one-dimensional means: use jaxsde.relax, which needs none"
)
DRAWS = "the transform draws noise of its own, over which no mean is taken here: use jaxsde.relax, which draws it"
PERIODIC = (
    "the transform does something else at some steps than at others (it accumulates gradients or synchronises weights "
    "periodically), which no coefficients of an SDE follow: give the problem a larger batch, and derive the transform inside"
)
MULTIPLIES = (
    "the transform multiplies its step sizes by fixed factors, so that they move by as much as their own size at each step, "
    "however small the learning rate: there is no diffusion limit"
)
