"""README and its companions: what they link to exists, and what they show runs."""

import ast
import importlib.util
import operator
import pathlib
import re
import sys
import tomllib
from importlib import metadata

import pytest

import jaxsde as js

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What the build of the site writes.
GENERATED = {"reference/index.md", "notebooks/index.md"}

by_document = pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)


def _code(path, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def _prose(path):
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_there_are_documents():
    assert {"docs/speed.md", "docs/findings.md", "docs/limits.md", "docs/library.md"} < set(NAMES)


@by_document
def test_relative_links_point_to_files(path):
    links = re.findall(r"\]\(([^)\s]+)\)", _prose(path))
    for link in links:
        if name := re.fullmatch(r"reference/jaxsde\.(.+)\.md", link):  # which the build of the site writes
            assert operator.attrgetter(name[1])(js), link
        elif link not in GENERATED and not re.match(r"[a-z]+:", link):
            assert (path.parent / link.split("#")[0]).exists(), link


def test_every_page_is_in_the_index_of_the_site():
    listed = set(re.findall(r"^([a-z/_]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= listed


def test_the_site_draws_every_experiment():
    drawn = re.findall(r'studies.reproduce\("(\w+)", small=True\)', (ROOT / "docs" / "experiments.md").read_text())
    assert drawn == list(js.studies.EXPERIMENTS)


def test_every_picture_is_shown():
    shown = {link.rpartition("/")[2] for path in DOCUMENTS for link in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", path.read_text())}
    assert {path.name for path in (ROOT / "docs").glob("*.png")} <= shown


def test_every_public_name_has_a_page(tmp_path):
    """And what docstrings refer to exists."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_reference.py")
    reference = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = reference  # where dataclasses look
    spec.loader.exec_module(reference)
    reference.write(tmp_path / "reference")
    written = {path.stem for path in (tmp_path / "reference").iterdir()}
    objects = {id(page.value): page.path for page in reference.pages()}
    for module in reference.modules():
        for value in reference.public_names(module).values():
            assert objects[id(value)] in written
    for path in (tmp_path / "reference").iterdir():
        for link in re.findall(r"\]\(([^)\s:]+)\)", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)):
            assert link.split("#")[0].removesuffix(".md") in written, f"{path.stem} refers to {link}"


def test_the_readme_begins_with_the_two_commands_that_do_all():
    first, second, *_ = _code(ROOT / "README.md", "sh")
    assert first == "pip install '.[all]' && jaxsde compare sign_sgd\n"
    assert second == "pip install '.[test]' && pytest\n"
    script = (ROOT / ".ci" / "run").read_text()
    assert all(part in script for part in ("'.[all]'", "jaxsde compare sign_sgd", "'.[test]' && pytest"))


def test_the_readmes_example_is_short_and_runs(capsys):
    (example,) = _code(ROOT / "README.md")
    assert len(example.splitlines()) <= 8
    exec(example, {})
    discrete, continuous, theory = map(float, capsys.readouterr().out.split())
    # SignSGD's stationary loss on this quadratic, up to the noise of 1,000 seeds and the order of the learning rate.
    assert discrete == pytest.approx(theory, rel=0.2) and continuous == pytest.approx(theory, rel=0.2)


@by_document
def test_names_in_code_are_the_packages(path):
    for block in _code(path):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("js."):
                found = js
                for name in ast.unparse(node).split(".")[1:]:
                    if not name.isidentifier():
                        break
                    assert hasattr(found, name), ast.unparse(node)
                    found = getattr(found, name)


def test_version_and_licence_are_those_of_the_project():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {js.__version__}\n" in citation
    assert PROJECT["dynamic"] == ["version"] and metadata.version("jaxsde") == js.__version__
    assert f"\nlicense: {PROJECT['license']}\n" in citation
    assert js.citation("compagnoni2025").count("2411.15958") == citation.count("2411.15958") == 1


def test_the_oldest_dependencies_are_those_that_the_project_allows():
    extras = PROJECT["optional-dependencies"]
    allowed = [
        *PROJECT["dependencies"],
        *(r for name in ("cli", "data", "files", "plots", "progress", "test") for r in extras[name]),
    ]
    bounds = dict(requirement.split(">=") for requirement in allowed if ">=" in requirement)
    lines = [line for line in (ROOT / "oldest.txt").read_text().splitlines() if line and line[0] != "#"]
    oldest = dict(line.split("==") for line in lines)
    assert oldest.pop("jaxlib") == oldest["jax"]
    assert oldest.keys() == bounds.keys()
    for name, bound in bounds.items():
        numbers = bound.split(".")
        assert oldest[name].split(".")[: len(numbers)] == numbers, name
        assert set(oldest[name].split(".")[len(numbers) :]) <= {"0"}, name
