"""The same colour for the same thing in all pictures."""

OPTIMIZER, SDE = "C0", "C1"

COLORS = {"optimizer": OPTIMIZER, "SDE": SDE}
