"""The peers. One file each, found by its presence in this folder.

A peer's file defines

    name          what the tables call it
    requirement   the distribution(s) to install, pinned; "" for scikit-learn's own
    exact         optional: True for exact and beam solvers, which are shown apart
    limit(n,p,k)  optional: the reason for leaving such a problem out, or None
    fit(X, y, k)  -> coef of shape (p,), on centred y and standardised columns of X

and imports its library inside ``fit``. A peer whose library is absent is skipped.
Scoring is the runner's business: only the places of the non-zeros count.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def load_peers() -> dict[str, ModuleType]:
    """Return name -> module for each peer's file, in the files' order."""
    modules = [
        importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
        if not info.name.startswith("_")
    ]
    return {module.name: module for module in modules}
