"""Closed forms: what theory says of an optimizer on a problem, without simulation."""

from ._bounds import LossBound as LossBound, loss_bound as loss_bound
from ._moments import Law as Law, moments as moments, stationary as stationary
