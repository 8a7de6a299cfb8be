"""The command line: parses, calls, prints."""

import codecs
import os
import sys
import warnings
from typing import Any

from ._checks import Misuse
from ._extras import require

_USAGE = """usage: jaxsde COMMAND [options]

commands:
  compare OPTIMIZER     an optimizer, its SDE and the theory side by side
  stationary OPTIMIZER  the stationary law of both, with standard errors, beside the theory
  weak-error OPTIMIZER  the error of the SDE and of its solver against the learning rate
  advise                what the noise of a network in training means for learning rate and batch size
  reproduce NAME        an experiment: table, picture and data; --list shows them
  verify                every statement of the theory, checked against simulation

jaxsde COMMAND --help explains each option with its default.
--devices N with any command: divide seeds among N devices of the processor; auto: one for each of its cores."""

_COMMANDS = {
    "compare": ("Compare", "run_compare"),
    "stationary": ("Stationary", "run_stationary"),
    "weak-error": ("WeakError", "run_weak_error"),
    "advise": ("Advise", "run_advise"),
    "reproduce": ("Reproduce", "run_reproduce"),
    "verify": ("Verify", "run_verify"),
}


# What is written for characters that the encoding of the output lacks; for others it is a question mark.
_ASCII = {"±": "+-"}


def main() -> None:
    """The entry point of the command `jaxsde`."""
    _prepare_streams()
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output, as `head` does, has read enough
        _silence(sys.stdout)
        sys.exit(141)  # as shells report it of programs in C
    except OSError as error:
        _silence(sys.stdout)
        sys.exit(f"jaxsde: {error}")


def _run() -> None:
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("-h", "--help"):
        print(_USAGE)
        return
    if command not in _COMMANDS:
        sys.exit(f"jaxsde: no command {command!r}\n{_USAGE}")
    try:
        tyro = require("tyro", extra="cli", purpose="the command line")
        arguments = _use_devices(arguments)
        from . import _commands

        options, run = (getattr(_commands, name) for name in _COMMANDS[command])
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            run(tyro.cli(options, prog=f"jaxsde {command}", args=arguments))
    except BrokenPipeError:
        raise
    except Misuse as error:
        print(f"jaxsde: {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, TypeError, ImportError, OSError) as error:
        sys.exit(f"jaxsde: {error}")
    except KeyboardInterrupt as error:
        print(f"jaxsde: {error or 'interrupted'}", file=sys.stderr)
        sys.exit(130)


def _show_warning(message: Warning | str, *_: Any) -> None:
    """Without the line of a program that the user does not know."""
    print(f"jaxsde: warning: {message}", file=sys.stderr)


def _use_devices(arguments: list[str]) -> list[str]:
    """The arguments without `--devices`, which must take effect before JAX starts."""
    if "--devices" not in arguments:
        return arguments
    place = arguments.index("--devices")
    given = arguments[place + 1 : place + 2]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        number = cores if given == ["auto"] else int(*given)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ValueError(f"--devices must be a whole number from 1 on, or auto, got {' '.join(given) or 'nothing'}")
    import jax

    jax.config.update("jax_num_cpu_devices", number)
    return arguments[:place] + arguments[place + 2 :]


def _prepare_streams() -> None:
    """Makes the streams of output such that whatever is printed can be."""
    codecs.register_error("jaxsde", _in_ascii)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed; the next file that is opened would take its place, and what C libraries print
            stream = open(os.devnull, "w")
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="jaxsde")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


def _silence(stream: Any) -> None:
    """Lets what is left to write go nowhere, about which Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
