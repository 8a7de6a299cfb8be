"""Writes the repository's location, which stands in pyproject.toml alone, into every notebook: badge and first cell.

python notebooks/location.py
"""

import json
import pathlib
import re
import tomllib

_HERE = pathlib.Path(__file__).parent


def location() -> str:
    """The address in pyproject.toml."""
    return tomllib.loads((_HERE.parent / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def located(text: str, name: str) -> str:
    """The text of a notebook of that name with the address in its place."""
    address = location()
    colab = address.replace("https://github.com", "https://colab.research.google.com/github")
    text = re.sub(r"(badge\.svg\)\]\()[^)]*\)", rf"\g<1>{colab}/blob/main/notebooks/{name})", text)
    return re.sub(r"git\+https://[^\"\\ ]*", f"git+{address}", text)


def notebooks() -> list[pathlib.Path]:
    """All of them."""
    return sorted(_HERE.glob("*.ipynb"))


if __name__ == "__main__":
    for path in notebooks():
        text = located(path.read_text(), path.name)
        json.loads(text)
        path.write_text(text)
        print(f"{path.name}: {location()}")
