"""Optimizers by the names that the command line takes: the registry's, Optax's, and those of a user's modules."""

import difflib
import importlib
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import optax
import optax.contrib

from .. import _checks
from .._registry import OPTIMIZERS
from ..optimizers import AbstractOptimizer, Optax

FORMS = (
    "optax:NAME, a factory of optax or of optax.contrib; or MODULE:FACTORY, any function of learning_rate to an Optax transform"
)
"""The names beside those of the registry."""

_WHOLE = re.compile(r"[+-]?\d+")
_NAMED = {"true": True, "false": False, "none": None}


def factory_of(name: str) -> Callable[..., Any]:
    """The factory that `optax:NAME` or `MODULE:FACTORY` is; raises `Misuse` where there is none."""
    module, _, path = name.partition(":")
    if module == "optax":
        return _of_optax(path)
    found = _imported(module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise _checks.Misuse(f"{module} has no {path!r}{_suggested(path, _functions(found), f'{module}:')}")
        found = getattr(found, part)
    if not callable(found):
        raise _checks.Misuse(
            f"{name} must be a function of learning_rate that makes an Optax transform, as optax.lion is, got {found!r:.60}"
        )
    return found


def make_by_factory(name: str, learning_rate: float, settings: dict[str, Any]) -> Optax:
    """The optimizer of a factory; raises `Misuse` where it does not take the settings."""
    factory = factory_of(name)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        parameters = {}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    own = [k for k in parameters if k != "learning_rate"]
    if parameters and not open_ended:
        _check_names(name, settings, own)
        if "learning_rate" not in parameters:
            raise _checks.Misuse(f"{name} takes no learning_rate: it is a part of an optimizer, or one of a rate of its own")
    missing = [k for k in own if parameters[k].default is inspect.Parameter.empty and k not in settings]
    missing = [
        k for k in missing if parameters[k].kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    if missing:
        raise _checks.Misuse(
            f"{name} needs {', '.join(missing)}: give it as --set {missing[0]}=VALUE or, if it is no number, in a factory of "
            "your own, as MODULE:FACTORY"
        )
    try:
        return Optax(factory, learning_rate, **settings)
    except Exception as error:  # whatever a factory raises
        raise _checks.Misuse(f"{name}: {str(error).partition(chr(10))[0]}") from error


def make_by_name(name: str, make: Callable[..., AbstractOptimizer], settings: dict[str, Any]) -> AbstractOptimizer:
    """An optimizer of the registry; raises `Misuse` where it does not take the settings."""
    if not settings:
        return make()
    _check_names(name, settings, OPTIMIZERS[name].hyperparameters)
    try:
        return make(**settings)
    except (TypeError, ValueError) as error:
        raise _checks.Misuse(f"{name}: {error}") from error


def settings_of(words: Iterable[str]) -> dict[str, Any]:
    """The hyperparameters that `--set NAME=VALUE` gives."""
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise _checks.Misuse(f"--set takes NAME=VALUE, as in --set b1=.95, got {word!r}")
        if name == "learning_rate":
            raise _checks.Misuse("the learning rate is given as --learning-rate")
        if name in settings:
            raise _checks.Misuse(f"--set gives {name} twice")
        settings[name] = _value(value)
    return settings


def unknown(name: str) -> _checks.Misuse:
    """The error for a name that is neither the registry's nor a factory's."""
    return _checks.Misuse(
        f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))}; or {FORMS}, got {name!r}"
        f"{_suggested(name, [*OPTIMIZERS, *(f'optax:{factory}' for factory in _factories())])}"
    )


def _value(text: str) -> Any:
    if text.lower() in _NAMED:
        return _NAMED[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _check_names(name: str, settings: dict[str, Any], known: Iterable[str]) -> None:
    known = list(known)
    for given in settings:
        if given not in known:
            takes = f"it takes {', '.join(known)}" if known else "it has none but the learning rate"
            raise _checks.Misuse(f"{name} has no hyperparameter {given!r}{_suggested(given, known)}; {takes}")


def _of_optax(path: str) -> Callable[..., Any]:
    for module in (optax, optax.contrib):
        if callable(getattr(module, path, None)):
            return getattr(module, path)
    raise _checks.Misuse(f"Optax {optax.__version__} has no {path!r}{_suggested(path, _factories(), 'optax:')}")


def _factories() -> list[str]:
    """Of Optax's, those that take a learning rate."""
    return [name for module in (optax, optax.contrib) for name in _functions(module)]


def _functions(module: Any) -> list[str]:
    """The names of a module's functions of a learning rate, or of all functions where there are none."""
    names = [name for name, value in vars(module).items() if callable(value) and name[0] != "_" and not isinstance(value, type)]
    return [name for name in names if _takes_a_rate(getattr(module, name))] or names


def _takes_a_rate(function: Any) -> bool:
    try:
        return "learning_rate" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _suggested(name: str, known: Iterable[str], before: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1) or [k for k in known if k.partition(":")[2] == name][:1]
    return f" (did you mean {before}{near[0]}?)" if near else ""


def _imported(module: str) -> Any:
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    if not all(part.isidentifier() for part in module.split(".")):
        raise _checks.Misuse(f"{module!r} is no name of a module: give MODULE:FACTORY, as in my_module:my_transform")
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever stands in a user's module
        if isinstance(error, ModuleNotFoundError) and error.name and module.startswith(error.name):
            near = _suggested(module, [path.stem for path in pathlib.Path(here).glob("*.py")])
            raise _checks.Misuse(f"there is no module {module}, here or among the installed packages{near}") from error
        raise _checks.Misuse(f"importing {module} raised {type(error).__name__}: {error}") from error
