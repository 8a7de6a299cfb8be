"""How many programs are compiled."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import jax


@dataclass
class Compiles:
    count: int = 0


_counters: list[Compiles] = []


def _listen(event: str, duration: float, **more: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        for counter in _counters:
            counter.count += 1


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def count_compiles() -> Iterator[Compiles]:
    """Counts the programs that are compiled within."""
    counter = Compiles()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)
