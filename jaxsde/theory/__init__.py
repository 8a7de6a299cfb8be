"""Closed forms and exact references: what theory says of an optimizer on a problem, without simulation."""

from ._bounds import LossBound as LossBound, loss_bound as loss_bound
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
from ._discrete import discrete_moments as discrete_moments, discrete_stationary as discrete_stationary
from ._linear import LinearRecursion as LinearRecursion, LinearSystem as LinearSystem
from ._moments import Law as Law, moments as moments, stationary as stationary
from ._references import Density as Density, LatticeLaw as LatticeLaw, birth_death as birth_death, density as density
