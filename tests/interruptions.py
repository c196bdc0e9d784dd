"""Ctrl-C at any moment: nothing of a model is changed, nothing is left behind.

    python -m tests.interruptions --count 500

Each trial prunes, refits or holds a small network and sends one SIGINT, or two, at
lines chosen beforehand: of the code that saves and restores, in turn every line; of
everything else of the adapter, at random. If KeyboardInterrupt comes out, all that can
be seen of model, optimizer and torch is as it was before the call (or, of a
`GradualPruner`, which counts its steps, all as it is after one).
"""

import argparse
import contextlib
import copy
import itertools
import linecache
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import chita_torch
from chita_torch import GradualPruner, keep_pruned, prune, refit
from chita_torch.batches import _fetching
from chita_torch.interrupts import AGAIN

ADAPTER = Path(chita_torch.__file__).parent
RESTORING = ("interrupts.py", "state.py", "gradual.py")
QUICK = {
    "samples_per_gradient": 4,
    "n_gradients": 8,
    "calibration": 0.25,
    "progress": False,
    "random_state": 0,
}


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def make():
    """A network in training, with an optimizer that remembers, and its batches."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.1), nn.Linear(5, 3)
    )
    model[3].eval()
    model[0].bias.requires_grad_(False)
    x = torch.randn(64, 6)
    batches = list(zip(x.split(16), (x[:, 0] > 0).long().split(16), strict=True))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    return model, optimizer, batches


def seen(model, optimizer, pruner=None):
    """All that can be seen of a model, its optimizer and torch's own state."""
    hooks = [
        (name, kind, len(value))
        for name, module in model.named_modules()
        for kind, value in vars(module).items()
        if kind.endswith("hooks") and isinstance(value, dict)
    ]
    parameters = {
        name: (
            id(p),
            type(p),
            p.requires_grad,
            p.detach().clone(),
            None if p.grad is None else p.grad.clone(),
            len(p._post_accumulate_grad_hooks or ()),
        )
        for name, p in model.named_parameters()
    }
    return {
        "parameters": parameters,
        "buffers": {n: (id(b), b.clone()) for n, b in model.named_buffers()},
        "training": [m.training for m in model.modules()],
        "momentum": [getattr(m, "momentum", None) for m in model.modules()],
        "hooks": hooks,
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "optimizer hooks": len(optimizer._optimizer_step_post_hooks),
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "functorch": torch._C._functorch.peek_interpreter_stack() is None,
        "handler": signal.getsignal(signal.SIGINT),
        "threads": threading.active_count(),
        "steps": None if pruner is None else (pruner._count, len(pruner.reports)),
    }


def same(one, other):
    """Equal, bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def by_gradients(model, optimizer, batches, loss_fn):
    return lambda: prune(
        *(model, batches, loss_fn),
        objective="gradients",
        sparsity=0.5,
        recalibrate_batchnorm=True,
        **QUICK,
    )


def by_reconstruction(model, optimizer, batches, loss_fn):
    return lambda: prune(
        *(model, batches, loss_fn), objective="reconstruction", sparsity=0.5, **QUICK
    )


def refitted(model, optimizer, batches, loss_fn):
    masks = {n: p.detach() > 0 for n, p in model.named_parameters() if p.ndim > 1}
    return lambda: refit(model, batches, loss_fn, masks=masks, random_state=0)


def held(model, optimizer, batches, loss_fn):
    masks = {n: p.detach() > 0 for n, p in model.named_parameters() if p.ndim > 1}
    return lambda: keep_pruned(model, optimizer, masks)


def gradually(model, optimizer, batches, loss_fn):
    pruner = GradualPruner(
        *(model, optimizer, batches, loss_fn),
        at=[1, 2],
        sparsity=0.5,
        objective="gradients",
        **QUICK,
    )
    pruner.step()
    return lambda: (pruner.step(), pruner)[1]


SCENARIOS = (by_gradients, by_reconstruction, refitted, held, gradually)


class Lines:
    """Sends SIGINT at a line of the adapter's files, counted from the start."""

    def __init__(self, files, at):
        self.files, self.at, self.count = files, at, 0

    def __call__(self, frame, event, argument):
        path = Path(frame.f_code.co_filename)
        return self.line if path.parent == ADAPTER and self.chosen(path) else None

    def chosen(self, path):
        return self.files is None or path.name in self.files

    def line(self, frame, event, argument):
        # Between the body of a `with` and the call of its exit, where the line is that
        # of the `with` again, and at a `try:`, which does nothing, a debugger can raise
        # but no signal is ever heard.
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not source.lstrip().startswith(("with ", "try:")):
            self.count += 1
            if self.count == self.at:
                signal.raise_signal(signal.SIGINT)
        return self.line


