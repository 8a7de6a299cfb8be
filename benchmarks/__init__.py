"""Benchmarks: every claim about speed is a ratio, measured side by side in one run. `python -m benchmarks --help`."""
