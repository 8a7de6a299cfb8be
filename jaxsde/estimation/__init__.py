"""Estimates from simulations: with standard errors, and against the theory."""

from ._advice import Advice as Advice, Scaling as Scaling, advise as advise
from ._compare import (
    Comparison as Comparison,
    Curves as Curves,
    Estimate as Estimate,
    Row as Row,
    Side as Side,
    compare as compare,
)
from ._control import Expectation as Expectation, Expectations as Expectations, expectations as expectations
from ._diagnostics import burn_in as burn_in, effective_sample_size as effective_sample_size, r_hat as r_hat
from ._distances import (
    LawComparison as LawComparison,
    compare_laws as compare_laws,
    energy as energy,
    sliced_wasserstein as sliced_wasserstein,
    wasserstein as wasserstein,
)
from ._law import BinnedLaw as BinnedLaw, Distance as Distance
from ._mixing import Approach as Approach, Mixing as Mixing, mixing as mixing
from ._multilevel import Level as Level, Limit as Limit, Multilevel as Multilevel, multilevel as multilevel
from ._noise_path import NoisePath as NoisePath, batch_noise as batch_noise, noise_path as noise_path
from ._noise_report import LayerNoise as LayerNoise, NoiseReport as NoiseReport, noise_report as noise_report
from ._rates import ConvergenceRate as ConvergenceRate, convergence_rate as convergence_rate, phase_rates as phase_rates
from ._stationary import (
    Stationary as Stationary,
    extrapolate_law as extrapolate_law,
    stationary as stationary,
)
from ._statistics import fit_slope as fit_slope, slope_weights as slope_weights
from ._time_averages import StationaryErrors as StationaryErrors
from ._weak_error import (
    FunctionError as FunctionError,
    Order as Order,
    WeakError as WeakError,
    fit_order as fit_order,
    weak_error as weak_error,
)
