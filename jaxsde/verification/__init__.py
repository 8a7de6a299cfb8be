"""Every statement of the theory, checked against simulation."""

from ._statement import Finding as Finding, Statement as Statement, Verdict as Verdict
from ._sweeps import Series as Series, Sweep as Sweep, decays as decays, losses as losses, rates as rates
from ._verify import QUICK as QUICK, Outcome as Outcome, Verification as Verification, groups as groups, verify as verify
