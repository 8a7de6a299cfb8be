"""Runs simulations in a process of its own, with as many devices as it is told, and prints what they come to.

python worker.py CASE DEVICES [FOLDER [PORT PROCESSES PROCESS]]; `test_devices` and `test_checkpoint` start it.
"""

import hashlib
import json
import os
import sys

import jax

# Before JAX starts; and nothing where this file is imported only, as by a search for tests.
if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
    if len(sys.argv) > 4:
        port, processes, process = map(int, sys.argv[4:])
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process, heartbeat_timeout_seconds=30)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import jaxsde as js  # noqa: E402
from jaxsde._traced import traced, with_traced  # noqa: E402
from jaxsde.simulation import _loop  # noqa: E402
from jaxsde.simulation._identity import identity  # noqa: E402

FOLDER = sys.argv[3] if len(sys.argv) > 3 and sys.argv[3] else None
PROBLEM = js.Problem(js.Quadratic(jnp.arange(1.0, 5.0)), js.Gaussian(0.5))
ADAM = js.Adam(0.05, b1=0.9, b2=0.99)


def digest(tree):
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))).hexdigest()


def run(process=None, **more):
    given = dict(steps=60, seeds=501, every=20, key=jax.random.key(0), chunk=64, checkpoint=FOLDER) | more
    return js.simulate(ADAM.sde(PROBLEM) if process is None else process, jnp.ones(4), **given)


def everything():
    """One digest for each kind of run."""
    w = jax.random.normal(jax.random.key(3), (200, 4))
    batches = js.Problem.from_data(lambda x, row: 0.5 * (row @ x - 1) ** 2, w, batch_size=8)
    spread = lambda key: jax.random.normal(key, (4,))
    runs = {
        "Adam's SDE": run(),
        "SignSGD's SDE": run(js.SignSGD(0.05).sde(PROBLEM), substeps=3, increments="gaussian"),
        "Adam's chain": run(ADAM.chain(PROBLEM)),
        "mini-batches": run(js.SGD(0.05).chain(batches)),
        "samples": run(reduce=js.Samples()),
        "jackknife": run(reduce=js.Jackknife(js.Moments(covariance=True), 16)),
        "one seed": run(seeds=1),
        "drawn starts": js.simulate(ADAM.sde(PROBLEM), spread, steps=4, seeds=70, key=jax.random.key(0), chunk=16),
    }
    return {name: digest(ensemble) for name, ensemble in runs.items()}


def slow(at=None):
    """Looks in after every step or so, and does something at one of these times."""
    look_in, seen = _loop._Pace.look_in, [0]

    def often(pace, made, is_due):
        seen[0] += 1
        if at is not None:
            at(seen[0])
        save = look_in(pace, made, is_due)
        pace.length = 7
        return save

    _loop._Pace.look_in = often


def die(number):
    if number == 9 and jax.process_index() == 1:
        os.kill(os.getpid(), 9)


def words():
    """What a checkpoint compares, of runs with all kinds of functions."""
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    schedule = optax.cosine_decay_schedule(0.1, 9)
    processes = [
        js.Adam(0.1).sde(js.Problem(lambda x: jnp.sum(jax.nn.relu(jnp.tanh(x))), js.Gaussian(0.5))),
        js.SGD(0.1).chain(js.Problem.from_data(lambda w, e: 0.5 * jnp.sum(w * e) ** 2, rows, batch_size=2)),
        js.SGD(schedule, reference_rate=0.1).chain(js.Problem(js.Quadratic(jnp.ones(4)), js.AlphaStable(1.5, 0.5))),
        js.Chain(lambda: optax.lion(0.01), PROBLEM, jnp.asarray(0.01)),
    ]
    x = jnp.ones(4)
    return [identity(process=with_traced(p, x), observe=traced(lambda y: y + 1, x)) for p in processes]


CASES = {
    "words": words,
    "everything": everything,
    "checkpoint": lambda: digest(run(checkpoint_every=1e-9)),
    "dies": lambda: (slow(die), digest(run(checkpoint_every=1e-9)))[1],
}

if __name__ == "__main__":
    print(json.dumps({"devices": jax.device_count(), "result": CASES[sys.argv[1]]()}), flush=True)
