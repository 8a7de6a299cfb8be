from ._chain import Chain as Chain, ChainState as ChainState
from ._sde import SDE as SDE, DiffusionTerm as DiffusionTerm, SDETerm as SDETerm
