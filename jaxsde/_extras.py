"""Optional packages: a missing one gives a one-line hint."""

import importlib
from typing import Any


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Imports `module`; where it is missing, the error says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        hint = f"{purpose} needs the package {package!r}: pip install 'jaxsde[{extra}]'"
        raise ImportError(hint, name=package) from error


def optional(module: str) -> Any:
    """`module`, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
