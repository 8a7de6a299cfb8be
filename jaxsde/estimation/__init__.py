from ._compare import Comparison as Comparison, compare as compare
