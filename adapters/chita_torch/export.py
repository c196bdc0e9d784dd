"""Store a pruned model in less space, and say how much less."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_NOTE = (
    "CSR saves bytes. On a CPU its products overtake dense ones from about 80 % "
    "sparsity on for many rows at a time, from about 95 % on for one. 2:4 tensors run "
    "faster only on GPUs with sparse tensor cores, in half precision, on large layers. "
    "Measure before relying on either."
)


@dataclass(frozen=True)
class TensorExport:
    """One tensor: its form and what it takes.

    ``csr_bytes`` and ``packed_bytes`` (2:4) are None where the form does not apply.
    """

    name: str
    form: str  # "dense", "csr", "2:4", or "tied" to one before
    dense_bytes: int
    csr_bytes: int | None
    packed_bytes: int | None
    shape: tuple[int, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes in the form chosen."""
        sizes = {"csr": self.csr_bytes, "2:4": self.packed_bytes}
        return sizes.get(self.form) or self.dense_bytes


@dataclass(frozen=True)
class SparseExport:
    """A state_dict with sparse tensors where they are smaller; prints as a table.

    Attributes
    ----------
    tensors : dict of str -> Tensor
        As in the model's state_dict, those of more than two axes as matrices with a row
        for each entry of the first. `torch.save` stores it, ``torch.load`` with
        ``weights_only=True`` reads it, `load_sparse` puts it into a model.
    rows : tuple of TensorExport
        What each takes.
    """

    tensors: dict[str, Any] = field(repr=False)
    rows: tuple[TensorExport, ...]

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense state_dict."""
        return sum(row.dense_bytes for row in self.rows)

    @property
    def n_bytes(self) -> int:
        """Bytes in the forms chosen."""
        return sum(row.n_bytes for row in self.rows)

    def to_dense(self) -> dict[str, Any]:
        """Return the state_dict to load into the model."""
        shapes = {row.name: row.shape for row in self.rows}
        return {
            name: tensor.to_dense().reshape(shapes[name])
            if _is_sparse(tensor)
            else tensor
            for name, tensor in self.tensors.items()
        }

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [
            f"{row.name:<{width}}  {row.form:>5}  "
            f"{row.dense_bytes:>12,} -> {row.n_bytes:>12,} bytes"
            for row in self.rows
        ]
        saved = 1 - self.n_bytes / max(self.dense_bytes, 1)
        total = f"{self.dense_bytes:,} -> {self.n_bytes:,} bytes ({saved:.1%} saved)"
        return "\n".join([*lines, total, _NOTE])


def export_sparse(model: nn.Module) -> SparseExport:
    """Copy a model's state into sparse tensors where those are smaller.

    Parameters
    ----------
    model : torch.nn.Module
        Pruned; not changed.

    Returns
    -------
    SparseExport
        Weights of two axes or more (linear layers, convolutions) as CSR with 32-bit
        indices where that takes fewer bytes; those of linear layers as 2:4 tensors
        where the zeros follow that pattern and PyTorch has it on the weight's device
        (CUDA, float16 or bfloat16); all else dense.

    Notes
    -----
    CSR takes ``itemsize + 4`` bytes a non-zero and 4 a row, so float32 weights gain
    above about 50 % sparsity, and half-precision ones above about 67 %.

    Examples
    --------
    >>> import torch
    >>> from chita_torch import export_sparse
    >>> net = torch.nn.Linear(100, 50, bias=False)
    >>> net.weight.data[:, 10:] = 0
    >>> small = export_sparse(net)
    >>> small.dense_bytes, small.n_bytes
    (20000, 4204)
    """
    linear = {
        _place(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear)
    }
    tensors: dict[str, Any] = {}
    rows = []
    done: dict[tuple, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            tensors[name] = tensor  # what get_extra_state gave, whatever it is
            continue
        values, place = tensor.detach(), _place(tensor)
        shape = tuple(values.shape)
        if place in done:
            tensors[name] = done[place]  # which `torch.save` stores once
            rows.append(TensorExport(name, "tied", 0, None, None, shape))
            continue
        dense = values.numel() * values.element_size()
        csr = packed = None
        if _is_matrix(values):
            nonzero = int((values != 0).sum())
            csr = nonzero * (values.element_size() + 4) + 4 * (values.shape[0] + 1)
        if place in linear:
            # Half the values and two bits of position for each.
            packed = dense // 2 + values.numel() // 8 if _packs(values) else None
        sizes = {"dense": dense, "csr": csr, "2:4": packed}
        form = min((size, form) for form, size in sizes.items() if size is not None)[1]
        tensors[name] = done[place] = _FORMS[form](values)
        rows.append(TensorExport(name, form, dense, csr, packed, shape))
    return SparseExport(tensors, tuple(rows))


def _to_csr(values: Tensor) -> Tensor:
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants(True):
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        sparse = values.reshape(len(values), -1).to_sparse_csr()
        return torch.sparse_csr_tensor(
            sparse.crow_indices().int(),
            sparse.col_indices().int(),
            sparse.values(),
            size=sparse.shape,
        )


def _to_packed(values: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # torch warns once that the format is a prototype: nothing to do about it here.
        warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor")
        return torch.sparse.to_sparse_semi_structured(values.contiguous())


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": torch.clone,
    "csr": _to_csr,
    "2:4": _to_packed,
}


def _is_matrix(values: Tensor) -> bool:
    """Whether a tensor has rows to store sparse, with 32-bit indices."""
    plain = type(values) is Tensor and values.layout == torch.strided
    real = values.is_floating_point() or values.is_complex()
    return plain and real and values.ndim > 1 and 0 < values.numel() < 2**31


def load_sparse(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Load a state with sparse tensors into a model, whose own tensors stay dense.

    Parameters
    ----------
    model : torch.nn.Module
        Of the architecture that was exported; its ``load_state_dict`` is called.
    tensors : dict of str -> Tensor
        ``SparseExport.tensors``, as they are or from a file.

    Raises
    ------
    RuntimeError
        By ``load_state_dict``: if names or shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> from chita_torch import export_sparse, load_sparse
    >>> net, other = torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3)
    >>> net.weight.data[:, 1:] = 0
    >>> load_sparse(other, export_sparse(net).tensors)
    >>> torch.equal(net.weight, other.weight)
    True
    """
    own = model.state_dict(keep_vars=True)
    dense: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if _is_sparse(tensor):
            tensor = tensor.to_dense()
            if name in own and own[name].numel() == tensor.numel():
                tensor = tensor.reshape(own[name].shape)
        dense[name] = tensor
    model.load_state_dict(dense)


def _packs(values: Tensor) -> bool:
    """Whether the zeros are 2:4 and PyTorch has that form here."""
    rows, columns = values.shape
    if values.dtype not in (torch.float16, torch.bfloat16) or not values.is_cuda:
        return False
    if rows % 32 or columns % 64:
        return False
    return int((values.reshape(-1, 4) != 0).sum(dim=1).max()) <= 2


def _place(tensor: Tensor) -> tuple:
    """What tied tensors have in common; no more than themselves where empty."""
    where = tensor.data_ptr() or id(tensor)
    return where, tensor.dtype, tensor.shape, tensor.stride()


def _is_sparse(tensor: Any) -> bool:
    if not isinstance(tensor, Tensor):
        return False
    return tensor.layout != torch.strided or type(tensor) is not Tensor
