"""What is true of every notebook in the repository; CI executes them."""

import importlib.util
import json
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_the_location_is_the_projects(path):
    spec = importlib.util.spec_from_file_location("location", FOLDER / "location.py")
    location = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(location)
    text = path.read_text()
    assert location.located(text, path.name) == text
    cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert "Open in Colab" in "".join(cells[0]["source"]) and path.name in "".join(cells[0]["source"])
    assert "%pip install" in "".join(code[0]["source"])
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert not any("\\\\" in text for text in prose)  # a doubled backslash breaks a formula
    assert any("TPU" in "".join(cell["source"]) for cell in cells)
