"""The documentation site: `sphinx-build -W --keep-going docs site` builds it."""

import os
import pathlib
import shutil
import sys
from importlib import metadata

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import _reference  # noqa: E402

os.environ.setdefault("JAXSDE_SMALL", "1")  # notebooks and tutorials run at small size

project = "jaxsde"
release = version = metadata.version("jaxsde")
author = copyright = "the jaxsde authors"

extensions = ["myst_nb", "_mathml"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
# The experiments take ten minutes: a quick build leaves their page without pictures.
nb_execution_excludepatterns = ["experiments.md"] if os.environ.get("JAXSDE_QUICK_SITE") else []
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nitpicky = True

exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"jaxsde {release}"

# What links point to that lead out of the site's folder, for those who read the pages in the repository.
_OUTSIDE = {"(../notebooks)": "(notebooks/index.md)", "(../jaxsde/references.toml)": "(reference/papers.md)"}


def _inside(app, docname, source):
    for outside, inside in _OUTSIDE.items():
        source[0] = source[0].replace(outside, inside)


def _generate(app):
    _reference.write(HERE / "reference")
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    notebooks = sorted((HERE.parent / "notebooks").glob("*.ipynb"))
    for notebook in notebooks:
        shutil.copy(notebook, target)
    listed = "\n".join(notebook.stem for notebook in notebooks)
    (target / "index.md").write_text(
        "# Notebooks\n\nEach asks one question. They open in Colab as they are, on CPU, GPU and TPU.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )


def setup(app):
    app.connect("builder-inited", _generate)
    app.connect("source-read", _inside)
