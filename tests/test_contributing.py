"""The recipes of CONTRIBUTING.md: each example runs as it is printed."""

import pathlib
import re

import pytest

TEXT = (pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
RECIPES = dict(re.findall(r"^### Add an? ([a-z ]+)\n(.*?)(?=^###? |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_there_is_a_recipe_for_everything_that_can_be_added():
    assert set(RECIPES) == {"optimizer", "formula", "noise law", "reducer", "experiment"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_example_of_a_recipe_runs_and_its_checks_hold(name):
    blocks = re.findall(r"^```python\n(.*?)^```$", RECIPES[name], re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1 and "assert " in blocks[0]
    exec(compile(blocks[0], f"CONTRIBUTING.md, {name}", "exec"), {"__name__": "recipe"})


@pytest.mark.parametrize("name", RECIPES)
def test_the_files_that_a_recipe_names_exist(name):
    root = pathlib.Path(__file__).parents[1]
    files = [path for path in re.findall(r"`((?:jaxsde|tests)/[\w/]+(?:\.py)?)`", RECIPES[name])]
    assert files and all((root / path).exists() for path in files)
