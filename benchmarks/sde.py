"""The SDE ensemble: jaxsde against C, plain JAX scans, Diffrax, torchsde, PyTorch and NumPy."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from scipy.special import erf

import jaxsde as js
from jaxsde.processes import AbstractIncrements

from ._race import Contestant, agree, race
from ._report import Claim, Report
from ._setting import ETA, SIGMA, Setting

# Nanoseconds per coordinate and step to expect: only to choose how many steps to time.
_FAST, _NORMALS, _SLOW, _SLOWEST = 0.7, 6.0, 40.0, 240.0


class SwitchedOff(AbstractIncrements):
    """No noise: the same number at each step, in data, so that all arithmetic stays."""

    period: ClassVar[int] = 2**30
    value: jax.Array

    def draw_block(self, key: Any, number: Any, like: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(self.value.astype(leaf.dtype), leaf.shape), like)

    def read_step(self, block: Any, place: Any, scale: Any, like: Any) -> Any:
        return jax.tree.map(lambda z: scale.astype(z.dtype) * z, block)


def run(setting: Setting) -> list[Report]:
    return [_against_others(setting), _adam_by_hand(setting), _noise_off(setting)]


def _against_others(setting: Setting) -> Report:
    present, skipped = [_library(setting, "two-point", _FAST), _library(setting, "gaussian", _NORMALS)], {}
    for name, make in _OTHERS.items():
        try:
            present.append(make(setting))
        except _Missing as missing:
            skipped[name] = str(missing)
    agree(present, 64, setting.seeds)
    present.append(_noiseless(setting))
    result = race(present, setting.unit, setting.rounds)
    ours, gaussian = (present[i].name for i in (0, 1))
    rows = [
        (c.name, f"{1e9 * result.median(c.name):.2f}", f"{result.ratio(c.name, ours):.2f}", c.note)
        for c in sorted(present, key=lambda c: result.median(c.name))
    ]
    targets = {
        "diffrax, UnsafeBrownianPath": 9,
        "diffrax, VirtualBrownianTree": 180,
        "torchsde": 45,
        "PyTorch loop": 10,
        "NumPy loop": 30,
    }
    claims = [Claim("SignSGD's SDE / C kernel", result.ratio(ours, "C kernel"), "at most", 1.2)]
    claims += [Claim(f"{name} / SignSGD's SDE", result.ratio(name, ours), "at least", t) for name, t in targets.items()]
    claims.append(
        Claim("JAX scan, threefry normals / Gaussian increments", result.ratio("JAX scan, threefry normals", gaussian),
              "at least", 1.7)
    )  # fmt: skip
    remarks = [f"skipped: {name}: {why}" for name, why in skipped.items()]
    columns = ("SignSGD's SDE", "ns per coordinate and step", "relative", "")
    return Report("sde", str(setting), columns, rows, claims, remarks)


def _adam_by_hand(setting: Setting) -> Report:
    """Adam's SDE with noise switched off, beside the same equations in a loop of plain JAX from the same state."""
    optimizer, problem, start = js.Adam(ETA, 0.9, 0.99), setting.problem, jnp.asarray(setting.start)
    first = optimizer.sde(problem).init(start, jax.random.key(0))[1]

    @functools.partial(jax.jit, static_argnums=1)
    def run(z: jax.Array, steps: int) -> jax.Array:
        curvature, rate = jnp.asarray(setting.curvature), np.float32(ETA)

        def step(n: Any, y: Any) -> Any:
            x, m, v = y
            gradient, t = curvature * x, (n + 1).astype(np.float32)
            v = v + np.float32(0.01) * (gradient * gradient + np.float32(SIGMA**2) - v)
            m = m + np.float32(0.1) * (gradient - m + np.float32(SIGMA) * z)
            first, second = -jnp.expm1(np.float32(-0.1) * t), jnp.sqrt(-jnp.expm1(np.float32(-0.01) * t))
            return x - rate * (second / first) * m / (jnp.sqrt(v) + np.float32(1e-8) * second), m, v

        whole = tuple(jnp.broadcast_to(part, (setting.seeds, setting.dim)) for part in (start, first.m, first.v))
        return jax.lax.fori_loop(0, steps, step, whole)[0]

    price = 2 * _FAST
    by_hand = Contestant("JAX loop", lambda n: _moments(run(jnp.float32(1), n)), setting.steps(price), "written by hand")
    off = _library(setting, SwitchedOff(jnp.float32(1)), price, optimizer)
    present = [by_hand, off, _library(setting, "two-point", price, optimizer)]
    result = race(present, setting.unit, setting.rounds)
    rows = [(c.name, f"{1e9 * result.median(c.name):.2f}", c.note) for c in present]
    claims = [Claim("Adam's SDE, noise off / JAX loop by hand", result.ratio(off.name, by_hand.name), "at most", 1.2)]
    return Report("sde, Adam", str(setting), ("Adam's SDE", "ns per coordinate and step", ""), rows, claims)


