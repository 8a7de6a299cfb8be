"""What a benchmark found: tables to print, and the same as JSON."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from jaxsde.reporting._table import text_table


@dataclass(frozen=True)
class Claim:
    """A ratio and the target it has: `at most` or `at least`. `measured` is None where a contestant was missing."""

    what: str
    measured: float | None
    sense: str
    target: float
    why: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "skipped"
        met = self.measured <= self.target if self.sense == "at most" else self.measured >= self.target
        return "met" if met else "MISSED"


@dataclass
class Report:
    """The outcome of one benchmark."""

    name: str
    setting: str
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        parts = [f"== {self.name}: {self.setting}"]
        if self.rows:
            words = [0, *(i for i, name in enumerate(self.columns) if not name)]  # a column without a name holds remarks
            parts.append(text_table(self.columns, self.rows, left=words))
        parts += [f"   {remark}" for remark in self.remarks]
        if self.claims:
            parts.append(claims_table(self.claims))
        return "\n".join(parts)

    def as_json(self) -> dict:
        return {**asdict(self), "claims": [{**asdict(c), "verdict": c.verdict} for c in self.claims]}


def claims_table(claims: list[Claim]) -> str:
    rows = [
        (c.what, "-" if c.measured is None else f"{c.measured:.3g}", f"{c.sense} {c.target:g}", c.verdict, c.why)
        for c in claims
    ]
    return text_table(("what", "measured", "target", "", ""), rows, left=(0, 2, 3, 4))


def environment() -> dict[str, str | int]:
    """The machine and the versions, as far as they bear on speed."""
    packages = ("jax", "jaxlib", "diffrax", "equinox", "optax", "numpy", "torch", "torchsde")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name in packages if (version := _version(name))},
    }


def save(path: Path, reports: list[Report], seconds: float) -> None:
    content = {"environment": environment(), "seconds": round(seconds, 1), "reports": [r.as_json() for r in reports]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("Model name")), "unknown")
