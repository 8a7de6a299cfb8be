"""The statements of the theory. Each module registers its own when it is imported."""

from . import _adaptive, _malladi, _phases, _scaling, _schedules, _sgd, _sign_sgd  # noqa: F401
