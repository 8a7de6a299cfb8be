"""jaxsde: optimizers as Optax transforms, and the stochastic differential equations that describe them."""

from . import (
    data as data,
    networks as networks,
    problems as problems,
    reporting as reporting,
    studies as studies,
    theory as theory,
)
from ._citation import citation as citation
from ._version import __version__ as __version__
from .derivation import (
    LinearResponse as LinearResponse,
    derive as derive,
    linearise as linearise,
    relax as relax,
)
from .estimation import (
    Comparison as Comparison,
    Expectations as Expectations,
    NoiseReport as NoiseReport,
    Stationary as Stationary,
    WeakError as WeakError,
    advise as advise,
    batch_noise as batch_noise,
    compare as compare,
    compare_laws as compare_laws,
    convergence_rate as convergence_rate,
    expectations as expectations,
    mixing as mixing,
    multilevel as multilevel,
    noise_path as noise_path,
    noise_report as noise_report,
    stationary as stationary,
    weak_error as weak_error,
)
from .optimizers import (
    SAM as SAM,
    SGD as SGD,
    USAM as USAM,
    Adam as Adam,
    AdamW as AdamW,
    CompressedSGD as CompressedSGD,
    DistributedSignSGD as DistributedSignSGD,
    Lion as Lion,
    Momentum as Momentum,
    Optax as Optax,
    RMSprop as RMSprop,
    RMSpropW as RMSpropW,
    SignSGD as SignSGD,
    Signum as Signum,
    scaling_rule as scaling_rule,
    svag as svag,
)
from .problems import (
    AlphaStable as AlphaStable,
    AsGaussian as AsGaussian,
    EmbeddedSaddle as EmbeddedSaddle,
    Gaussian as Gaussian,
    GaussianDesign as GaussianDesign,
    GaussianStart as GaussianStart,
    Laplace as Laplace,
    LinearRegression as LinearRegression,
    LogisticRegression as LogisticRegression,
    MeanLoss as MeanLoss,
    MiniBatch as MiniBatch,
    OnePass as OnePass,
    Problem as Problem,
    Quadratic as Quadratic,
    StudentT as StudentT,
    Uniform as Uniform,
    one_pass_regression as one_pass_regression,
)
from .processes import (
    SDE as SDE,
    AbstractProcess as AbstractProcess,
    Chain as Chain,
    GaussianIncrements as GaussianIncrements,
    IndexedEuler as IndexedEuler,
    ThreePointIncrements as ThreePointIncrements,
    TwoPointIncrements as TwoPointIncrements,
)
from .simulation import (
    Covariances as Covariances,
    Ensemble as Ensemble,
    Histogram as Histogram,
    Interrupted as Interrupted,
    Jackknife as Jackknife,
    JointHistogram as JointHistogram,
    Moments as Moments,
    Quantiles as Quantiles,
    Samples as Samples,
    Several as Several,
    checkpoints as checkpoints,
    load as load,
    simulate as simulate,
)
from .studies import verify as verify
