"""Prune any PyTorch network by a second-order model of its loss."""

try:
    import torch
except ModuleNotFoundError as error:
    msg = (
        "chita_torch prunes PyTorch models, and torch is not installed. "
        "Run: pip install 'chita-sklearn[torch]'"
    )
    raise ModuleNotFoundError(msg, name="torch") from error

from .compact import compact
from .export import SparseExport, TensorExport, export_sparse, load_sparse
from .gradual import GradualPruner, KeptPruned, keep_pruned
from .masks import read_masks
from .prune import prune
from .refit import refit
from .report import (
    LayerFit,
    LayerReport,
    PruningReport,
    Stage,
    Trial,
    UnitsReport,
)
from .targets import schedule_fractions

__all__ = [
    "GradualPruner",
    "KeptPruned",
    "LayerFit",
    "LayerReport",
    "PruningReport",
    "SparseExport",
    "Stage",
    "TensorExport",
    "Trial",
    "UnitsReport",
    "compact",
    "export_sparse",
    "keep_pruned",
    "load_sparse",
    "prune",
    "read_masks",
    "refit",
    "schedule_fractions",
]

# So that torch.load(weights_only=True), the default, reads files of them.
torch.serialization.add_safe_globals(
    [
        LayerFit,
        LayerReport,
        PruningReport,
        SparseExport,
        Stage,
        TensorExport,
        Trial,
        UnitsReport,
    ]
)
