"""Fail if a built page links to a page or an anchor that is not there.

Also fails for a picture without a text in its place. Addresses elsewhere are not tried.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

from sphinx.application import Sphinx
from sphinx.errors import SphinxError


class _Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.without_text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.links += [given[name] for name in ("href", "src") if given.get(name)]
        if tag == "img" and not given.get("alt"):
            self.without_text.append(given.get("src", ""))


def faults(folder: Path) -> list[str]:
    """Dead links of the pages under a folder, and pictures without text."""
    written = (path.resolve() for path in sorted(folder.rglob("*.html")))
    pages = {path: _Page(path) for path in written if "_static" not in path.parts}
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        found += [f"{name}: no alt for {source}" for source in page.without_text]
        for link in page.links:
            address, anchor = urldefrag(link)
            if urlsplit(link).scheme or address.startswith("//"):
                continue
            place = urlsplit(address).path
            target = (path.parent / unquote(place)).resolve() if place else path
            if not target.exists():
                found.append(f"{name}: {link} is not there")
            elif anchor and target in pages and target.suffix == ".html":
                if unquote(anchor) not in pages[target].anchors:
                    found.append(f"{name}: {link} has no such anchor")
    return found


def _check(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        found = faults(Path(app.outdir))
        if found:
            msg = "\n".join(["dead links or pictures without text:", *found])
            raise SphinxError(msg)


def setup(app: Sphinx) -> dict[str, Any]:
    """Check the pages once they are written."""
    app.connect("build-finished", _check, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
