"""What a layer is given, and what its outputs matter: one pass forward and backward.

For each part of a weight (`calls.Part`) with inputs x and outputs i,

    H   = mean of x x' over samples and positions
    g_i = mean over samples of the squared derivative of a sample's loss with respect
          to output i, summed over positions

so that  1/2 sum_i g_i (w_i - w0_i)' H (w_i - w0_i)  models the change of the loss: the
product of both means stands for the Fisher information (K-FAC with a diagonal output
side; Martens and Grosse, 2015). Never a matrix of samples x weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from .batches import Tree, n_samples
from .calls import Call, Part, Watch
from .gradients import LossFunction, NotFinite, checked_loss
from .layout import Layout, Slot
from .memory import available_bytes
from .ranks import HOST, Ranks

ROWS = 64  # rows of X read, at most, for each of its columns
CHUNK_BYTES = 2**26  # of X at a time
WEIGHT_BYTES = 100  # of a weight, while the budget is divided
WORKSPACE = 4  # Gram matrices that the solve of a layer takes: H, eigenvectors, factors


@dataclass
class Moments:
    """What the calls of one part have in common; t outputs and d inputs a group.

    Attributes
    ----------
    part : Part
    H : Tensor, shape (groups, d, d)
        Mean of x x', float64; over several ranks, on rank 0.
    g : Tensor, shape (groups, t)
        Mean squared derivative of the loss, float64.
    n_rows : int
        Rows of X that H is the mean of.
    calls : int
        Calls in one forward pass.
    """

    part: Part
    H: Tensor
    g: Tensor
    n_rows: int
    calls: int


class _Recorder(Watch):
    """Keeps the calls of a forward pass, and their outputs for the backward pass."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.slots)
        self._weights = layout.parameters
        self.seen: list[tuple[Call, Tensor]] = []

    def before(self, call: Call) -> Tensor:
        return self._weights[call.part.name]  # detached: needs no gradient of its own

    def after(self, call: Call, output: Tensor) -> Tensor:
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        self.seen.append((call, output))
        return output.clone()  # what follows may write in place


