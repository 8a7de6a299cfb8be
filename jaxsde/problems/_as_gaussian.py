"""Gaussian noise with the covariance of another noise."""

from jaxtyping import PRNGKeyArray, PyTree

from .. import _checks, _threefry
from ._noise import AbstractNoise
from ._noise_of import AbstractNoiseOf


class AsGaussian(AbstractNoiseOf):
    """Gaussian noise with the covariance $\\Sigma(x)$ of another noise, at the current parameters.

    The SDEs of SGD, RMSprop and Adam know of a noise no more than its covariance. The optimizer on this noise stands between
    them and the optimizer on the noise itself: it tells whether an SDE is off for the noise's law or for the steps' length.

    **Arguments:** `noise`: a law with a covariance, such as a [`MiniBatch`][].

    **Raises:** `TypeError` for what is no noise; `ValueError` for noise without a covariance.

    >>> from jaxsde import Uniform
    >>> AsGaussian(Uniform(3.0)).variance(jax.numpy.zeros(2)).tolist()
    [3.0, 3.0]
    """

    noise: AbstractNoise

    def __init__(self, noise: AbstractNoise):
        _checks.instance("noise", noise, AbstractNoise, "a noise law such as problem.noise")
        if not noise.has_variance:
            raise ValueError(f"{type(noise).__name__} noise has no covariance here, so no Gaussian noise has the same")
        self.noise = noise

    def sample(self, params: PyTree, key: PRNGKeyArray) -> PyTree:
        increment = _threefry.normals(_threefry.key_words(key), 0, self.increments_like(params))
        return self.sqrt_covariance(params)(increment)
