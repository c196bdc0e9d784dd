"""What type checkers have to flag: a line that none flags is an error here."""

from __future__ import annotations

import numpy as np
from torch import nn

from chita_sklearn import ChitaRegressor, ChitaRegressorCV, PathDisplay, chita_path
from chita_torch import prune


def main(X: np.ndarray, y: np.ndarray, model: nn.Module) -> None:
    ChitaRegressor(solver="swop")  # type: ignore[arg-type]
    ChitaRegressor(target_support="joint")  # type: ignore[arg-type]
    ChitaRegressorCV(criterion="EBIC")  # type: ignore[arg-type]
    ChitaRegressorCV(selection="1se")  # type: ignore[arg-type]
    path = chita_path(X, y, 5, solver="swop")  # type: ignore[arg-type]
    PathDisplay.from_path(path, kind="gap")  # type: ignore[arg-type]
    prune(model, [], None, scope="globl")  # type: ignore[arg-type]
    prune(model, [], None, objective="reconstruct")  # type: ignore[arg-type]
    _ = ChitaRegressor().fit(X, y).coefs_  # pyright: ignore[reportAttributeAccessIssue]
