from ._checkpoint import checkpoints as checkpoints
from ._ensemble import Ensemble as Ensemble, Interrupted as Interrupted
from ._files import load as load
from ._reducers import (
    AbstractReducer as AbstractReducer,
    Jackknife as Jackknife,
    JackknifeStatistics as JackknifeStatistics,
    Moments as Moments,
    MomentStatistics as MomentStatistics,
    Samples as Samples,
    SampleStatistics as SampleStatistics,
)
from ._simulate import simulate as simulate
