from ._compare import (
    Comparison as Comparison,
    Curves as Curves,
    Estimate as Estimate,
    Row as Row,
    Side as Side,
    compare as compare,
)
