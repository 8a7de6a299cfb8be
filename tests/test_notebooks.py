"""What is true of every notebook in the repository; CI executes them."""

import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import warnings

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ADDRESS = ""  # of the repository: whoever owns one and has `location.py` write badges puts it here as well
ELSEWHERE = "https://github.com/someone/their-copy"

_spec = importlib.util.spec_from_file_location("location", FOLDER / "location.py")
location = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(location)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 7


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_the_first_cell_is_that_of_all(path):
    text = path.read_text()
    assert location.located(text, path.name, ADDRESS) == text
    cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert "".join(code[0]["source"]) == location.first_cell(ADDRESS)
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert not any("\\\\" in text for text in prose)  # a doubled backslash breaks a formula
    assert any("TPU" in text for text in prose)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_have_the_look_of_the_packages_pictures(path):
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    (imports,) = [cell for cell in cells if "import matplotlib.pyplot as plt\n" in cell]
    assert "\nplt.style.use(js.reporting.screen_style())\n" in imports


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_has_one_question_and_its_answer_and_the_last_one_checks_it(path):
    cells = json.loads(path.read_text())["cells"]
    first, last = ("".join(cell["source"]) for cell in (cells[0], cells[-1]))
    assert re.search(r"(?s)^# [^\n]+\n\n\*\*Question\.\*\* [^?]+\?\n\n\*\*Answer\.\*\* ", first)
    assert cells[0]["cell_type"] == "markdown" and first.count("?") == 1
    assert cells[-1]["cell_type"] == "code" and re.search(r"^assert ", last, re.MULTILINE)


def test_nothing_names_a_repository_that_nobody_has_checked():
    """Whoever owns an address that somebody made up may put there what they like."""
    written = [*NOTEBOOKS, *ROOT.glob("*.md"), ROOT / "pyproject.toml", FOLDER / "first_cell.py"]
    found = re.compile(r"git\+https?:[^\s\"'{]+|https?://[^\s\"')]*jaxsde[^\s\"')]*")
    for path in written:
        assert not [address for address in found.findall(path.read_text()) if not ADDRESS or ADDRESS not in address], path
    assert "urls" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"] or ADDRESS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_address_brings_a_badge_and_an_install_and_both_go_again(path):
    bare = location.located(path.read_text(), path.name)
    given = location.located(bare, path.name, ELSEWHERE)
    cells = json.loads(given)["cells"]
    title, code = ("".join(cell["source"]) for cell in (cells[0], next(c for c in cells if c["cell_type"] == "code")))
    assert f"/github/someone/their-copy/blob/main/notebooks/{path.name})\n\n# " in title
    assert f'\nADDRESS = "{ELSEWHERE}"\n' in code
    assert location.located(given, path.name, ELSEWHERE) == given and location.located(given, path.name) == bare
    with pytest.raises(ValueError, match="the address must begin with"):
        location.located(bare, path.name, "someone/their-copy")


@pytest.fixture
def run_first_cell(monkeypatch, tmp_path):
    """Runs the first cell in a folder and an environment, and returns what it would have installed, call by call."""

    def run(address="", *, folder=tmp_path, installed=False, environment=(), backend="cpu", gpu=False):
        calls = []
        for name in ("COLAB_TPU_ADDR", "TPU_NAME", "TPU_ACCELERATOR_TYPE", "JAX_PLATFORMS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in dict(environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)
        monkeypatch.setattr("glob.glob", lambda pattern: [])
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: "found" if installed else None)
        monkeypatch.setattr(subprocess, "run", lambda command, **more: calls.append(command))
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if gpu else None)
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        exec(location.first_cell(address), {})
        assert all(call[:5] == [sys.executable, "-m", "pip", "install", "-q"] for call in calls)
        return [call[5:] for call in calls]

    return run


def test_nothing_is_installed_where_jaxsde_is(run_first_cell):
    assert run_first_cell(ELSEWHERE, folder=FOLDER, installed=True, environment={"TPU_NAME": "x"}, backend="tpu") == []


def test_jaxsde_is_installed_from_the_checkout_or_from_where_the_reader_says(run_first_cell):
    assert run_first_cell(folder=FOLDER) == [[f"{ROOT}[all]"]]
    assert run_first_cell(ELSEWHERE) == [[f"jaxsde[all] @ git+{ELSEWHERE}"]]
    with pytest.raises(ImportError, match="set ADDRESS at the top of this cell"):
        run_first_cell()


@pytest.mark.parametrize("name", ["COLAB_TPU_ADDR", "TPU_NAME", "TPU_ACCELERATOR_TYPE"])
def test_on_a_tpu_jax_and_jaxsde_are_installed_in_one_call_and_the_tpu_must_be_seen(name, run_first_cell):
    at = dict(folder=FOLDER, environment={name: "x"})
    assert run_first_cell(**at, backend="tpu") == [[f"{ROOT}[all]", "jax[tpu]"]]
    with pytest.raises(RuntimeError, match="does not see the TPU"):
        run_first_cell(**at, backend="cpu")
    code = location.first_cell()
    assert code.index("pip") < code.index("\nimport jax\n")
    on_purpose = {name: "x", "JAX_PLATFORMS": "cpu"}
    assert run_first_cell(installed=True, environment=on_purpose) == []


def test_a_gpu_that_jax_does_not_see_is_a_warning(run_first_cell):
    with pytest.warns(UserWarning, match="does not see the GPU"):
        run_first_cell(installed=True, gpu=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_first_cell(installed=True, gpu=True, backend="gpu")
        run_first_cell(installed=True, gpu=True, environment={"JAX_PLATFORMS": "cpu"})


def test_the_extra_of_the_benchmarks_brings_the_data_that_they_train_on():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "jaxsde[data]" in extras["bench"]
