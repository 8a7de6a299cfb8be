"""Which of Optax's optimizers have a derived SDE: `python -m benchmarks.optax_table` writes docs/optax.md."""

import functools
import inspect
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import jaxsde as js
from jaxsde.derivation import NotDerivable, anatomy_of

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "optax.md"
MARK = "<!-- Written by `python -m benchmarks.optax_table`: change that, and run it. -->"

PARAMETERS = {"matrix": (6, 5), "vector": (4,)}
"""What the transforms are probed on: those that take matrices as a whole need one."""

RATE = 0.01
REQUIRED: dict[str, dict[str, Any]] = {
    "dpsgd": dict(l2_norm_clip=1.0, noise_multiplier=1.0, seed=0),
    "galore": dict(rank=2),
    "noisy_sgd": dict(seed=0),
    "schedule_free": dict(base_optimizer=optax.sgd(RATE)),
}
"""Arguments that factories need beside the learning rate, or that make them do on small matrices what they do on large ones."""

# The reason of a refusal in a few words, and what to do instead, by a part of the message.
_REASONS = {
    "mixes coordinates": ("mixes coordinates", "`jaxsde.relax`"),
    "draws noise": ("draws noise of its own", "`jaxsde.relax`"),
    "at some steps": ("does something else at some steps", "a larger batch, and the transform inside"),
    "multiplies its step sizes": ("multiplies its step sizes: no diffusion limit", "its chain"),
    "cannot be run": ("needs more than a gradient", "-"),
}
_OF_THEIR_OWN = {
    "dpsgd": ("needs a gradient for each example", "-"),
    "lbfgs": ("needs the loss along a line", "-"),
    "momo": ("needs the loss's value", "-"),
    "momo_adam": ("needs the loss's value", "-"),
    "polyak_sgd": ("needs the loss's value", "-"),
    "sam": ("needs a second gradient", "`jaxsde.SAM`"),
    "sophia": ("needs the Hessian's diagonal", "-"),
    "lookahead": ("takes two copies of the parameters, in step from time to time", "the optimizer inside"),
}
"""What the refusals of these come to."""
_CAUTIONS = {"rare jumps": "a maximum moves by rare jumps", "too fast": "an average forgets within a step or two"}


def _wrapped(wrap: Callable[..., Any]) -> Callable[..., Any]:
    """A factory of a wrapper about SGD with momentum."""

    def factory(learning_rate: Any) -> Any:
        return wrap(optax.sgd(learning_rate, momentum=0.9))

    return factory


def _halves(inner: Any) -> Any:
    return optax.partition({"a": inner, "b": optax.sign_sgd(RATE)}, {"matrix": "a", "vector": "b"})


OTHERS: dict[str, Callable[..., Any]] = {
    "MultiSteps": _wrapped(lambda inner: optax.MultiSteps(inner, 2).gradient_transformation()),
    "apply_every": _wrapped(lambda inner: optax.chain(inner, optax.apply_every(2))),
    "apply_if_finite": _wrapped(lambda inner: optax.apply_if_finite(inner, 3)),
    "clip": _wrapped(lambda inner: optax.chain(optax.clip(1.0), inner)),
    "clip_by_block_rms": _wrapped(lambda inner: optax.chain(optax.clip_by_block_rms(1.0), inner)),
    "clip_by_global_norm": _wrapped(lambda inner: optax.chain(optax.clip_by_global_norm(1.0), inner)),
    "add_noise": _wrapped(lambda inner: optax.chain(optax.add_noise(0.01, 0.55, jax.random.key(0)), inner)),
    "ema": _wrapped(lambda inner: optax.chain(optax.ema(0.9), inner)),
    "inject_hyperparams": lambda learning_rate: optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate),
    "lookahead": _wrapped(lambda inner: optax.lookahead(inner, sync_period=5, slow_step_size=0.5)),
    "masked": _wrapped(lambda inner: optax.chain(optax.masked(optax.add_decayed_weights(0.1), _MASK), inner)),
    "partition": _wrapped(_halves),
    "polyak_sgd": lambda learning_rate: optax.polyak_sgd(max_learning_rate=learning_rate),
    "sam": _wrapped(lambda inner: optax.contrib.sam(inner, optax.sgd(RATE))),
    "zero_nans": _wrapped(lambda inner: optax.chain(optax.zero_nans(), inner)),
}
"""Wrappers and parts about `optax.sgd(..., momentum=0.9)`, and optimizers whose rate has another name."""
_MASK = {"matrix": True, "vector": False}


class Row(NamedTuple):
    """What there is to say of a transform."""

    name: str
    verdict: str
    why: str
    instead: str


def factories() -> dict[str, Callable[..., Any]]:
    """All of Optax's that take a learning rate, but for the parts that are named scale_by."""
    found = {}
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name, value in sorted(vars(module).items()):
            if (
                callable(value)
                and not isinstance(value, type)
                and not name.startswith(("_", "scale_by"))
                and _takes_a_rate(value)
            ):
                found[prefix + name] = functools.partial(value, **REQUIRED.get(name, {}))
    return found


def _takes_a_rate(function: Callable[..., Any]) -> bool:
    try:
        return "learning_rate" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def row(name: str, factory: Callable[..., Any]) -> Row:
    """Probes a factory's transform."""
    own = name.rpartition(".")[2]
    like = {of: np.zeros(shape, np.float32) for of, shape in PARAMETERS.items()}
    like = jax.tree.map(jnp.asarray, like)
    try:
        anatomy = anatomy_of(js.Optax(factory, RATE).transform, like)
    except NotDerivable as error:
        known = next(words for part, words in _REASONS.items() if part in str(error))
        return Row(name, "refused", *_OF_THEIR_OWN.get(own, known))
    said = dict.fromkeys(words for part, words in _CAUTIONS.items() for c in anatomy.cautions if part in c)
    return Row(name, "derived, with a caution" if said else "derived", "; ".join(said), "`jaxsde.relax`" if said else "")


def page() -> str:
    """The page."""
    optimizers = [row(name, factory) for name, factory in factories().items()]
    others = [row(name, factory) for name, factory in OTHERS.items()]
    refused, doubtful = (sum(r.verdict.endswith(end) for r in optimizers) for end in ("refused", "caution"))
    counts = f"{len(optimizers) - refused} of {len(optimizers)} have an SDE, {doubtful} of them with a caution"
    return f"""{MARK}

# Optax's optimizers and their SDEs

`js.Optax(factory, learning_rate)` makes an optimizer of any Optax factory, and its SDE is derived from one update
(`js.derive`), where updates treat each coordinate for itself. Whether they do is found by probing.

This is what probing finds with Optax {optax.__version__}: {counts}.
The parameters are a matrix and a vector, as some optimizers treat a matrix as a whole and a vector coordinate by coordinate:
Muon and GaLore have an SDE of vectors alone. Hyperparameters are the defaults. Parts named `scale_by_...` are left out.

Where an SDE is refused, the chain runs all the same, unless the transform needs more than a gradient. `js.relax` makes a chain
that tends to the SDE of any transform, without drift or diffusion in hand. Where an SDE is derived with a caution, a warning
says so: it may be far from the optimizer, and `js.relax` shows how far.

{_table("factory", optimizers)}

## Wrappers and parts

About `optax.sgd(learning_rate, momentum=0.9)`, `inject_hyperparams` about `optax.adam`.

{_table("transform", others)}
"""


def _table(what: str, rows: list[Row]) -> str:
    lines = [f"| {what} | SDE | why | use instead |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| `{r.name}` | {r.verdict} | {r.why} | {r.instead} |" for r in rows])


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
