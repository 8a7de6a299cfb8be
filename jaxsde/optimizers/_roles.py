"""What hyperparameters do: how an optimizer's change with the length of a step and the size of the gradient."""

from typing import NamedTuple


class Roles(NamedTuple):
    """What an optimizer declares of its hyperparameters beside the learning rate, by name, and of its steps.

    The scaling rules, SVAG and weak errors change hyperparameters by it. It speaks for the class that declares it alone: a
    subclass may do anything with what it inherits, and declares its own or is refused.
    """

    normalised: bool = False
    """Whether the length of a step does not depend on the size of the gradient, as with signs or a division by its root mean
    square."""
    averages: tuple[str, ...] = ()
    """The decay constants b of running averages, which last 1 / (1 - b) steps."""
    gradients: tuple[str, ...] = ()
    """Those with the units of the gradient."""
    squares: tuple[str, ...] = ()
    """Those with the units of its square, such as the start of an average of squares."""
    decays: tuple[str, ...] = ()
    """Those by which parameters decay, times the learning rate."""
    svag: bool = False
    """Whether the small steps of [`svag`][] tend to the optimizer's SDE."""
