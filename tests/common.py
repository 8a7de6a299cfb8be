"""What several tests share: the optimizers of the registry."""

from jaxsde._registry import make_optimizers
from jaxsde.theory import has_theory

# One of each, for a gradient noise of standard deviation 2.
BY_NAME = make_optimizers(0.01, variance=4.0)
WITH_SDE = [opt for opt in BY_NAME.values() if opt.models]
WITH_THEORY = [opt for opt in WITH_SDE if has_theory(opt)]