def gram(X: Tensor, Y: Tensor | None = None) -> Tensor:
    """Y'X of each group (X'X without Y): float32 products, added up in float64."""
    Y = X if Y is None else Y
    groups, m, d = X.shape
    step = max(1, CHUNK_BYTES // (X.element_size() * groups * d))
    total = torch.zeros((groups, Y.shape[2], d), dtype=torch.float64, device=X.device)
    for start in range(0, m, step):
        total += Y[:, start : start + step].mT @ X[:, start : start + step]
    return total


def check_memory(layout: Layout, device: torch.device) -> tuple[int, torch.device]:
    """Return the bytes that layers and budget take, and where; refuse what cannot fit.

    Of each layer H and its eigenvectors are held (a convolution in groups has as many
    as groups; the least, one, is counted), and some numbers for each weight while the
    budget is divided: on the device where that fits, or else on the host, where the
    budget is divided then. Layers are solved on the device, one at a time.
    """
    sizes = {s.name: 8 * _inputs(s) ** 2 for s in layout.slots}
    held = sum(s.pieces * sizes[s.name] for s in layout.slots)
    needed = 2 * held + WEIGHT_BYTES * len(layout)
    name = max(sizes, key=lambda each: sizes[each])
    most = WORKSPACE * sizes[name]
    free = available_bytes(device)
    if free is None or needed + most <= free:
        return needed, device
    host = torch.device(HOST)
    if device.type != host.type and most <= free:
        beside = available_bytes(host)
        if beside is None or needed <= beside:
            return needed, host
    msg = (
        "the moments of the layers and their budget need about "
        f"{needed / 2**30:.1f} GiB, and the largest, {name!r}, {most / 2**30:.1f} "
        f"GiB more to be solved; {free / 2**30:.1f} GiB are free on {device}. "
        "Leave layers out with exclude=, or prune by objective='gradients' with "
        "block_size=."
    )
    raise MemoryError(msg)


def _inputs(slot: Slot) -> int:
    """Inputs of an output that are solved together."""
    if len(slot.experts) > 1:
        return slot.row_length
    return slot.size // slot.n_rows // slot.pieces


def rows_of(d: int, share: float) -> int:
    """Rows to read of X with d columns, of a share of the samples."""
    return max(1, round(ROWS * d * share))


def place(layout: Layout, part: Part) -> slice:
    """Place of a part's weights in the flat vector."""
    slot = layout.slot(part.name)
    within = part.stretch(slot)
    return slice(slot.start + within.start, slot.start + within.stop)


def collect(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Tree],
    layout: Layout,
    n: int,
    ranks: Ranks | None = None,
    before: int = 0,
    held: torch.device | None = None,
) -> dict[Part, Moments]:
    """Run the model on batches, forward and backward, and sum up what the calls see.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    loss_fn : callable
        ``loss_fn(model, batch) -> scalar mean loss``.
    batches : iterable of batches
        ``n`` samples in all.
    layout : Layout
        The chosen weights.
    n : int
        Samples, of all ranks.
    ranks : Ranks, optional
        Whose batches are summed over; H is on rank 0 alone.
    before : int, default=0
        Batches of the ranks before this one.
    held : torch.device, optional
        Where the sums are; default: where the inputs are.

    Returns
    -------
    dict of Part to Moments
        In the order in which the parts are run. Weights that no linear or convolution
        call uses are not in it.

    Notes
    -----
    Time: a forward and a backward pass, and O(d^2) for each row of X, of which
    ``ROWS d`` are read. Memory: 8 d^2 bytes a group, and the pass of one batch.
    """
    found: dict[Part, Moments] = {}
    for index, batch in enumerate(batches, start=before):
        size, recorder = n_samples(batch), _Recorder(layout)
        with torch.enable_grad(), recorder:
            loss = checked_loss(loss_fn(model, batch))
        outputs = [output for _, output in recorder.seen]
        gradients: Sequence[Tensor | None] = [None] * len(outputs)
        if loss.requires_grad and outputs:
            try:
                gradients = torch.autograd.grad(loss, outputs, allow_unused=True)
            except CheckpointError as error:
                msg = (
                    "a part of the model is a checkpoint (torch.utils.checkpoint), "
                    "which computes it again where its calls are not seen. Switch "
                    "checkpoints off while pruning, or use objective='gradients'."
                )
                raise ValueError(msg) from error
        counts = Counter(call.part for call, _ in recorder.seen)
        for (call, _), gradient in zip(recorder.seen, gradients, strict=True):
            where, part = place(layout, call.part), call.part
            d = (where.stop - where.start) // (part.n_outputs * part.groups)
            X = call.rows(rows_of(d, size / n), index)
            its = found.get(part)
            if its is None:
                H = X.new_zeros((len(X), d, d), dtype=torch.float64, device=held)
                g = H.new_zeros((len(X), part.n_outputs))
                its = found[part] = Moments(part, H, g, 0, 0)
            its.H += gram(X).to(its.H.device)
            its.n_rows += X.shape[1]
            its.calls = max(its.calls, counts[part])
            if gradient is not None:  # of the mean loss: 1 / size of a sample's
                its.g += (size**2 / n * call.outputs(gradient)).to(its.g.device)
    # A layer that was called with no rows (an idle expert) was not called.
    found = {part: its for part, its in found.items() if its.n_rows}
    if ranks is not None and ranks.size > 1:
        found = _summed(found, layout, ranks, held or layout.device)
    for its in found.values():
        its.H = its.H / its.n_rows
        if not bool(torch.isfinite(its.H).all() and torch.isfinite(its.g).all()):
            msg = (
                f"the inputs of {its.part.name!r}, the derivatives of the loss with "
                "respect to its outputs, or their squares are not finite. Check the "
                "batches for NaN and for scale, and loss_fn for log(0) or overflow."
            )
            raise NotFinite(msg)
    return found


def _summed(
    found: dict[Part, Moments], layout: Layout, ranks: Ranks, held: torch.device
) -> dict[Part, Moments]:
    """Sums over the ranks, part by part; what one has not run is zero there."""
    names = layout.names
    own = []
    for p, its in found.items():
        form = (names.index(p.name), p.start, p.stop, p.groups, p.inputs, int(p.cut))
        own.append([*form, its.H.shape[-1], its.n_rows, its.calls])
    rows = ranks.gather(torch.tensor(own, dtype=torch.int64, device="cpu").view(-1, 9))
    counts: dict[Part, tuple[int, int, int]] = {}
    for index, start, stop, groups, inputs, cut, *rest in torch.cat(rows).tolist():
        part = Part(names[index], start, stop, groups, inputs, bool(cut))
        d, n, calls = rest
        _, n_before, most = counts.get(part, (d, 0, 0))
        counts[part] = d, n_before + n, max(most, calls)
    total = {}
    for part, (d, n_rows, calls) in counts.items():
        if part in found:
            its = found.pop(part)
        else:
            shape = (part.groups, d, d)
            H = torch.zeros(shape, dtype=torch.float64, device=held)
            its = Moments(part, H, H.new_zeros((part.groups, part.n_outputs)), 0, 0)
        H = ranks.reduce(its.H, 0)
        if ranks.rank:
            H = H.new_zeros(()).expand(H.shape)  # of the form, and of no size
        total[part] = Moments(part, H, ranks.sum(its.g), n_rows, calls)
    return total
