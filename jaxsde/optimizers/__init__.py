from ._adam import Adam as Adam, AdamState as AdamState, AdamW as AdamW
from ._adjusted import adjusted as adjusted, roles_of as roles_of
from ._base import AbstractOptimizer as AbstractOptimizer, check_optimizer as check_optimizer
from ._distributed import CompressedSGD as CompressedSGD, DistributedSignSGD as DistributedSignSGD
from ._lion import Lion as Lion, LionState as LionState, Signum as Signum
from ._momentum import Momentum as Momentum, MomentumState as MomentumState
from ._optax import Optax as Optax
from ._rmsprop import RMSprop as RMSprop, RMSpropState as RMSpropState, RMSpropW as RMSpropW
from ._roles import Roles as Roles
from ._sam import SAM as SAM, USAM as USAM
from ._scaling import fixed_rate_scaled as fixed_rate_scaled, scaled as scaled, with_batch as with_batch
from ._scaling_rule import ScalingRule as ScalingRule, scaling_rule as scaling_rule
from ._second_order import SquareNoise as SquareNoise
from ._sgd import SGD as SGD
from ._sign_sgd import SignSGD as SignSGD
from ._svag import svag as svag
