from ._anatomy import Anatomy as Anatomy, anatomy_of as anatomy_of, check_update as check_update
from ._derive import derive as derive, derived_sde as derived_sde
from ._linearise import LinearResponse as LinearResponse, linearise as linearise
from ._refusals import NotDerivable as NotDerivable
from ._relax import Relaxed as Relaxed, relax as relax
from ._rules import SMOOTH as SMOOTH
from ._update import CLOCK as CLOCK, POSITIVE as POSITIVE, SIGNED as SIGNED, DerivedState as DerivedState
