"""Real data, as arrays: what an installed package, the machine or a folder holds. Nothing is downloaded."""

from ._dataset import Dataset as Dataset, Split as Split
from ._load import NAMES as NAMES, load as load
