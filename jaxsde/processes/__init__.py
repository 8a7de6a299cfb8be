from ._chain import Chain as Chain, ChainState as ChainState
from ._sde import SDE as SDE, DiffusionTerm as DiffusionTerm, Instant as Instant, SDETerm as SDETerm
from ._tangent import Accompanied as Accompanied, Sighting as Sighting, Tangent as Tangent, TangentLaw as TangentLaw
