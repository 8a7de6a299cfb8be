from ._checkpoint import checkpoints as checkpoints
from ._covariances import Covariances as Covariances, CovarianceStatistics as CovarianceStatistics
from ._ensemble import Ensemble as Ensemble, Interrupted as Interrupted
from ._files import load as load
from ._histograms import (
    Histogram as Histogram,
    HistogramStatistics as HistogramStatistics,
    JointHistogram as JointHistogram,
    JointHistogramStatistics as JointHistogramStatistics,
)
from ._jackknife import Jackknife as Jackknife, JackknifeStatistics as JackknifeStatistics
from ._quantiles import Quantiles as Quantiles, QuantileStatistics as QuantileStatistics
from ._reducers import (
    AbstractReducer as AbstractReducer,
    AbstractStatistics as AbstractStatistics,
    AbstractSummary as AbstractSummary,
    Moments as Moments,
    MomentStatistics as MomentStatistics,
    Samples as Samples,
    SampleStatistics as SampleStatistics,
    Several as Several,
)
from ._simulate import simulate as simulate
