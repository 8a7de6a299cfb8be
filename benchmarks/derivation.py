"""What a derived SDE costs beside the written one: a step, and the first call."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsde as js

from ._race import Contestant, race
from ._report import Claim, Report
from ._setting import Setting

_RATE, _SUBSTEPS = 0.01, 4
_PAIRS: dict[str, tuple[Any, Any, float, float]] = {
    "SignSGD": (js.SignSGD(_RATE), js.Optax(optax.sign_sgd, _RATE), 4, 0.3),
    "AdamW": (js.AdamW(_RATE), js.Optax(optax.adamw, _RATE, weight_decay=1e-4), 15, 1.0),
}
"""The written optimizer, the factory's, the most that a derived step may cost, and what a step costs about."""
_FIRST_CALL = 5


def run(setting: Setting) -> list[Report]:
    return [_report(setting, name) for name in _PAIRS]


def _report(setting: Setting, name: str) -> Report:
    written, factory, most, price = _PAIRS[name]
    problem = setting.problem
    firsts: dict[str, float] = {}
    contestants = []
    for label, sde in (
        ("written", lambda: written.sde(problem)),
        ("derived", lambda: factory.sde(problem)),
        ("derived, order 1", lambda: factory.sde(problem, model="derived-1")),
    ):
        begun = time.perf_counter()
        contestant = _simulated(setting, label, sde(), price)
        contestant.run(contestant.steps)
        firsts[label] = time.perf_counter() - begun
        contestants.append(contestant)
    result = race(contestants, setting.unit * _SUBSTEPS, setting.rounds)
    rows = [
        (c.name, f"{1e9 * result.median(c.name):.2f}", f"{result.ratio(c.name, 'written'):.1f}", f"{firsts[c.name]:.1f}")
        for c in contestants
    ]
    claims = [
        Claim(f"derived SDE of {name} / written", result.ratio("derived", "written"), "at most", most),
        Claim(f"first call of the derived SDE of {name}, s", firsts["derived"], "at most", _FIRST_CALL),
    ]
    return Report(
        f"derived SDEs, {name}", str(setting), ("", "ns per coordinate and step", "relative", "first call, s"), rows, claims
    )


def _simulated(setting: Setting, label: str, sde: Any, price: float) -> Contestant:
    start, key = jnp.asarray(setting.start), jax.random.key(0)

    def simulate(steps: int) -> tuple[np.ndarray, np.ndarray]:
        run = js.simulate(
            sde, start, steps=steps, seeds=setting.seeds, key=key, substeps=_SUBSTEPS, observe={"x": _itself}, progress=False
        )["x"]
        return np.asarray(run.mean)[-1], np.asarray(run.variance)[-1]

    return Contestant(label, simulate, setting.steps(price * _SUBSTEPS))


def _itself(x: Any) -> Any:
    return x
