"""What an experiment is, and what comes out of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

from ._panels import Panel


class Scale(NamedTuple):
    """How much of an experiment to run."""

    small: bool
    report: Callable[[str], Any]
    """Called with a line of text as results come in."""

    @property
    def progress(self) -> bool:
        """Whether runs show progress bars: small ones are over too soon."""
        return not self.small

    def pick(self, small: Any, full: Any) -> Any:
        """The one of two settings that this scale takes."""
        return small if self.small else full

    def key(self, number: int) -> PRNGKeyArray:
        """The key of the experiment's run of that number."""
        return jax.random.fold_in(jax.random.key(2024), number)


class Study(NamedTuple):
    """What an experiment found."""

    title: str
    finding: str
    """The outcome in one sentence."""
    header: tuple[str, ...]
    rows: list[tuple[str | float, ...]]
    panels: list[Panel]
    notes: list[str]
    """What the numbers are, and what else the table shows; where it does not show what was claimed, that."""


class Experiment(NamedTuple):
    """A claim and what shows it."""

    name: str
    claim: str
    minutes: float
    """What the full one takes on two cores."""
    run: Callable[[Scale], Study]
    statements: tuple[str, ...] = ()
    """The statements that judge the claim, by their names: there `verify` comes to verdicts, here one sees what happens."""
