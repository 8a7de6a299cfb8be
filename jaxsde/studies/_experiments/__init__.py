"""The experiments: each a claim shown by a table and a picture."""

from ._advice import advice_study as advice_study
from ._minibatches import (
    covariance_study as covariance_study,
    minibatch_study as minibatch_study,
    scaling_study as scaling_study,
    svag_study as svag_study,
)
from ._network_batches import batches_study as batches_study
from ._networks import networks_study as networks_study
from ._noise_scales import decay_study as decay_study, losses_study as losses_study, rates_study as rates_study
from ._quadratics import (
    phases_study as phases_study,
    schedules_study as schedules_study,
    stationary_study as stationary_study,
    tails_study as tails_study,
)
