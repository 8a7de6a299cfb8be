"""Writes the first code cell (`first_cell.py`) into every notebook, and where the repository lies, if it is said.

python notebooks/location.py            no badges; the first cell installs from a folder above, or from where its reader says
python notebooks/location.py ADDRESS    badges that open the notebooks in Colab, whose first cell installs from there

The address is that of a repository which the caller owns, as in a browser: Colab opens what lies on GitHub alone.
"""

import ast
import json
import pathlib
import sys

_HERE = pathlib.Path(__file__).parent
_HOST = "https://github.com/"


def first_cell(address: str = "") -> str:
    """The first code cell, with the address in its place."""
    text = (_HERE / "first_cell.py").read_text()
    docstring = ast.parse(text).body[0].end_lineno
    code = "".join(text.splitlines(keepends=True)[docstring:]).strip()
    assert code.count('\nADDRESS = ""\n') == 1
    return code.replace('\nADDRESS = ""\n', f"\nADDRESS = {json.dumps(address)}\n")


def located(text: str, name: str, address: str = "") -> str:
    """The text of a notebook of that name, with its first code cell and its badge; without an address, without one."""
    if address and not address.startswith(_HOST):
        raise ValueError(f"the address must begin with {_HOST}, got {address!r}")
    notebook = json.loads(text)
    title = "".join(notebook["cells"][0]["source"])
    title = title[title.index("# ") :]
    if address:
        colab = "https://colab.research.google.com"
        page = f"{colab}/github/{address.removeprefix(_HOST).strip('/')}/blob/main/notebooks/{name}"
        title = f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({page})\n\n{title}"
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    for cell, source in ((notebook["cells"][0], title), (code, first_cell(address))):
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def notebooks() -> list[pathlib.Path]:
    """All of them."""
    return sorted(_HERE.glob("*.ipynb"))


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    try:
        texts = {path: located(path.read_text(), path.name, *sys.argv[1:]) for path in notebooks()}
    except ValueError as error:
        sys.exit(str(error))
    for path, text in texts.items():
        path.write_text(text)
        print(path.name)
