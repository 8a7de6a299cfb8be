"""What a simulation returns."""

import os
import pathlib
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, Int

from ._provenance import Provenance


class Ensemble(eqx.Module):
    """Statistics over seeds at recorded times.

    - `ts`: times $t = k \\eta$, shape `(n,)`; `steps`: the optimizer steps $k$, shape `(n,)`, from 0 on.
    - `ensemble[name]`: the statistics of an observable, e.g. `.mean`, `.variance`, `.stderr`, `.count`, each with a
      leading axis of times.
    - `diverged`: shape `(n,)`, how many seeds had a parameter that is not finite at that time. They are left out of all
      moments. A seed with finite parameters where one observable is not finite, as a logarithm of a negative number, is
      left out of the moments of that observable alone: see its `.count`.
    - `seeds`: the number of seeds.
    - `provenance`: what it takes to make these numbers again.

    `save` writes all of it to a file, which [`load`][] reads.
    """

    ts: Float[Array, " n"]
    steps: Int[Array, " n"]
    diverged: Int[Array, " n"]
    seeds: int = eqx.field(static=True)
    statistics: dict[str, Any]
    _provenance: Provenance = eqx.field(static=True, default=Provenance())

    def __getitem__(self, name: str) -> Any:
        if name not in self.statistics:
            raise KeyError(f"no observable {name!r} was recorded; there are {', '.join(map(repr, self.statistics))}")
        return self.statistics[name]

    @property
    def provenance(self) -> dict[str, Any] | None:
        """What it takes to make these numbers again, as a dictionary that JSON can have.

        It holds the arguments of `simulate`: the process in words, with the optimizer's hyperparameters, the SDE's model, and
        the problem's loss and noise; the start, the key, and all numbers; the size of the chunks and the increments that were
        used; the `versions` of Python and the packages, the `platform`, and JAX's `settings`. Arrays of up to 64 numbers are
        written out, of larger ones up to a megabyte there are shape, dtype and SHA-256 (of the numbers in C order, little
        endian), and of others shape and dtype. Functions have their name and what they close over. Values that were being
        traced, where `simulate` is called within a function that is compiled, are said to be `"traced"`.

        None for an ensemble that is not as `simulate` or `load` returned it, but put together by hand or returned by a JAX
        transformation.
        """
        return self._provenance.of(self)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes everything to a netCDF file, from which [`load`][] makes an equal ensemble, bit for bit.

        Needs the extra `files`. The file appears under its name when it is complete, or not at all. Other programs can read
        it too: see [`load`][].

        **Arguments:** `path`: by convention it ends in .nc; `overwrite`: whether to replace a file that is there already.

        **Raises:** `FileExistsError` for a file that is there already; `OSError` where it cannot be written; `TypeError` for
        the statistics of a reducer of your own, whose form is not known.

        >>> import jaxsde as js, tempfile
        >>> problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(0.1))
        >>> run = js.simulate(js.SGD(0.1).chain(problem), jnp.ones(1), steps=10, seeds=8, key=jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run.save(f"{folder}/run.nc")
        ...     js.load(f"{folder}/run.nc").provenance["steps"]
        10
        """
        from ._files import save  # here, as it knows ensembles

        save(self, path, overwrite=overwrite)


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
