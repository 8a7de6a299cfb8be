"""Claims with evidence: statements of the theory, which `verify` judges, and experiments, which `reproduce` shows."""

from ._experiment import Experiment as Experiment, Scale as Scale, Study as Study
from ._panels import Curve as Curve, Panel as Panel
from ._reproduce import EXPERIMENTS as EXPERIMENTS, reproduce as reproduce
from ._statement import Finding as Finding, Statement as Statement, Verdict as Verdict
from ._sweeps import (
    Series as Series,
    Sweep as Sweep,
    decays as decays,
    losses as losses,
    rates as rates,
    sweep_study as sweep_study,
)
from ._training import trained as trained
from ._verify import QUICK as QUICK, Outcome as Outcome, Verification as Verification, groups as groups, verify as verify
