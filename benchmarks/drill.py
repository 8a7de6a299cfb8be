"""The fault drill: `python -m benchmarks.drill [--kills N] [--seed N]`.

Runs with checkpoints are killed by SIGKILL at random moments, in one process and in two, and started again until they end.
Checkpoints are truncated and overwritten, the disk is full, the folder is gone. Whatever happens, the results must be those of
a run that nobody disturbed, bit by bit. Prints a table, and exits with status 1 where one is not. Not a speed, so no part of
`python -m benchmarks`.
"""

import argparse
import hashlib
import json
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jaxsde.reporting._table import text_table

_EVERY = 0.05  # seconds between two checkpoints
_WINDOW = 4.0  # seconds within which a kill comes
_EARLY = 0.25  # the share of kills within the time from when a worker begins, others are within that after its first checkpoint
_LARGEST_FILE = 20_000  # bytes, less than a checkpoint has
_TIMEOUT = 300


def work(folder: str | None, devices: int, group: list[int], full: bool) -> None:
    """What a worker does: one run, whose digest it prints."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    if group:
        port, processes, process = group
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process, heartbeat_timeout_seconds=30)
    import jax.numpy as jnp
    import numpy as np

    import jaxsde as js

    print("begun", flush=True)
    if full:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    problem = js.Problem(js.Quadratic(jnp.arange(1.0, 9.0)), js.Gaussian(0.5))
    run = js.simulate(
        js.Adam(0.01, b1=0.9, b2=0.99).sde(problem), jnp.ones(8), steps=12_000, every=300, seeds=2000, chunk=256,
        key=jax.random.key(0), checkpoint=folder, checkpoint_every=_EVERY,
    )  # fmt: skip
    leaves = jax.tree.leaves(run)
    print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()[:16], flush=True)


class Workers:
    """The processes of one run."""

    def __init__(self, folder: Path | str, devices: int, processes: int = 1, full: bool = False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "benchmarks.drill", "--worker", str(folder), "--devices", str(devices // processes)]
        groups = [["--group", str(port), str(processes), str(i)] if processes > 1 else [] for i in range(processes)]
        self.all = [
            subprocess.Popen([*words, *group, *["--full"] * full], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for group in groups
        ]
        for worker in self.all:
            assert worker.stdout is not None
            worker.stdout.readline()

    def wait_for_checkpoints(self, folder: Path, since: float) -> None:
        """Waits until both generations are written after that time, or until the run ends."""
        while sum(p.stat().st_mtime > since for p in folder.glob("checkpoint-*.npz")) < 2 and self.all[0].poll() is None:
            time.sleep(0.01)

    def kill_after(self, seconds: float, which: int = 0) -> bool:
        """Kills one of the processes after so long, and waits for the end of the others. False where it had ended before."""
        try:
            self.all[which].wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            pass
        self.all[which].kill()
        for worker in self.all:
            worker.communicate(timeout=_TIMEOUT)
        return True

    def result(self) -> tuple[int, str, str]:
        """Status, result and errors of the first process, at the end of all."""
        said = [worker.communicate(timeout=_TIMEOUT) for worker in self.all]
        lines = said[0][0].split()
        return self.all[0].returncode, lines[-1] if lines else "", said[0][1]


def killed(folder: Path, kills: int, processes: int, random: random.Random) -> tuple[int, int, list[str]]:
    """Kills runs until there were so many kills: how many these were, how many runs came to their end, and their results."""
    results: list[str] = []
    count = 0
    while count < kills:
        devices, begun = random.choice((1, 2, 4)) if processes == 1 else 4, time.time()
        workers = Workers(folder, devices, processes)
        if random.random() > _EARLY:
            workers.wait_for_checkpoints(folder, begun)
        if workers.kill_after(random.uniform(0, _WINDOW), random.randrange(processes)):
            count += 1
            print(f"\r{processes} process(es): {count} of {kills} kills", end="", file=sys.stderr, flush=True)
            continue
        results.append(workers.result()[1])
        shutil.rmtree(folder)
    results.append(Workers(folder, 2).result()[1])  # what the last one had left
    print(file=sys.stderr)
    return count, len(results), results


def disturbed(folder: Path, how: str) -> tuple[str, str]:
    """A run that is disturbed in some way, and then run again: what the first said, and the result of the second."""
    workers = Workers(folder, 1)
    workers.wait_for_checkpoints(folder, 0)
    workers.kill_after(_WINDOW / 8)
    files = sorted(folder.glob("checkpoint-*.npz"), key=lambda path: path.stat().st_mtime)
    said = ""
    if how == "truncated":
        content = files[-1].read_bytes()
        files[-1].write_bytes(content[: len(content) // 2])
    elif how == "overwritten":
        content = bytearray(files[-1].read_bytes())
        content[len(content) // 3 : len(content) // 3 + 64] = bytes(64)
        files[-1].write_bytes(bytes(content))
    elif how == "disk full":
        said = Workers(folder, 1, full=True).result()[2].strip().splitlines()[-1]
    elif how == "folder gone":
        gone = Workers(folder, 1)
        gone.wait_for_checkpoints(folder, time.time())
        shutil.rmtree(folder)
        said = gone.result()[2].strip().splitlines()[-1]
    _, result, errors = Workers(folder, 1).result()
    warned = [line.partition("UserWarning: ")[2] for line in errors.splitlines() if "UserWarning" in line]
    return said or " ".join(warned), result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drill", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="in all, a fifth of them in runs of two processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--group", type=int, nargs=3, default=[], help=argparse.SUPPRESS)
    parser.add_argument("--full", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(arguments.worker or None, arguments.devices, arguments.group, arguments.full)
        return
    chance, begun = random.Random(arguments.seed), time.perf_counter()
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = Workers("", 1).result()[1]
        wrong = 0
        for processes, kills in ((1, arguments.kills - arguments.kills // 5), (2, arguments.kills // 5)):
            count, runs, results = killed(Path(scratch) / f"killed-{processes}", kills, processes, chance)
            changed = sum(result != whole for result in results)
            wrong += changed
            rows.append([f"SIGKILL, {processes} process(es)", str(count), str(runs), str(changed), ""])
        for how in ("truncated", "overwritten", "disk full", "folder gone"):
            said, result = disturbed(Path(scratch) / how.replace(" ", "-"), how)
            wrong += result != whole
            rows.append([how, "1", "1", str(int(result != whole)), said])
    print(text_table(["fault", "times", "runs", "lost or changed", "what was said"], rows, left=(0, 4)))
    print(json.dumps({"digest": whole, "wrong": wrong, "seconds": round(time.perf_counter() - begun)}))
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
