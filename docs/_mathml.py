"""Formulas as MathML, which browsers draw by themselves: the site needs no script and no network for them."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)


def mathml(formula: str, *, block: bool = False) -> str:
    """A formula of LaTeX as an element of MathML; `ValueError` where it holds what is not known."""
    try:
        converted = convert(formula, display="block" if block else "inline")
    except Exception as error:  # the converter's errors have neither a class in common nor a message
        raise ValueError(f"{type(error).__name__} in the formula {formula}") from error
    # The converter shows a command that it does not know as it stands.
    if unknown := re.search(r"\\\w*", converted):
        raise ValueError(f"no MathML for {unknown[0]} in the formula {formula}")
    return converted


def _visit(translator, node):
    block = isinstance(node, nodes.math_block)
    try:
        if node.get("number"):
            raise ValueError(f"formulas have no numbers here: {node.astext()}")
        converted = mathml(node.astext(), block=block)
    except ValueError as error:
        _LOGGER.warning("%s", error, location=node)
        converted = translator.encode(node.astext())
    # Signs stand out of their box by a little: without room the theme adds a scroll bar to each formula.
    tag, more = ("div", {"style": "padding-block: 0.3em"}) if block else ("span", {})
    begin = translator.starttag(node, tag, "", CLASS="math notranslate nohighlight", **more)
    translator.body.append(f"{begin}{converted}</{tag}>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_visit, None), (_visit, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
