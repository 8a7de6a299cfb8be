"""Writes the pages of the reference: one for each public name, from its docstring."""

import dataclasses
import inspect
import pathlib
import re
import shutil
import tomllib
import types
from collections.abc import Iterator
from typing import Any

import jaxsde

_REFERENCE = re.compile(r"\[`([^`]+)`\]\[\]")
_DOCTEST = re.compile(r"(?:^>>> .*\n?(?:^(?!\s*$|>>> ).*\n?)*)+", re.MULTILINE)


def modules() -> list[types.ModuleType]:
    """The package and its public subpackages."""
    inside = [value for name, value in vars(jaxsde).items() if isinstance(value, types.ModuleType) and name[0] != "_"]
    return [jaxsde, *sorted(inside, key=lambda module: module.__name__)]


def public_names(module: types.ModuleType) -> dict[str, Any]:
    """What a module offers, but for other modules."""
    return {name: value for name, value in vars(module).items() if name[0] != "_" and not isinstance(value, types.ModuleType)}


@dataclasses.dataclass(frozen=True)
class Page:
    """A public object under the shortest of its names."""

    path: str
    value: Any
    also: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1]


def pages() -> list[Page]:
    """One for each public object."""
    paths: dict[int, list[str]] = {}
    values: dict[int, Any] = {}
    for module in modules():
        for name, value in public_names(module).items():
            paths.setdefault(id(value), []).append(f"{module.__name__}.{name}")
            values[id(value)] = value
    return [Page(found[0], values[key], tuple(found[1:])) for key, found in paths.items()]


def write(folder: pathlib.Path) -> None:
    """Writes a page for each name, one for each module, the papers, and an index."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    known = pages()
    links = _links(known)
    for page in known:
        (folder / f"{page.path}.md").write_text(_text(page, links))
    for module in modules():
        (folder / f"{module.__name__}.md").write_text(_module_text(module, known))
    (folder / "papers.md").write_text(_papers())
    listed = "\n".join(module.__name__ for module in modules())
    (folder / "index.md").write_text(
        f"# Reference\n\nEvery public name, by module.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\npapers\n```\n"
    )


def _links(known: list[Page]) -> dict[str, str]:
    """The page of everything that a docstring may refer to: by name alone where that is clear, and by its path."""
    links: dict[str, str] = {}
    for page in known:
        links.setdefault(page.name, f"{page.path}.md")
        for path in (page.path, *page.also):
            links[path] = links[path.removeprefix("jaxsde.")] = f"{page.path}.md"
    return links


def _text(page: Page, links: dict[str, str]) -> str:
    parts = [f"# {page.name}", f"```python\n{_heading(page)}\n```"]
    if page.also:
        parts.append("Also " + ", ".join(f"`{path}`" for path in page.also) + ".")
    if inspect.isclass(page.value):
        links = links | {name: f"{page.path}.md#{name.replace('_', '-')}" for name, _ in _members(page.value)}
    parts.append(_markdown(page.value, links))
    if inspect.isclass(page.value):
        parts += [_member(name, value, links) for name, value in _members(page.value)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(page: Page) -> str:
    if inspect.isclass(page.value) or callable(page.value):
        return _signature(page.path, page.value)
    return page.path


def _signature(name: str, value: Any) -> str:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (ValueError, TypeError):
        return name
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name != "self"]
    shown = [re.sub(r"<(?:function|class|object) ?'?([\w.]+).*?>", r"\1", str(p)) for p in bare]
    kinds = [p.kind for p in bare]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        shown.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    line = f"{name}({', '.join(shown)})"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {part},\n" for part in shown) + ")"


def _members(value: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class of ours has with docstrings of its own."""
    for name, member in vars(value).items():
        if name[0] == "_" or not _docstring(member):
            continue
        if isinstance(member, (property, classmethod, staticmethod)) or callable(member):
            if getattr(inspect.unwrap(_function(member)), "__module__", "").startswith("jaxsde"):
                yield name, member


def _function(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    return getattr(member, "__func__", member)


def _member(name: str, member: Any, links: dict[str, str]) -> str:
    heading = name if isinstance(member, property) else _signature(name, _function(member))
    return f"## {name}\n\n```python\n{heading}\n```\n\n{_markdown(member, links)}"


def _docstring(value: Any) -> str:
    """That of the object itself, and not of what it derives from."""
    return inspect.cleandoc(getattr(value, "__doc__", None) or "")


def _markdown(value: Any, links: dict[str, str]) -> str:
    """A docstring as Markdown of MyST: examples fenced, references to names resolved."""
    text = _docstring(value)
    text = _DOCTEST.sub(lambda found: f"```python\n{found.group().rstrip()}\n```\n", text)
    return _REFERENCE.sub(lambda found: _link(found.group(1), links), text)


def _link(name: str, links: dict[str, str]) -> str:
    short = name.removeprefix("js.")
    if short in links:
        return f"[`{name}`]({links[short]})"
    owner = short.rpartition(".")[0]
    if owner in links:
        return f"[`{name}`]({links[owner]})"
    # A name that has no page is a fault of the docstring: the build fails at a link that leads nowhere.
    return f"[`{name}`]({name}.md)"


def _module_text(module: types.ModuleType, known: list[Page]) -> str:
    own = {id(value): name for name, value in public_names(module).items()}
    here = [page for page in known if id(page.value) in own]
    rows = "\n".join(f"| [`{page.name}`]({page.path}.md) | {_summary(page.value)} |" for page in here)
    primary = "\n".join(page.path for page in here if page.path.rpartition(".")[0] == module.__name__)
    toctree = f"```{{toctree}}\n:hidden:\n\n{primary}\n```"
    return f"# {module.__name__}\n\n{inspect.getdoc(module)}\n\n| name | what it is |\n|---|---|\n{rows}\n\n{toctree}\n"


def _summary(value: Any) -> str:
    paragraph = _docstring(value).split("\n\n")[0]
    line = " ".join(paragraph.split())
    line = re.sub(r"(?<=[.:]) .*", "", line) if len(line) > 120 else line
    return _REFERENCE.sub(r"`\1`", line).replace("|", "\\|")


def _papers() -> str:
    entries = tomllib.loads((pathlib.Path(jaxsde.__file__).parent / "references.toml").read_text())
    parts = ["# Papers", "What the docstrings cite, by key; `jaxsde.citation(key)` writes an entry as BibTeX."]
    for key, entry in entries.items():
        where = entry.get("booktitle") or entry.get("journal") or entry.get("publisher") or ""
        address = f"https://arxiv.org/abs/{entry['eprint']}" if "eprint" in entry else ""
        address = address or (f"https://doi.org/{entry['doi']}" if "doi" in entry else "")
        title = re.sub(r"[{}]", "", entry["title"])
        link = f"[*{title}*]({address})" if address else f"*{title}*"
        authors = re.sub(r"[{}\\]", "", entry["author"])
        parts.append(f"**{key}**: {authors}. {link}. {where}{', ' if where else ''}{entry['year']}.")
    return "\n\n".join(parts) + "\n"
