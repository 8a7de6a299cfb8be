"""README and its companions: what they link to exists, and what they show runs."""

import ast
import importlib
import importlib.util
import json
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


def _part_of_the_site(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    part = importlib.util.module_from_spec(spec)
    sys.modules[name] = part  # where dataclasses look
    spec.loader.exec_module(part)
    return part


def test_every_public_name_has_a_page(tmp_path):
    """And what docstrings refer to exists."""
    reference = _part_of_the_site("_reference")
    reference.write(tmp_path / "reference")
    written = {path.stem for path in (tmp_path / "reference").iterdir()}
    objects = {id(page.value): page.path for page in reference.pages()}
    for module in reference.modules():
        for value in reference.public_names(module).values():
            assert objects[id(value)] in written
    for path in (tmp_path / "reference").iterdir():
        for link in re.findall(r"\]\(([^)\s:]+)\)", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)):
            assert link.split("#")[0].removesuffix(".md") in written, f"{path.stem} refers to {link}"


def test_every_formula_of_the_site_is_one_and_becomes_mathml(tmp_path):
    """In documents, notebooks and docstrings, as the site's own parser reads them."""
    mdit = pytest.importorskip("myst_parser.parsers.mdit", reason="needs the extra [docs]")
    config, renderer = importlib.import_module("myst_parser.config.main"), importlib.import_module("markdown_it.renderer")
    parser = mdit.create_md_parser(config.MdParserConfig(enable_extensions={"dollarmath", "deflist"}), renderer.RendererHTML)
    mathml = _part_of_the_site("_mathml").mathml

    _part_of_the_site("_reference").write(tmp_path / "reference")
    pages = {path.stem: path.read_text() for path in [*(ROOT / "docs").glob("*.md"), *(tmp_path / "reference").iterdir()]}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        pages[path.stem] = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    formulas, broken = 0, []
    for name, page in pages.items():
        for token in (inner for outer in parser.parse(page) for inner in [outer, *(outer.children or [])]):
            if token.type.startswith("math"):
                formulas += 1
                try:
                    mathml(token.content, block=token.block)
                except ValueError as error:
                    broken.append((name, str(error)))
            elif token.type == "text" and re.search(r"\$|\\[a-zA-Z]", token.content):
                broken.append((name, token.content))
    assert not broken
    assert formulas > 500


def test_a_formula_with_an_unknown_command_or_a_missing_part_is_refused():
    pytest.importorskip("sphinx", reason="needs the extra [docs]")
    mathml = _part_of_the_site("_mathml").mathml
    with pytest.raises(ValueError, match=r"no MathML for \\etta in the formula \\frac\\etta2"):
        mathml(r"\frac\etta2")
    with pytest.raises(ValueError, match=r"MissingSuperScriptOrSubscriptError in the formula x_\{"):
        mathml("x_{")
    assert mathml(r"\frac12 x", block=True).count("<mfrac><mn>1</mn><mn>2</mn></mfrac><mi>x</mi>") == 1


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
