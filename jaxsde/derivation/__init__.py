from ._anatomy import NotDerivable as NotDerivable
from ._derive import derive as derive, derived_sde as derived_sde
from ._linearise import LinearResponse as LinearResponse, linearise as linearise
from ._relax import Relaxed as Relaxed, relax as relax
from ._update import DerivedState as DerivedState
