"""The commands of the command line: their arguments, and what they run."""

from ._advise import Advise as Advise, run_advise as run_advise
from ._compare import Compare as Compare, run_compare as run_compare
from ._reproduce import Reproduce as Reproduce, run_reproduce as run_reproduce
from ._stationary import Stationary as Stationary, run_stationary as run_stationary
from ._verify import Verify as Verify, run_verify as run_verify
from ._weak_error import WeakError as WeakError, run_weak_error as run_weak_error
