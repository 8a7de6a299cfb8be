"""Networks as pytrees of parameters: every leaf is a floating-point array, so that a network is an `x0`.

Any other network will do as well: a function of a params pytree, or through [`functional`][] any Equinox module.
"""

from ._convolutional import CNN as CNN, ResNet as ResNet
from ._functions import (
    accuracy as accuracy,
    count as count,
    cross_entropy as cross_entropy,
    functional as functional,
)
from ._mlp import MLP as MLP
from ._transformers import CharTransformer as CharTransformer, VisionTransformer as VisionTransformer
