"""The command line: parses, calls, prints."""

import sys

from ._extras import require

_USAGE = """usage: jaxsde COMMAND [options]

commands:
  compare OPTIMIZER     an optimizer, its SDE and the theory side by side
  stationary OPTIMIZER  the stationary law of both, with standard errors, beside the theory
  weak-error OPTIMIZER  the error of the SDE and of its solver against the learning rate
  reproduce NAME        an experiment: table, picture and data; --list shows them
  verify                every statement of the theory, checked against simulation

jaxsde COMMAND --help explains each option with its default."""

_COMMANDS = {
    "compare": ("Compare", "run_compare"),
    "stationary": ("Stationary", "run_stationary"),
    "weak-error": ("WeakError", "run_weak_error"),
    "reproduce": ("Reproduce", "run_reproduce"),
    "verify": ("Verify", "run_verify"),
}


def main() -> None:
    """The entry point of the command `jaxsde`."""
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("-h", "--help"):
        print(_USAGE)
        return
    if command not in _COMMANDS:
        sys.exit(f"jaxsde: no command {command!r}\n{_USAGE}")
    try:
        tyro = require("tyro", extra="cli", purpose="the command line")
        from . import _commands

        options, run = (getattr(_commands, name) for name in _COMMANDS[command])
        run(tyro.cli(options, prog=f"jaxsde {command}", args=arguments))
    except (ValueError, TypeError, ImportError, OSError) as error:
        sys.exit(f"jaxsde: {error}")
    except KeyboardInterrupt:
        print("jaxsde: interrupted", file=sys.stderr)
        sys.exit(130)
