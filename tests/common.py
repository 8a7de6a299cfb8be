"""What several tests share."""

import jaxsde as js

# One of each, for a gradient noise of standard deviation 2.
OPTIMIZERS = [
    js.SGD(0.01),
    js.SignSGD(0.01),
    js.RMSprop(0.01, 0.99, initial_scale=4.0),
    js.RMSpropW(0.01, 0.99, initial_scale=4.0, weight_decay=0.1),
    js.Adam(0.01, 0.9, 0.99),
    js.AdamW(0.01, 0.9, 0.99, weight_decay=0.1),
]
