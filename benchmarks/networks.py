"""Networks on real mini-batches: an ensemble against a vmapped training loop by hand, an SDE's step with the exact covariance
of the batch gradient against one through a root of its matrix, and SDEs of second order against those of first order."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import jaxsde as js

from ._race import Contestant, race
from ._report import Claim, Report
from ._setting import Setting

_BATCH, _SEEDS = 32, 32
_ADAM = js.Adam(1e-3, 0.9, 0.99)


def run(setting: Setting) -> list[Report]:
    try:
        digits = js.data.load("digits")
    except ImportError as error:
        return [Report("networks", "", ("",), [], [], [f"skipped: {error}"])]
    return [_ensemble(setting, digits), _step(setting, digits), _second_order(setting, digits)]


def _ensemble(setting: Setting, digits: Any) -> Report:
    network = js.networks.CNN(digits.shape, 10, channels=4, dense=16, key=jax.random.key(0))
    problem = js.Problem.from_data(js.networks.cross_entropy, digits.train, batch_size=_BATCH)
    steps = 800  # so many that a look at all of the data at the start is little beside them
    present = [_library(problem, network, steps), _by_hand(digits.train, network, steps)]
    (mean, variance), (its_mean, its_variance) = (c.run(steps) for c in present)
    off = float(np.abs(mean - its_mean) / np.sqrt((variance + its_variance) / _SEEDS))
    assert off < 6, f"mean losses {mean:.4f} and {its_mean:.4f} differ by {off:.1f} standard errors"
    result = race(present, _SEEDS, setting.rounds)
    ours, hand = (c.name for c in present)
    rows = [(c.name, f"{1e6 * result.median(c.name):.1f}", f"{result.ratio(c.name, ours):.3f}", c.note) for c in present]
    title = f"Adam, CNN of {js.networks.count(network):,}, digits, batch {_BATCH}, {_SEEDS} seeds"
    claims = [Claim("network ensemble / vmapped training loop by hand", result.ratio(ours, hand), "at most", 1.05)]
    return Report("networks, ensemble", title, ("", "us per seed and step", "relative", ""), rows, claims, [])


def _library(problem: js.Problem, network: Any, steps: int) -> Contestant:
    chain, observe = _ADAM.chain(problem), {"loss": problem.loss}

    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        key = jax.random.key(0)
        loss = js.simulate(chain, network, steps=steps, seeds=_SEEDS, key=key, observe=observe, progress=False)["loss"]
        return np.asarray(loss.mean)[-1], np.asarray(loss.variance)[-1]

    return Contestant("jaxsde", run, steps, "a whole call of simulate; the loss of all data at the start and the end")


def _by_hand(train: Any, network: Any, steps: int) -> Contestant:
    features, labels = (jnp.asarray(array) for array in train)
    transform = _ADAM.transform()

    def loss(params: Any, features: jax.Array, labels: jax.Array) -> jax.Array:
        logits = jax.vmap(params)(features)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @functools.partial(jax.jit, static_argnums=1)
    def train_all(key: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
        def one(key: jax.Array) -> jax.Array:
            def step(carry: Any, n: jax.Array) -> tuple[Any, None]:
                params, state = carry
                drawn = jax.random.randint(jax.random.fold_in(key, n), (_BATCH,), 0, len(labels))
                gradient = jax.grad(loss)(params, features[drawn], labels[drawn])
                updates, state = transform.update(gradient, state, params)
                return (optax.apply_updates(params, updates), state), None

            params = jax.lax.scan(step, (network, transform.init(network)), jnp.arange(steps))[0][0]
            return loss(params, features, labels)

        losses = jax.vmap(one)(jax.random.split(key, _SEEDS))
        return losses.mean(), losses.var(ddof=1)

    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = train_all(jax.random.key(1, impl="philox4x32"), steps)
        return np.asarray(mean), np.asarray(variance)

    return Contestant("vmapped loop by hand", run, steps, "the same transform; the loss of all data at the end")


def _step(setting: Setting, digits: Any) -> Report:
    """One seed of an SDE on 128 images of digits, odd or even."""
    features, labels = (array[:128] for array in digits.train)
    network = js.networks.CNN(digits.shape, 2, channels=1, dense=8, key=jax.random.key(0))
    problem = js.Problem.from_data(js.networks.cross_entropy, (features, labels % 2), batch_size=8)
    steps = 100 if setting.quick else 500
    present = [
        _sde("SGD's SDE", js.SGD(0.01), problem, network, steps, "one gradient of a re-weighted loss"),
        _sde("Adam's SDE", _ADAM, problem, network, steps, "and the variance of each coordinate"),
        _matrix_root(problem, network, max(1, steps // 10)),
    ]
    result = race(present, 1.0, setting.rounds)
    rows = [(c.name, f"{1e3 * result.median(c.name):.2f}", c.note) for c in present]
    count = js.networks.count(network)
    claims = [
        Claim(f"milliseconds a step of {name}, {count} parameters, 128 images", 1e3 * result.median(name), "at most", 10.0)
        for name in ("SGD's SDE", "Adam's SDE")
    ]
    return Report("networks, SDE step", f"one seed, CNN of {count}", ("", "ms per step", ""), rows, claims, [])


def _second_order(setting: Setting, digits: Any) -> Report:
    """What the Hessian's product and the noise of squares cost."""
    images = digits.first(64).train
    network = js.networks.CNN(digits.shape, 10, channels=8, dense=16, key=jax.random.key(0))
    loss = js.MeanLoss(js.networks.cross_entropy, images)
    injected = js.Problem(loss, js.Gaussian(0.02))
    drawn = js.Problem(loss, js.MiniBatch(loss, 8))
    steps, seeds, rows, claims = 10 if setting.quick else 50, 8, [], []
    rms, adam = js.RMSpropW(1e-3, decay=0.99, initial_scale=4e-4), js.AdamW(1e-3, b1=0.9, b2=0.99)
    for opt, problem, model, noise in (
        (js.SGD(0.01), injected, "second-order", "normal noise"),
        (rms, injected, "second-order", "normal noise"),
        (adam, injected, "second-order", "normal noise"),
        (js.SGD(0.01), drawn, "second-order", "mini-batches"),
        (adam, drawn, "second-order-drift", "mini-batches"),
    ):
        models = [_sde(name, opt, problem, network, steps, "", model=name, seeds=seeds) for name in ("compagnoni", model)]
        result = race(models, seeds, setting.rounds)
        name, ratio = f"{type(opt).__name__}, {noise}", result.ratio(model, "compagnoni")
        rows.append((name, model, *(f"{1e6 * result.median(c.name):.0f}" for c in models), f"{ratio:.2f}"))
        claims.append(Claim(f"{name}: a step of {model} / of first order", ratio, "at most", 3.0))
    columns = ("", "model", "us per seed and step, first order", "second", "ratio")
    title = f"CNN of {js.networks.count(network):,}, 64 images, {seeds} seeds"
    return Report("networks, second order", title, columns, rows, claims, [])


