"""The claims about SDEs and optimizers as experiments: each a table, a picture and its data."""

from ._experiment import Experiment as Experiment, Scale as Scale, Study as Study
from ._panels import Curve as Curve, Panel as Panel
from ._reproduce import EXPERIMENTS as EXPERIMENTS, reproduce as reproduce
