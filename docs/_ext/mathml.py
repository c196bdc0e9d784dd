"""Formulas as MathML: browsers draw it without scripts, fonts or a network."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import wrap_displaymath

# What latex2mathml does not know, in terms of what it knows.
_REPLACED = {r"\top": r"\mathsf{T}", r"\notag": "", r"\nonumber": ""}


def _mathml(latex: str, display: str) -> str:
    for old, new in _REPLACED.items():
        latex = latex.replace(old, new)
    return convert(latex, display=display)


def _inline(self: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    self.body.append(_mathml(node.astext(), "inline"))
    raise SkipNode


def _block(self: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    latex = node.astext()
    if r"\\" in latex and r"\begin" not in latex:
        latex = wrap_displaymath(latex, None, False)
    self.body.append('<div class="math-block">')
    if node.get("number"):
        self.body.append(f'<span class="eqno">({node["number"]})</span>')
    self.body.append(_mathml(latex, "block"))
    self.body.append("</div>\n")
    raise SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
