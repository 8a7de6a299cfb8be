from ._datasets import Dataset as Dataset, load as load
from ._losses import (
    Classification as Classification,
    EmbeddedSaddle as EmbeddedSaddle,
    LinearRegression as LinearRegression,
    LogisticRegression as LogisticRegression,
    Quadratic as Quadratic,
)
from ._networks import mlp as mlp
from ._noise import AbstractNoise as AbstractNoise, Gaussian as Gaussian, StudentT as StudentT
from ._problem import Problem as Problem
