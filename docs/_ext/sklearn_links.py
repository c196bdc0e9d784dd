"""Links to scikit-learn's documentation, made from names: no inventory is fetched."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SITE = "https://scikit-learn.org/stable"
_LABELS = {"metadata_routing": "metadata_routing.html"}


def _link(app: Sphinx, env: Any, node: Any, content: nodes.Node) -> Any:
    target = node.get("reftarget", "")
    kind = node.get("reftype")
    if target.startswith("sklearn."):
        uri = f"{SITE}/modules/generated/{target}.html"
    elif node.get("refdomain") == "std" and kind == "term":
        uri = f"{SITE}/glossary.html#term-{target.replace(' ', '-')}"
    elif target in _LABELS:
        uri = f"{SITE}/{_LABELS[target]}"
    else:
        return None
    return nodes.reference("", "", content, refuri=uri, internal=False)


def setup(app: Sphinx) -> dict[str, Any]:
    """Resolve what this project does not define itself."""
    app.connect("missing-reference", _link)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
