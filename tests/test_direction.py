"""Imports run one way: nothing on the left knows anything on the right."""

import ast
from pathlib import Path

import pytest

import jaxsde

_PACKAGE = Path(jaxsde.__file__).parent

# Each room may import those of the lines above it, and the private modules beside them.
_LINES = (
    ("problems",),
    ("processes",),
    ("derivation",),
    ("optimizers",),
    ("simulation", "theory"),
    ("estimation",),
    ("studies",),
    ("reporting",),
    ("_commands",),
)
_BESIDE = ("data", "networks")  # they know no room, and studies and the command line use them
_RANK = {room: rank for rank, line in enumerate(_LINES) for room in line} | dict.fromkeys(_BESIDE, -1)

# The registry lists optimizers, problems and noise laws; the face and the command line show everything.
_RANK |= {"_registry": _RANK["optimizers"] + 0.5}
_OPEN = ("__init__", "cli")


def _imported(path):
    """The rooms and root modules that a module imports, at whatever level of it."""
    room = path.relative_to(_PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = room[: len(room) - node.level + 1]
            target = (*base, *(node.module.split(".") if node.module else ()))
            yield from [target[0]] if target else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "jaxsde":
            parts = node.module.split(".")[1:]
            yield from parts[:1] or [alias.name for alias in node.names]


def _modules():
    return sorted(p for p in _PACKAGE.rglob("*.py") if p.relative_to(_PACKAGE).parts[0].removesuffix(".py") not in _OPEN)


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(_PACKAGE)))
def test_a_module_imports_only_what_stands_before_it(path):
    own = path.relative_to(_PACKAGE).parts[0].removesuffix(".py")
    rank = _RANK.get(own, -2)  # private modules of the root stand before all rooms
    for room in _imported(path):
        assert room == own or _RANK.get(room, -2) < rank or rank == -2 == _RANK.get(room, -2), (
            f"{path.relative_to(_PACKAGE)} imports {room}"
        )


def test_every_room_has_a_place():
    rooms = {p.name for p in _PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert rooms == set(_RANK) - {"_registry"}
