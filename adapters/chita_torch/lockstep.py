"""Forward passes that stop at every chosen weight, and go on with another one.

Each batch is passed through the network twice, side by side: with the dense weights and
with those pruned so far. All passes wait where the next weight is used, until it has
been solved for what they show; then they go on with it. So every layer is solved for
the inputs that the pruned network gives, at the price of one forward pass in all,
whatever the network is made of: nothing is computed again for the next layer. What is
kept meanwhile are the activations that the passes still need, of all samples.

A pass that can stop in the middle is a thread. One runs at a time, handed on by
semaphores, so that the order of everything is fixed. Batches that are many are joined,
so that there are no more than some hundred threads.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from .batches import Tree
from .calls import Call, Part, Watch
from .gradients import LossFunction
from .interrupts import whole
from .layout import Layout
from .ranks import Ranks


class _Cancelled(BaseException):
    """Ends a pass whose result nobody waits for."""


class Pass(Watch):
    """One forward pass; `call` is the use of a weight that it waits at.

    Parameters
    ----------
    run : callable
        Makes the pass.
    layout : Layout
        The chosen weights.
    weight : callable
        ``weight(part)`` is what to use, of the parameter's shape; None: wait.
    """

    def __init__(
        self,
        run: Callable[[], object],
        layout: Layout,
        weight: Callable[[Part], Tensor | None],
    ) -> None:
        super().__init__(layout.slots)
        self.call: Call | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._run, self._weight, self._device = run, weight, layout.device
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work,), daemon=True
        )

    def advance(self) -> None:
        """Let the pass run to where it waits next, or to its end."""
        if self._thread.ident is None:
            self._start()
        self.call = None
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:  # what Python makes of any refusal
            msg = (
                "the machine, or a limit on this process, allows no further thread, of "
                "which each pass over a batch takes one; the model is as it was. Use "
                "fewer samples (n_samples=) in larger batches."
            )
            raise MemoryError(msg) from error

    def cancel(self) -> None:
        """End the pass where it is."""
        self._cancelled = True
        self._go.release()
        if self._thread.ident is not None:
            self._thread.join()

    def before(self, call: Call) -> Tensor:
        """Wait until the weight is known."""
        weight = self._weight(call.part)
        if weight is None and not self._cancelled:
            self.call = call
            self._stopped.release()
            self._go.acquire()
            weight = self._weight(call.part)
        if self._cancelled:
            raise _Cancelled
        assert weight is not None
        return weight

    def _work(self) -> None:
        self._go.acquire()
        try:
            if not self._cancelled:
                if self._device.type == "cuda":
                    torch.cuda.set_device(self._device)
                with torch.no_grad(), self:
                    self._run()
        except _Cancelled:
            pass
        except BaseException as error:
            self._error = error  # raised where the pass is waited for
        finally:
            self._stopped.release()


class Lockstep:
    """All batches through the dense and the pruned network, weight after weight.

    Iterate within a ``with`` statement: each item is a part that all passes wait at,
    and for each batch its call in the pruned network and in the dense one. Put the
    weight to go on with into `pruned` before the next item.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    loss_fn : callable
        Runs the model on a batch.
    batches : sequence of batches
    layout : Layout
        The chosen weights.
    dense, pruned : dict of str to Tensor
        The weights by name, in the parameters' shapes; ``pruned`` is written to.
    parts : iterable of Part
        Those to wait at. Other calls go on with what is in ``dense`` and ``pruned``.
    ranks : Ranks, optional
        That pass batches of their own and wait for each other: all of them are given
        the same parts in the same order, calls or none.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Sequence[Tree],
        layout: Layout,
        dense: dict[str, Tensor],
        pruned: dict[str, Tensor],
        parts: Iterable[Part],
        ranks: Ranks | None = None,
    ) -> None:
        self.pruned = pruned
        self._parts, self._ranks = tuple(parts), ranks
        self._left = set(self._parts)

        def runner(batch: Tree) -> Callable[[], object]:
            return lambda: loss_fn(model, batch)

        def reader(weights: dict[str, Tensor]) -> Callable[[Part], Tensor | None]:
            return lambda part: None if part in self._left else weights[part.name]

        self._pairs = [
            tuple(Pass(runner(batch), layout, reader(w)) for w in (pruned, dense))
            for batch in batches
        ]

    def __enter__(self) -> Self:
        return self

    @whole
    def __exit__(self, *exception: object) -> None:
        for pair in self._pairs:
            for each in pair:
                each.cancel()

    def __iter__(self) -> Iterator[tuple[Part, list[tuple[int, Call, Call]]]]:
        for pair in self._pairs:
            for each in pair:
                each.advance()
        while (part := self._next()) is not None:
            here = [
                (number, one.call, other.call)
                for number, (one, other) in enumerate(self._pairs)
                if one.call is not None and one.call.part == part
                # A network whose way depends on its values may part from the dense one.
                if other.call is not None and other.call.part == part
            ]
            yield part, here
            self._left.discard(part)
            for pair in self._pairs:
                for each in pair:
                    if each.call is not None and each.call.part == part:
                        each.advance()

    def _next(self) -> Part | None:
        waiting = (each.call for pair in self._pairs for each in pair)
        part = next((call.part for call in waiting if call is not None), None)
        if self._ranks is None or self._ranks.size == 1:
            return part
        number = -1 if part is None else self._parts.index(part)
        own = torch.tensor([number], device="cpu")
        found = torch.cat(self._ranks.gather(own)).tolist()
        return next((self._parts[i] for i in found if i >= 0), None)
