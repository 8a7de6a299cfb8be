"""The publications that the package rests on, from `references.toml`."""

import difflib
import functools
from importlib import metadata, resources
from typing import Any

_CENTRAL = "compagnoni2025"


def citation(*keys: str) -> str:
    """The publications under these keys, as docstrings cite them, in BibTeX; without keys, jaxsde's own entry and that of
    the paper whose SDEs it implements.

    **Raises:** `ValueError` for a key that there is not, with those there are.

    >>> print(citation("plackett1954"))
    @article{plackett1954,
      author = {Plackett, Robin L.},
      title = {A reduction formula for normal multivariate integrals},
      journal = {Biometrika},
      volume = {41},
      number = {3-4},
      pages = {351--360},
      year = {1954},
      doi = {10.1093/biomet/41.3-4.351},
    }
    """
    known = references()
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"no reference has the key {key!r}{hint}; there are {', '.join(sorted(known))}")
    entries = {key: known[key] for key in keys} if keys else {"jaxsde": _own_entry(), _CENTRAL: known[_CENTRAL]}
    return "\n\n".join(_bibtex(key, entry) for key, entry in entries.items())


@functools.cache
def references() -> dict[str, dict[str, Any]]:
    """All entries by key."""
    import tomllib  # here, as it is slow to load and most programs cite nothing

    return tomllib.loads(resources.files("jaxsde").joinpath("references.toml").read_text(encoding="utf-8"))


def _own_entry() -> dict[str, Any]:
    package = metadata.metadata("jaxsde")
    return {
        "type": "software",
        "author": "{The jaxsde developers}",
        "title": f"jaxsde: {package['Summary']}",
        "version": package["Version"],
    }


def _bibtex(key: str, entry: dict[str, Any]) -> str:
    fields = {name: value for name, value in entry.items() if name not in ("type", "without")}
    if "eprint" in fields:
        fields["archiveprefix"] = "arXiv"
    lines = (f"  {name} = {{{value}}}," for name, value in fields.items())
    return "\n".join([f"@{entry['type']}{{{key},", *lines, "}"])
