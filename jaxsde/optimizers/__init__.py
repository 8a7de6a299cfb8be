from ._adam import Adam as Adam, AdamState as AdamState, AdamW as AdamW
from ._base import AbstractOptimizer as AbstractOptimizer
from ._rmsprop import RMSprop as RMSprop, RMSpropState as RMSpropState, RMSpropW as RMSpropW
from ._roles import adjusted as adjusted, known as known
from ._sgd import SGD as SGD
from ._sign_sgd import SignSGD as SignSGD
from ._svag import svag as svag