def _sde(
    name: str, opt: Any, problem: js.Problem, network: Any, steps: int, note: str, *, model: str = "compagnoni", seeds: int = 1
) -> Contestant:
    sde, observe = opt.sde(problem, model), {"loss": problem.loss}

    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        run = js.simulate(sde, network, steps=steps, seeds=seeds, key=jax.random.key(0), observe=observe, progress=False)
        loss = run["loss"]
        return np.asarray(loss.mean)[-1], np.asarray(loss.variance)[-1]

    return Contestant(name, run, steps, note)


def _matrix_root(problem: js.Problem, network: Any, steps: int) -> Contestant:
    """SGD's SDE with the covariance as a matrix and its root."""
    start, unravel = ravel_pytree(network)

    @functools.partial(jax.jit, static_argnums=1)
    def walk(key: jax.Array, steps: int) -> jax.Array:
        def step(x: jax.Array, n: jax.Array) -> tuple[jax.Array, None]:
            params = unravel(x)
            values, vectors = jnp.linalg.eigh(problem.noise.covariance(params))
            drawn = jax.random.normal(jax.random.fold_in(key, n), x.shape)
            noise = (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ drawn
            return x - 0.01 * (ravel_pytree(problem.gradient(params))[0] + noise), None

        return jax.lax.scan(step, start, jnp.arange(steps))[0]

    def run(steps: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(walk(jax.random.key(0), steps))
        return x, np.zeros_like(x)

    return Contestant("SGD's SDE, matrix root by hand", run, steps, "per-example gradients, their covariance, eigh")
