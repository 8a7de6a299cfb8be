"""A progress bar for what takes long, on a terminal and with tqdm installed."""

from typing import Any

from ._extras import optional

# Sooner, nobody wonders.
_DELAY_SECONDS = 2.0


class _NoBar:
    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def update(self, amount: int) -> None:
        """Shows nothing."""


def progress_bar(wanted: bool, total: int, unit: str) -> Any:
    """A context whose value has the method `update(amount)`: a bar of `total` units, shown after two seconds where `wanted`."""
    tqdm = optional("tqdm") if wanted else None
    if tqdm is None:
        return _NoBar()
    return tqdm.tqdm(total=total, unit=unit, unit_scale=True, delay=_DELAY_SECONDS, leave=False, disable=None)
