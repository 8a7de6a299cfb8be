from ._chain import (
    Chain as Chain,
    ChainState as ChainState,
    call_update as call_update,
    with_own_keys as with_own_keys,
)
from ._coupled import Coupled as Coupled, CoupledPosition as CoupledPosition
from ._euler import IndexedEuler as IndexedEuler, over_step as over_step
from ._increments import (
    AbstractIncrements as AbstractIncrements,
    GaussianIncrements as GaussianIncrements,
    ThreePointIncrements as ThreePointIncrements,
    TwoPointIncrements as TwoPointIncrements,
)
from ._linear_noise import (
    LinearNoiseApproximation as LinearNoiseApproximation,
    LinearNoiseLaw as LinearNoiseLaw,
    StartLaw as StartLaw,
)
from ._paired import Paired as Paired, PairedPosition as PairedPosition
from ._process import (
    AbstractDrivenProcess as AbstractDrivenProcess,
    AbstractProcess as AbstractProcess,
    Instant as Instant,
)
from ._sde import (
    SDE as SDE,
    DiffusionTerm as DiffusionTerm,
    DiscretisedSDE as DiscretisedSDE,
    SDETerm as SDETerm,
)
from ._traced_transform import traced_transform as traced_transform
from ._two_levels import TwoLevels as TwoLevels, TwoLevelsPosition as TwoLevelsPosition
