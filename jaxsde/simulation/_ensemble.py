"""What a simulation returns."""

import pathlib
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, Int


class Ensemble(eqx.Module):
    """Statistics over seeds at recorded times.

    - `ts`: times $t = k \\eta$, shape `(n,)`; `steps`: the optimizer steps $k$, shape `(n,)`, from 0 on.
    - `ensemble[name]`: the statistics of an observable, e.g. `.mean`, `.variance`, `.stderr`, `.count`, each with a
      leading axis of times.
    - `diverged`: shape `(n,)`, how many seeds had a parameter that is not finite at that time. They are left out of all
      moments. A seed with finite parameters where one observable is not finite, as a logarithm of a negative number, is
      left out of the moments of that observable alone: see its `.count`.
    - `seeds`: the number of seeds.
    """

    ts: Float[Array, " n"]
    steps: Int[Array, " n"]
    diverged: Int[Array, " n"]
    seeds: int = eqx.field(static=True)
    statistics: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name not in self.statistics:
            raise KeyError(f"no observable {name!r} was recorded; there are {', '.join(map(repr, self.statistics))}")
        return self.statistics[name]


class Interrupted(KeyboardInterrupt):
    """A simulation was interrupted.

    - `ensemble`: the statistics of the seeds that were complete by then; `None` where there are none.
    - `checkpoint`: the folder where the same call goes on; `None` where there is none.
    - `result`: what a larger piece of work, as [`compare`][], makes of what was complete; `None` where that is nothing.
    """

    def __init__(self, ensemble: Ensemble | None, checkpoint: pathlib.Path | None = None, result: Any = None):
        told = [f"interrupted after {0 if ensemble is None else ensemble.seeds} seeds"]
        if ensemble is not None:
            told.append("their statistics are in .ensemble")
        if checkpoint is not None:
            told.append(f"the state is in {checkpoint}, from where the same call goes on")
        super().__init__("; ".join(told))
        self.ensemble, self.checkpoint, self.result = ensemble, checkpoint, result