def trial(scenario, files, at, first=None):
    """Run with SIGINT at line `at`, and one in the `first` call of the loss before.

    Returns what is wrong, or None, and how many lines were run.
    """
    model, optimizer, batches = make()
    calls = itertools.count(1)
    armed = False

    def loss_fn(net, batch):
        if armed and next(calls) == first:
            signal.raise_signal(signal.SIGINT)
        return cross_entropy(net, batch)

    action = scenario(model, optimizer, batches, loss_fn)
    pruner = next(
        (c.cell_contents for c in action.__closure__ if _is_pruner(c.cell_contents)),
        None,
    )
    before, lines = seen(model, optimizer, pruner), Lines(files, at)
    armed, result = True, None
    tracing = sys.gettrace()  # of coverage, where that is measured
    sys.settrace(lines)
    try:
        result = action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(tracing)
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(20 * AGAIN)  # one that is repeated comes now
    if _fetching._is_owned():
        return "the lock on random numbers is held", lines.count
    if result is not None:
        return None, lines.count  # it was over when the signal was heard
    after = seen(model, optimizer, pruner)
    differ = [key for key in before if not same(before[key], after[key])]
    if differ and pruner is not None and after["steps"] != before["steps"]:
        zeros = sum(int((p == 0).sum()) for p in model.parameters())
        whole = after["steps"] == (2, 2) and pruner.kept._handles and zeros >= 22
        quiet = [k for k in ("training", "grad mode", "modes", "random", "handler")]
        if whole and all(same(before[k], after[k]) for k in quiet):
            return None, lines.count
    return (f"changed: {differ}" if differ else None), lines.count


def _is_pruner(value):
    return isinstance(value, GradualPruner)


def trials(count, seed=0):
    """Yield the arguments of `count` trials: all kinds in turn."""
    rng = random.Random(seed)
    lengths = {}
    for scenario in SCENARIOS:
        for files in (RESTORING, None):
            lengths[scenario, files] = trial(scenario, files, None)[1]
    kinds = []
    for scenario in SCENARIOS:
        n = lengths[scenario, RESTORING]
        restoring = [(scenario, RESTORING, at, None) for at in range(1, n + 1)]
        rng.shuffle(restoring)
        kinds.append(restoring)
        if scenario is not held:
            # Both: the second at a line of what the first one sets going.
            double = [
                (scenario, RESTORING, at, rng.randint(1, 12)) for at in range(1, n + 1)
            ]
            rng.shuffle(double)
            kinds.append(double)
        n = lengths[scenario, None]
        kinds.append([(scenario, None, rng.randint(1, n), None) for _ in range(count)])
    turns = itertools.zip_longest(*kinds)
    several = (each for turn in turns for each in turn if each is not None)
    return itertools.islice(several, count)


def main(argv=None):
    """Run; the exit status is 1 if anything was changed."""
    parser = argparse.ArgumentParser(prog="python -m tests.interruptions")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    failed = done = 0
    for arguments in trials(args.count, args.seed):
        fault, _ = trial(*arguments)
        done += 1
        if fault:
            failed += 1
            scenario, files, at, first = arguments
            print(f"{scenario.__name__}, {files}, line {at}, first {first}: {fault}")
    print(f"{done} interruptions, {failed} not whole")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
