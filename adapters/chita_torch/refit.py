"""`refit`: the best values of the weights that a mask has kept, wherever it is from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from chita_sklearn.core import BlockDiagonal, Solution, fit_support

from . import reconstruction
from .batches import Batches, Split, Tree
from .checks import (
    check_count,
    check_device,
    check_model,
    check_ridge,
    check_seed,
    check_split,
)
from .gradients import LossFunction, over_pieces
from .kinds import bare
from .layout import COLUMNS, Layout, Selector
from .predictions import Predictions
from .ranks import TIMEOUT, Group, Ranks
from .reconstruction import Reconstruction
from .shards import takes_shards
from .stage import Setting
from .state import AllOrNothing


@takes_shards
def refit(
    model: nn.Module,
    batches: Iterable[Tree],
    loss_fn: LossFunction | None = None,
    *,
    dense: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    include: Selector | Iterable[Selector] | None = None,
    exclude: Selector | Iterable[Selector] | None = None,
    ridge: float = reconstruction.DAMPING,
    n_samples: int = 4096,
    split: Split | None = None,
    device: torch.device | str | None = None,
    random_state: int | None = None,
    group: Group | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, float]:
    r"""Solve the kept weights of a pruned network for the dense network's outputs.

    Layer by layer in the order in which they run, with x the inputs that the refitted
    network gives a layer and :math:`x_0, w_0` those and the weights of the dense one,

    .. math::

        \min_w \frac12 \operatorname{mean} (w^T x - w_0^T x_0)^2
        + \frac{\mu}{2} \|w - \bar w\|^2

    over the weights of each output that the mask keeps; :math:`\mu` is ``ridge`` times
    the mean of :math:`x_j^2`, :math:`\bar w` the dense weights where they are kept.
    The masks may come from anywhere: magnitude, N:M, `torch.nn.utils.prune` (after
    ``prune.remove``). No labels are needed, and no gradient is taken.

    Parameters
    ----------
    model : torch.nn.Module
        Refitted in place; it is exactly as it was if anything fails.
    batches : iterable of batches
        As in `prune`.
    loss_fn : callable, optional
        ``loss_fn(model, batch)`` runs the model on a batch; what it returns is not
        used. By default the model is called on the batch, on the first part of a
        tuple, or with a mapping as keywords.
    dense : dict of str -> Tensor, optional
        State of the network before it was pruned (its ``state_dict()``); by default
        the model's own weights, which ``masks`` then prune.
    masks : dict of str -> Tensor of bool, optional
        The weights to keep, as in ``PruningReport.masks``; by default those that are
        not zero.
    include, exclude : optional
        As in `prune`: which weights to refit.
    ridge : float, default=0.01
        In the formula above, in units of the mean square of an input.
    n_samples : int, default=4096
        Samples to use at most.
    split : callable or "batch", optional
        As in `prune`: how a batch is cut into samples.
    device : torch.device or str, optional
        Where the layers are solved; default: where the weights are.
    random_state : int, optional
        Decides which samples are used.
    group, timeout : optional
        As in `prune`: the ranks that refit together, each with batches of its own.

    Returns
    -------
    dict of str -> float
        Of each layer the squared error of its outputs over their square.

    Raises
    ------
    ValueError
        If neither ``dense`` nor ``masks`` is given, or one fits no weight.
    TypeError, RuntimeError
        As in `prune`: for weights sharded otherwise than by `fully_shard`, and on one
        rank of several.

    Notes
    -----
    Time: three forward passes, and O(d^3) for each output of a layer of d inputs.

    Examples
    --------
    >>> import torch
    >>> from chita_torch import refit
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Linear(4, 1, bias=False)
    >>> x = torch.randn(64, 1) + 0.1 * torch.randn(64, 4)  # columns much alike
    >>> y = net(x)
    >>> keep = torch.tensor([[True, False, False, False]])
    >>> errors = refit(net, [x], masks={"weight": keep})
    >>> int((net.weight != 0).sum()), bool(errors["weight"] < 0.1)
    (1, True)
    """
    check_model(model, loss_fn)
    ranks = Ranks(group, timeout, "refit")
    model = bare(model)
    if dense is None and masks is None:
        msg = (
            "refit needs the network before it was pruned: give its state_dict as "
            "dense=; or, where the model still has all of its weights, masks= of those "
            "to keep."
        )
        raise ValueError(msg)
    check_split(split)
    ridge = check_ridge(ridge)
    n_samples = check_count("n_samples", n_samples, 1)
    layout = Layout.of(model, include, exclude, COLUMNS)
    present = layout.gather()
    given = _gather(layout, "dense", dense, present)
    kept = _gather(layout, "masks", masks, present != 0) != 0
    solve_on = check_device(layout.device) if device is None else check_device(device)
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    else:
        generator.manual_seed(check_seed(random_state))
    own = Predictions(0)
    forward = over_pieces(own.outputs if loss_fn is None else loss_fn)

    def without_gradient(net: nn.Module, batch: Tree) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(forward(net, batch)).float().mean()

    with ranks, AllOrNothing(model, layout, solve_on):
        ranks.check_same(model)
        generator.manual_seed(ranks.same(generator.initial_seed()))
        data = Batches(batches, 1, 0.0, layout.device, generator, split, ranks)
        setting = Setting(
            model,
            forward,
            data,
            n_gradients=1,
            solver="auto",
            staged=False,
            regrow=True,
            block_size=None,
            device=solve_on,
            random_state=0,
            progress=lambda done, count: None,
            ranks=ranks,
        )
        task = Reconstruction(
            setting, layout, data.sample(n_samples), forward, forward, ridge, False
        )
        task.dense = given
        moments = task.collect(without_gradient)
        pruned = torch.where(kept, given, 0.0)

        def choose(where: slice, problem: BlockDiagonal) -> Solution:
            return fit_support(problem, kept[where].to(solve_on))

        found = task.layers(moments, choose, pruned, kept, pruned, ridge)
        layout.scatter(found.weights)
        ranks.commit(layout)
        return {name: fit.error for name, fit in found.fits.items()}


def _gather(
    layout: Layout,
    argument: str,
    tensors: Mapping[str, Tensor] | None,
    default: Tensor,
) -> Tensor:
    """The tensors of the chosen weights as one vector; those not given by default."""
    if tensors is None:
        return default
    flat = default.clone()
    for slot in layout.slots:
        tensor = tensors.get(slot.name)
        if tensor is None:
            continue
        if tensor.shape != slot.parameter.shape:
            msg = (
                f"{argument}[{slot.name!r}] has shape {tuple(tensor.shape)}; the "
                f"weight has {tuple(slot.parameter.shape)}."
            )
            raise ValueError(msg)
        flat[slot.start : slot.stop] = slot.flatten(tensor.detach()).to(flat)
    unknown = tensors.keys() - {slot.name for slot in layout.slots}
    if argument == "masks" and unknown:
        msg = f"masks names {sorted(unknown)}, which are no weights to refit."
        raise ValueError(msg)
    return flat
