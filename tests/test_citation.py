"""The list of publications, and the docstrings that cite it."""

import ast
import pathlib
import re

import pytest

import jaxsde as js
from jaxsde._citation import references

PACKAGE = pathlib.Path(js.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
KEY = re.compile(r"\b[a-z]+(?:19|20)\d\d\b")
FIELDS = {
    "article": {"author", "title", "journal", "volume", "pages", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "book": {"author", "title", "publisher", "year"},
    "misc": {"author", "title", "year"},
}


def _docstrings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_cited_is_listed(path):
    unknown = set(KEY.findall(path.read_text())) - references().keys()
    assert not unknown
    by_name = re.compile(r"(?:et al\.|[A-Z]\w+ and [A-Z]\w+),? \(?(?:19|20)\d\d")
    assert not [found for text in _docstrings(path) for found in by_name.findall(text)], "cite by key"


def test_what_is_listed_is_cited():
    cited = {key for path in MODULES for key in KEY.findall(path.read_text())}
    assert references().keys() <= cited


@pytest.mark.parametrize("key", references())
def test_an_entry_is_complete_and_says_where_it_is(key):
    entry = references()[key]
    assert FIELDS[entry["type"]] <= entry.keys()
    assert str(entry["year"]) in key and isinstance(entry["year"], int)
    given = [name for name in ("doi", "eprint", "without") if name in entry]
    assert len(given) == 1
    if "doi" in entry:
        assert re.fullmatch(r"10\.\d{4,}/\S+", entry["doi"])
    if "eprint" in entry:
        assert re.fullmatch(r"\d{4}\.\d{5}", entry["eprint"])
    surname = re.sub("[^a-z]", "", entry["author"].split(",")[0].split()[-1].lower().replace("é", "e"))
    assert key.startswith(surname), "a key is the first author's surname and the year"


def test_no_publication_is_listed_twice():
    for field in ("doi", "eprint", "title"):
        values = [entry[field].lower() for entry in references().values() if field in entry]
        assert len(values) == len(set(values))


def test_bibtex_of_a_preprint_names_the_archive():
    text = js.citation("li2019", "chan1983")
    first, second = text.split("\n\n")
    assert first.startswith("@article{li2019,\n  author = {Li, Qianxiao and Tai, Cheng and E, Weinan},\n")
    assert "  eprint = {1811.01558},\n  archiveprefix = {arXiv},\n}" in first
    assert second.startswith("@article{chan1983,") and "archiveprefix" not in second
    assert text.count("{") == text.count("}")


def test_without_keys_it_is_the_package_and_the_central_paper():
    own, central = js.citation().split("\n\n")
    assert own.startswith("@software{jaxsde,") and f"version = {{{js.__version__}}}" in own
    assert central == js.citation("compagnoni2025")


def test_an_unknown_key_lists_those_there_are():
    with pytest.raises(
        ValueError, match=r"no reference has the key 'malladi2021' \(did you mean 'malladi2022'\?\); there are bailey"
    ):
        js.citation("malladi2021")
    with pytest.raises(ValueError, match="no reference has the key 'zzz'; there are .*white1997"):
        js.citation("compagnoni2025", "zzz")
