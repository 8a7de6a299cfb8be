from .._start import AbstractStart as AbstractStart
from ._amplified import AmplifiedNoise as AmplifiedNoise
from ._as_gaussian import AsGaussian as AsGaussian
from ._gaussian import Gaussian as Gaussian
from ._gaussian_design import GaussianDesign as GaussianDesign, one_pass_regression as one_pass_regression
from ._gaussian_start import GaussianStart as GaussianStart
from ._laws import AlphaStable as AlphaStable, Laplace as Laplace, Uniform as Uniform
from ._losses import (
    EmbeddedSaddle as EmbeddedSaddle,
    LinearRegression as LinearRegression,
    LogisticRegression as LogisticRegression,
    Quadratic as Quadratic,
)
from ._mean_loss import MeanLoss as MeanLoss
from ._minibatch import MiniBatch as MiniBatch
from ._noise import AbstractIndependentNoise as AbstractIndependentNoise, AbstractNoise as AbstractNoise
from ._noise_of import AbstractNoiseOf as AbstractNoiseOf
from ._one_pass import OnePass as OnePass
from ._problem import Problem as Problem
from ._quantile_law import AbstractQuantileLaw as AbstractQuantileLaw
from ._scale_family import AbstractScaleFamily as AbstractScaleFamily
from ._sign_law import (
    AbstractSignLaw as AbstractSignLaw,
    Signs as Signs,
    sign_deviation as sign_deviation,
    sign_law as sign_law,
)
from ._source import AbstractSource as AbstractSource
from ._student import StudentT as StudentT
