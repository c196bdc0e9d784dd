"""``.. run::`` executes its Python, and shows it with what it printed and drew.

The blocks of a page share their names, in order. The value of a last expression is
shown as in a session, unless the block draws; figures left open are saved and shown,
with ``:alt:`` as their text. An exception fails the build.
"""

from __future__ import annotations

import ast
import contextlib
import io
import traceback
import warnings
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = "_run"  # under the sources, where Sphinx looks for pictures; git ignores it


class Run(SphinxDirective):
    """Execute the content."""

    has_content = True
    option_spec = {  # noqa: RUF012 (docutils' own protocol)
        "alt": directives.unchanged_required,
        "hide-code": directives.flag,
        "no-warnings": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Return the code, what it printed, and its figures."""
        code = "\n".join(self.content)
        names = self.env.temp_data.setdefault("run_names", {"__name__": "__main__"})
        with mpl.rc_context(self.config.plot_rcparams):
            try:
                place = f"{self.env.docname}:{self.lineno}"
                said = "ignore" if "no-warnings" in self.options else "always"
                printed = _executed(code, names, place, said)
            except Exception as error:
                raise self.error(traceback.format_exc()) from error
            pictures = [self._saved(number) for number in plt.get_fignums()]
            plt.close("all")
        shown: list[nodes.Node] = []
        if "hide-code" not in self.options:
            shown.append(nodes.literal_block(code, code, language="python"))
        if printed:
            output = nodes.literal_block(printed, printed, language="none")
            output["classes"] += ["run-output"]
            shown.append(output)
        return shown + pictures

    def _saved(self, number: int) -> nodes.Node:
        if "alt" not in self.options:
            msg = "a block that draws needs :alt:, a text for its figure"
            raise self.error(msg)
        count = self.env.temp_data["run_figures"] = (
            self.env.temp_data.get("run_figures", 0) + 1
        )
        name = f"{FOLDER}/{self.env.docname.replace('/', '-')}-{count}.png"
        path = self.env.srcdir / name
        path.parent.mkdir(exist_ok=True)
        plt.figure(number).savefig(path, dpi=130)
        return nodes.image(uri=f"/{name}", alt=self.options["alt"])


def _executed(
    code: str, names: dict[str, Any], place: str, warned: str = "always"
) -> str:
    """Run the code; return what it printed, warnings and a last value included."""
    tree, last = ast.parse(code, place), None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    said, figures = io.StringIO(), plt.get_fignums()
    with contextlib.redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter(warned)
        warnings.showwarning = lambda message, category, *_: said.write(
            f"{category.__name__}: {message}\n"
        )
        exec(compile(tree, place, "exec"), names)
        if last is not None:
            value = eval(compile(last, place, "eval"), names)
            if value is not None and plt.get_fignums() == figures:
                said.write(repr(value))
    return said.getvalue().rstrip()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("run", Run)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