def _noise_off(setting: Setting) -> Report:
    off = SwitchedOff(jnp.float32(1))
    rows, claims = [], []
    for name, optimizer in setting.optimizers().items():
        pair = [_library(setting, law, _FAST, optimizer) for law in ("two-point", off)]
        result = race(pair, setting.unit, setting.rounds)
        ratio = result.ratio(pair[0].name, pair[1].name)
        rows.append((name, *(f"{1e9 * result.median(c.name):.3f}" for c in pair)))
        claims.append(Claim(f"SDE of {name} / the same, noise off", ratio, "at most", 1.2))
    return Report("sde, noise off", str(setting), ("ns per coordinate and step", "two-point", "noise off"), rows, claims)


def _library(setting: Setting, increments: Any, price: float, optimizer: Any = None) -> Contestant:
    problem, start, key = setting.problem, jnp.asarray(setting.start), jax.random.key(0)
    sde = (js.SignSGD(ETA) if optimizer is None else optimizer).sde(problem)
    observe = {"x": _itself}

    def simulate(steps: int) -> tuple[np.ndarray, np.ndarray]:
        run = js.simulate(
            sde, start, steps=steps, seeds=setting.seeds, key=key, increments=increments, observe=observe, progress=False
        )["x"]
        return np.asarray(run.mean)[-1], np.asarray(run.variance)[-1]

    name = increments if isinstance(increments, str) else "noise off"
    return Contestant(f"jaxsde, {name}", simulate, setting.steps(price), "a whole call of simulate, statistics included")


def _itself(x: Any) -> Any:
    return x


class _Missing(Exception):
    """A contestant cannot run here."""


def _moments(x: Any) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(x, dtype=np.float64)
    return x.mean(0), x.var(0, ddof=1)


def _c_kernel(setting: Setting) -> Contestant:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise _Missing("no C compiler")
    folder = Path(tempfile.mkdtemp())
    source, library = Path(__file__).with_name("kernel.c"), folder / "kernel.so"
    flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
    built = subprocess.run([compiler, *flags, str(source), "-o", str(library), "-lm"], capture_output=True, text=True)
    if built.returncode:
        raise _Missing(f"the kernel does not compile: {built.stderr.strip()[-200:]}")
    kernel = ctypes.CDLL(str(library)).sign_sgd
    curvature, (above, below) = setting.curvature, _rational_erf()

    def pointer(array: np.ndarray) -> ctypes.c_void_p:
        return array.ctypes.data_as(ctypes.c_void_p)

    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.ascontiguousarray(np.broadcast_to(setting.start, (setting.seeds, setting.dim)))
        sizes = (ctypes.c_size_t(n) for n in (setting.seeds, setting.dim, steps))
        numbers = (ctypes.c_float(v) for v in (ETA, ETA, SIGMA))
        kernel(pointer(x), pointer(curvature), *sizes, *numbers, ctypes.c_uint64(1), pointer(above), pointer(below))
        return _moments(x)

    return Contestant("C kernel", run, setting.steps(_FAST), " ".join(flags[:4]))


def _rational_erf() -> tuple[np.ndarray, np.ndarray]:
    """P and Q with erf(x) = x P(x^2) / Q(x^2) on [-3.9, 3.9], by least squares at Chebyshev nodes, twice reweighted."""
    terms, reach = 6, 3.9
    nodes = (np.cos(np.linspace(0, np.pi, 400)) + 1) / 2
    powers = nodes[:, None] ** (2 * np.arange(terms))
    value, weight = erf(reach * nodes), np.ones(len(nodes))
    for _ in range(4):
        system = np.hstack([nodes[:, None] * powers, -value[:, None] * powers[:, 1:]]) * weight[:, None]
        solved = np.linalg.lstsq(system, value * weight, rcond=None)[0]
        below = np.concatenate([[1.0], solved[terms:]])
        weight = 1 / (powers @ below)
    scale = reach ** (2.0 * np.arange(terms))
    above, below = solved[:terms] / scale / reach, below / scale
    grid = np.linspace(0, reach, 2000)
    ratio = grid * np.polyval(above[::-1], grid**2) / np.polyval(below[::-1], grid**2)
    assert np.abs(ratio - erf(grid)).max() < 2e-7
    return above.astype(np.float32), below.astype(np.float32)


def _euler(x: Any, z: Any, curvature: Any, xp: Any, erf: Any) -> Any:
    mean = erf(x * curvature * np.float32(1 / (np.sqrt(2) * SIGMA)))
    return x - np.float32(ETA) * mean - np.float32(ETA) * xp.sqrt(xp.clip(1 - mean * mean, 0, None)) * z


