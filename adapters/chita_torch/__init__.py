"""Prune any PyTorch network by a second-order model of its loss."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    msg = (
        "chita_torch prunes PyTorch models, and torch is not installed. "
        "Run: pip install 'chita-sklearn[torch]'"
    )
    raise ModuleNotFoundError(msg, name="torch") from error

from .export import SparseExport, TensorExport, export_sparse
from .gradual import GradualPruner, KeptPruned, keep_pruned
from .prune import prune
from .refit import refit
from .report import LayerReport, PruningReport, Stage, Trial
from .targets import schedule_fractions

__all__ = [
    "GradualPruner",
    "KeptPruned",
    "LayerReport",
    "PruningReport",
    "SparseExport",
    "Stage",
    "TensorExport",
    "Trial",
    "export_sparse",
    "keep_pruned",
    "prune",
    "refit",
    "schedule_fractions",
]
