"""Closed forms and exact references: what theory says of an optimizer on a problem, without simulation."""

from ..optimizers import fixed_rate_scaled as fixed_rate_scaled, scaled as scaled, with_batch as with_batch
from . import (  # these register the optimizers' formulas
    _adaptive as _adaptive,
    _momentum as _momentum,
    _sgd as _sgd,
    _sign_sgd as _sign_sgd,
)
from ._bounds import (
    asymptotic_loss as asymptotic_loss,
    loss_bound as loss_bound,
    phase_1_time as phase_1_time,
)
from ._closed_forms import (
    DiagonalLaw as DiagonalLaw,
    lemma_3_7 as lemma_3_7,
    lemma_3_8 as lemma_3_8,
    lemma_c52 as lemma_c52,
    lemma_c57 as lemma_c57,
    rmspropw_transient as rmspropw_transient,
    stationary_loss_adam_l2 as stationary_loss_adam_l2,
    stationary_loss_adamw as stationary_loss_adamw,
    stationary_loss_sgdw as stationary_loss_sgdw,
)
from ._linear import LinearRecursion as LinearRecursion, LinearSystem as LinearSystem
from ._linear_theory import AbstractLinearTheory as AbstractLinearTheory
from ._moments import (
    Law as Law,
    discrete_moments as discrete_moments,
    discrete_stationary as discrete_stationary,
    moments as moments,
    stationary as stationary,
)
from ._phases import (
    PhaseTwoConstants as PhaseTwoConstants,
    phase as phase,
    phase_2_constants as phase_2_constants,
    phase_2_drift_bounds as phase_2_drift_bounds,
)
from ._references import Density as Density, LatticeLaw as LatticeLaw, birth_death as birth_death, density as density
from ._schedules import (
    PowerVerdict as PowerVerdict,
    power_schedule as power_schedule,
    power_verdict as power_verdict,
    schedule_integrals as schedule_integrals,
    schedule_loss_bound as schedule_loss_bound,
    schedule_moments as schedule_moments,
)
from ._setting import Setting as Setting
from ._theory import (
    AbstractScheduledTheory as AbstractScheduledTheory,
    AbstractTheory as AbstractTheory,
    LossBound as LossBound,
    has_theory as has_theory,
    register as register,
)