def _jax_scan(setting: Setting) -> Contestant:
    curvature = jnp.asarray(setting.curvature)

    @functools.partial(jax.jit, static_argnums=1)
    def run(key: jax.Array, steps: int) -> jax.Array:
        def step(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return _euler(x, jax.random.normal(key, x.shape), curvature, jnp, jax.lax.erf), None

        x = jnp.broadcast_to(jnp.asarray(setting.start), (setting.seeds, setting.dim))
        return jax.lax.scan(step, x, jax.random.split(key, steps))[0]

    key = jax.random.key(0, impl="threefry2x32")
    return Contestant(
        "JAX scan, threefry normals", lambda steps: _moments(run(key, steps)), setting.steps(_NORMALS), "written by hand"
    )


def _noiseless(setting: Setting) -> Contestant:
    """What the formula itself takes, with one number for the noise of all steps."""
    curvature = jnp.asarray(setting.curvature)

    @functools.partial(jax.jit, static_argnums=1)
    def run(z: jax.Array, steps: int) -> jax.Array:
        x = jnp.broadcast_to(jnp.asarray(setting.start), (setting.seeds, setting.dim))
        return jax.lax.fori_loop(0, steps, lambda n, x: _euler(x, z, curvature, jnp, jax.lax.erf), x)

    return Contestant(
        "JAX scan, no noise", lambda steps: _moments(run(jnp.float32(1), steps)), setting.steps(_FAST), "written by hand"
    )


def _diffrax(setting: Setting, path: type, price: float) -> Contestant:
    curvature = jnp.asarray(setting.curvature)

    def drift(t: Any, x: jax.Array, args: Any) -> jax.Array:
        return -jax.lax.erf(x * curvature / (np.sqrt(2) * SIGMA))

    def diffusion(t: Any, x: jax.Array, args: Any) -> Any:
        mean = jax.lax.erf(x * curvature / (np.sqrt(2) * SIGMA))
        return lineax.DiagonalLinearOperator(np.sqrt(ETA) * jnp.sqrt(jnp.maximum(1 - mean * mean, 0)))

    @functools.partial(jax.jit, static_argnums=1)
    def run(key: jax.Array, steps: int) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            more = {"tol": ETA / 2} if path is diffrax.VirtualBrownianTree else {}
            shape = jax.ShapeDtypeStruct((setting.dim,), jnp.float32)
            brownian = path(**({"t0": 0.0, "t1": steps * ETA} if more else {}), **more, shape=shape, key=key)
            terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, brownian))
            return diffrax.diffeqsolve(
                terms, diffrax.Euler(), 0.0, steps * ETA, ETA, jnp.asarray(setting.start), max_steps=steps + 8,
                adjoint=diffrax.ForwardMode() if more else diffrax.DirectAdjoint(),
            ).ys[-1]  # fmt: skip

        return jax.vmap(one)(jax.random.split(key, setting.seeds))

    return Contestant(
        f"diffrax, {path.__name__}", lambda steps: _moments(run(jax.random.key(0), steps)), setting.steps(price), "vmapped"
    )


def _torch_loop(setting: Setting) -> Contestant:
    torch = _torch()
    curvature = torch.as_tensor(setting.curvature)

    @torch.no_grad()
    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        generator = torch.Generator().manual_seed(0)
        x = torch.as_tensor(setting.start).repeat(setting.seeds, 1)
        for _ in range(steps):
            z = torch.randn(x.shape, generator=generator)
            mean = torch.erf(x * curvature / (np.sqrt(2) * SIGMA))
            x = x - ETA * mean - ETA * torch.sqrt(torch.clamp(1 - mean * mean, min=0)) * z
        return _moments(x.numpy())

    return Contestant("PyTorch loop", run, setting.steps(12))


def _torchsde(setting: Setting) -> Contestant:
    torch = _torch()
    try:
        import torchsde
    except ImportError:
        raise _Missing("torchsde is not installed: pip install '.[bench]'") from None
    curvature = torch.as_tensor(setting.curvature)

    class SignSGD(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t: Any, x: Any) -> Any:
            return -torch.erf(x * curvature / (np.sqrt(2) * SIGMA))

        def g(self, t: Any, x: Any) -> Any:
            mean = torch.erf(x * curvature / (np.sqrt(2) * SIGMA))
            return np.sqrt(ETA) * torch.sqrt(torch.clamp(1 - mean * mean, min=0))

    @torch.no_grad()
    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        torch.manual_seed(0)
        x = torch.as_tensor(setting.start).repeat(setting.seeds, 1)
        ts = torch.tensor([0.0, steps * ETA])
        return _moments(torchsde.sdeint(SignSGD(), x, ts, method="euler", dt=ETA)[-1].numpy())

    return Contestant("torchsde", run, setting.steps(_SLOW), "Euler, its default Brownian interval")


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise _Missing("torch is not installed: pip install '.[bench]'") from None
    return torch


def _numpy_loop(setting: Setting) -> Contestant:
    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(0)
        x = np.broadcast_to(setting.start, (setting.seeds, setting.dim))
        for _ in range(steps):
            x = _euler(x, generator.standard_normal(x.shape, np.float32), setting.curvature, np, erf)
        return _moments(x)

    return Contestant("NumPy loop", run, setting.steps(_SLOW), "with SciPy's erf")


_OTHERS = {
    "C kernel": _c_kernel,
    "JAX scan, threefry normals": _jax_scan,
    "diffrax, UnsafeBrownianPath": lambda s: _diffrax(s, diffrax.UnsafeBrownianPath, 10.0),
    "diffrax, VirtualBrownianTree": lambda s: _diffrax(s, diffrax.VirtualBrownianTree, _SLOWEST),
    "torchsde": _torchsde,
    "PyTorch loop": _torch_loop,
    "NumPy loop": _numpy_loop,
}
