"""``{measured} name``: the table docs/benchmarks_name.md, where it has been written.

The benchmarks write these tables; one that is not there does not break the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def _captions(lines: list[str]) -> list[str]:
    """Drop the file's title and make its headings bold: the page has its own."""
    kept, fenced = [], False
    for line in lines:
        fenced ^= line.startswith("```")
        if fenced or not line.startswith("#"):
            kept.append(line)
        elif line.startswith("##"):
            kept.append(f"**{line.lstrip('# ')}**")
    return kept


class Measured(SphinxDirective):
    """Include a table written by the benchmarks, and its picture.

    "others" includes every table that neither the page nor another table names.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the Markdown file in place of the directive."""
        name, folder = self.arguments[0], Path(self.env.srcdir)
        paths = [folder / f"benchmarks_{name}.md"]
        if name == "others":
            page = Path(self.env.doc2path(self.env.docname))
            tables = sorted(folder.glob("benchmarks_*.md"))
            named = {
                name
                for text in (path.read_text("utf-8") for path in (page, *tables))
                for name in re.findall(r"\{measured\} (\w+)", text)
            }
            paths = [
                path
                for path in tables
                if path.stem.removeprefix("benchmarks_") not in named
            ]
            self.env.note_reread()
        container = nodes.container(classes=["measured"])
        for path in paths:
            self.env.note_dependency(str(path))
            if path.exists():
                self._include(path, container)
        if not container.children and name != "others":
            text = "No table in this build."
            container += nodes.paragraph("", text)
        return [container]

    def _include(self, path: Path, container: nodes.container) -> None:
        text = path.read_text(encoding="utf-8")
        picture = path.with_suffix(".png")
        if picture.exists() and f"]({picture.name})" not in text:
            text += f"\n\n![The table above as a picture]({picture.name})\n"
        lines = _captions(text.splitlines())
        self.state.nested_parse(lines, self.content_offset, container)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("measured", Measured)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
