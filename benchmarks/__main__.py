"""`python -m benchmarks [NAME ...] [--quick] [--seeds N] [--dim D] [--out FILE]`."""

import argparse
import time
from pathlib import Path

from . import accuracy, chains, derivation, devices, memory, networks, sde, startup, sweeps
from ._report import claims_table, environment, save
from ._setting import Setting

BENCHMARKS = {
    "startup": startup.run,
    "accuracy": accuracy.run,
    "sde": sde.run,
    "chains": chains.run,
    "derivation": derivation.run,
    "networks": networks.run,
    "sweeps": sweeps.run,
    "memory": memory.run,
    "devices": devices.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds, so rougher")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), help="where the JSON goes")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if min(arguments.seeds, arguments.dim) < 2:
        parser.error("--seeds and --dim must be at least 2")
    setting = Setting(arguments.seeds, arguments.dim, 3 if arguments.quick else 7, arguments.quick)
    print(", ".join(f"{name} {value}" for name, value in environment().items()), flush=True)
    begun, reports = time.perf_counter(), []
    for name in arguments.names or BENCHMARKS:
        for report in BENCHMARKS[name](setting):
            reports.append(report)
            print(f"\n{report.text()}", flush=True)
            save(arguments.out, reports, time.perf_counter() - begun)  # after each: an interrupt loses nothing
    print(f"\n== all claims\n{claims_table([claim for report in reports for claim in report.claims])}")
    print(f"{time.perf_counter() - begun:.0f} s; wrote {arguments.out}")


if __name__ == "__main__":
    main()
