"""``{measured} name``: the table docs/benchmarks_name.md, where it has been written.

The benchmarks write these tables. One that is not there yet says so on the page instead
of breaking the build.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Measured(SphinxDirective):
    """Include a table written by the benchmarks, and its picture."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the Markdown file in place of the directive."""
        name = self.arguments[0]
        path = Path(self.env.srcdir) / f"benchmarks_{name}.md"
        self.env.note_dependency(str(path))
        if not path.exists():
            text = "Not measured in this build: the command below writes the table."
            return [nodes.note("", nodes.paragraph("", text))]
        lines = path.read_text(encoding="utf-8").splitlines()
        # The page has a title for the file; its other headings become captions.
        lines = [x for x in lines if not x.startswith("# ")]
        lines = [f"**{x.lstrip('# ')}**" if x.startswith("##") else x for x in lines]
        container = nodes.container(classes=["measured"])
        self.state.nested_parse(lines, self.content_offset, container)
        picture = path.with_suffix(".png")
        if picture.exists():
            image = f"![The table above as a picture]({picture.name})"
            self.state.nested_parse([image], self.content_offset, container)
        return [container]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("measured", Measured)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
