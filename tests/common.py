"""What several tests share: the optimizers of the registry, and its first problem."""

import jax
import numpy as np

from jaxsde._registry import make_optimizers, make_problem
from jaxsde.simulation._work import Task
from jaxsde.theory import has_theory

# What a simulation runs on whatever the machine has; without it, on all its devices.
ONE_DEVICE = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("device",))

# A quadratic with Gaussian noise of standard deviation 2, and one of each optimizer for this noise.
PROBLEM = make_problem()[0]
BY_NAME = make_optimizers(0.01, variance=4.0)
WITH_SDE = [opt for opt in BY_NAME.values() if opt.models]
WITH_THEORY = [opt for opt in WITH_SDE if has_theory(opt)]


def interrupt_before_chunk(number, monkeypatch):
    """Interrupts a simulation on one device where it would begin the chunk of this number."""
    begin = Task.begin

    def interrupted(task, first):
        if first == number:
            raise KeyboardInterrupt
        return begin(task, first)

    monkeypatch.setattr(Task, "begin", interrupted)


class Compilations:
    """Counts compiled programs, by JAX's own events."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def _listen(self, event, duration, **_):
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *_):
        jax.monitoring.clear_event_listeners()
