"""The command line: parses, calls, prints."""

import sys

from ._extras import require

_USAGE = """usage: jaxsde compare OPTIMIZER [options]

commands:
  compare    an optimizer, its SDE and the theory side by side

jaxsde compare --help explains each option with its default."""


def main() -> None:
    """The entry point of the command `jaxsde`."""
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("-h", "--help"):
        print(_USAGE)
        return
    if command != "compare":
        sys.exit(f"jaxsde: no command {command!r}\n{_USAGE}")
    try:
        tyro = require("tyro", extra="cli", purpose="the command line")
        from ._commands import Compare, run_compare

        run_compare(tyro.cli(Compare, prog="jaxsde compare", args=arguments))
    except (ValueError, TypeError, ImportError, OSError) as error:
        sys.exit(f"jaxsde: {error}")
    except KeyboardInterrupt:
        print("jaxsde: interrupted", file=sys.stderr)
        sys.exit(130)
