"""Random small networks, pruned in every way.

    python -m tests.fuzz_networks --count 300      # prints the seed of what fails
    python -m tests.fuzz_networks --seed 123       # one network again

Networks nest and share linear layers, convolutions, attention, recurrent layers, norms,
experts, adapters; some layers are frozen, tied, wrapped, computed by a parametrization,
unused, dead, or behind something that gradients do not pass. Each is pruned once, with
an objective, a budget and settings drawn. Then either

- the budget is met exactly, what is pruned is zero, outputs are finite, everything else
  is bit for bit as before, and a step of training under the hold keeps the zeros;
- or an error of `chita_torch` itself was raised, and nothing at all has changed.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import traceback
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from chita_torch import compact, keep_pruned, prune

WIDTH = 8
HERE = str(Path("adapters") / "chita_torch")


class Called(nn.Module):
    """A module from a function of its parts and the input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def residual(self, x):
    return x + self.inner(x)


def branches(self, x):
    return sum(branch(x) for branch in self.branches.values())


def twice(self, x):
    return self.inner(self.inner(x))


def checkpointed(self, x):
    return checkpoint(self.inner, x, use_reentrant=False)


def unused(self, x):
    return x


def dead(self, x):
    return x + torch.relu(self.inner(x) - 1e4)


def without_gradient(self, x):
    with torch.no_grad():
        return self.inner(x)


def detached(self, x):
    return x + self.inner(x).detach()


def attention(self, x):
    y = x if x.ndim == 3 else x[:, None]
    y = self.inner(y, y, y, need_weights=False)[0]
    return y if x.ndim == 3 else y[:, 0]


def recurrent(self, x):
    y = x if x.ndim == 3 else x[:, None]
    y = self.inner(y)[0]
    return y if x.ndim == 3 else y[:, 0]


def convolution(self, x):
    y = x[..., None] if x.ndim == 2 else x.mT
    y = self.inner(y)
    return y[..., 0] if x.ndim == 2 else y.mT[:, : x.shape[1]]


def images(self, x):
    y = self.inner(x.reshape(-1, 2, 2, 2)).reshape(len(x), -1, WIDTH)
    return y.mean(dim=1) if x.ndim == 2 else x + y.mean(dim=1, keepdim=True)


def adapted(self, x):
    return self.base(x) + self.lora_B(self.lora_A(x))


def mixed(self, x):
    share, chosen = self.gate(x).softmax(dim=-1).max(dim=-1)
    hidden = torch.relu((x[..., None, :] @ self.up[chosen])[..., 0, :])
    return x + share[..., None] * (hidden[..., None, :] @ self.down[chosen])[..., 0, :]


def listed(self, x):
    share, chosen = self.gate(x).softmax(dim=-1).max(dim=-1)
    y = x
    for e, expert in enumerate(self.experts):
        mine = chosen == e
        y = y.masked_scatter(
            mine[..., None], x[mine] + share[mine][:, None] * expert(x[mine])
        )
    return y


class Maker:
    """Draws networks; ``depth`` bounds their nesting."""

    def __init__(self, rng):
        self.rng, self.made = rng, []

    def leaf(self):
        kind = self.rng.choice(
            "linear linear linear mlp norm batchnorm attention gru conv1d conv2d "
            "transposed grouped lora experts list".split()
        )
        return getattr(self, kind)()

    def linear(self):
        layer = nn.Linear(WIDTH, WIDTH, bias=self.rng.random() < 0.7)
        self.made.append(layer)
        how = self.rng.random()
        if how < 0.08 and len(self.made) > 1:
            layer.weight = self.made[0].weight
        elif how < 0.14:
            layer.weight.data = self.made[0].weight.data
        elif how < 0.24:
            layer.requires_grad_(requires_grad=False)
        elif how < 0.3:
            nn.utils.parametrizations.weight_norm(layer)
            self.made.pop()
        elif how < 0.36:
            nn.init.zeros_(layer.weight)
        return layer

    def mlp(self):
        return nn.Sequential(
            nn.Linear(WIDTH, 11), nn.ReLU(), nn.Dropout(0.2), nn.Linear(11, WIDTH)
        )

    def norm(self):
        return nn.LayerNorm(WIDTH)

    def batchnorm(self):
        return Called(convolution, inner=nn.BatchNorm1d(WIDTH))

    def attention(self):
        own = {"kdim": WIDTH, "vdim": WIDTH} if self.rng.random() < 0.3 else {}
        inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True, **own)
        return Called(attention, inner=inner)

    def gru(self):
        return Called(recurrent, inner=nn.GRU(WIDTH, WIDTH, batch_first=True))

    def conv1d(self):
        return Called(convolution, inner=nn.Conv1d(WIDTH, WIDTH, 3, padding=1))

    def conv2d(self):
        inner = nn.Conv2d(2, 4, (2, 1), padding="same", dilation=(1, 2))
        return Called(images, inner=inner)

    def transposed(self):
        groups = self.rng.choice([1, 2])
        inner = nn.ConvTranspose2d(2, 4, 2, stride=2, groups=groups)
        return Called(images, inner=inner)

    def grouped(self):
        groups = self.rng.choice([2, WIDTH])
        inner = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=groups)
        return Called(convolution, inner=inner)

    def lora(self):
        base = nn.Linear(WIDTH, WIDTH).requires_grad_(requires_grad=False)
        first, second = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)
        nn.init.zeros_(second.weight)
        return Called(adapted, base=base, lora_A=first, lora_B=second)

    def experts(self):
        gate = nn.Linear(WIDTH, 3)
        up = nn.Parameter(0.3 * torch.randn(3, WIDTH, 6))
        down = nn.Parameter(0.3 * torch.randn(3, 6, WIDTH))
        return Called(mixed, gate=self.routed(gate), up=up, down=down)

    def list(self):
        experts = nn.ModuleList(self.mlp() for _ in range(3))
        return Called(listed, gate=self.routed(nn.Linear(WIDTH, 3)), experts=experts)

    def routed(self, gate):
        if self.rng.random() < 0.5:  # nobody goes to the last
            with torch.no_grad():
                gate.bias[-1] = -1e4
        return gate

    def block(self, depth):
        if depth == 0 or self.rng.random() < 0.2:
            return self.leaf()
        kind = self.rng.choice("chain chain residual branches twice odd".split())
        if kind == "chain":
            parts = []
            for _ in range(self.rng.randint(1, 3)):
                parts += [self.block(depth - 1), self.rng.choice(ACTIVATIONS)()]
            return nn.Sequential(*parts)
        if kind == "branches":
            both = {name: self.block(depth - 1) for name in ("left", "right")}
            return Called(branches, branches=nn.ModuleDict(both))
        way = {"residual": residual, "twice": twice}.get(kind)
        if way is None:
            ways = [checkpointed, checkpointed, unused, dead, without_gradient]
            way = self.rng.choice([*ways, detached])
        return Called(way, inner=self.block(depth - 1))

    def network(self):
        parts = [self.block(self.rng.randint(0, 3)) for _ in range(2)]
        model = nn.Sequential(*parts, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3))
        if self.rng.random() < 0.1:
            model.requires_grad_(requires_grad=False)
        if self.rng.random() < 0.1:
            model = in_parallel(model)
        dtype = self.rng.choice([torch.float32] * 6 + [torch.float64, torch.bfloat16])
        return model.to(dtype).train(self.rng.random() < 0.5), dtype


ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Identity, nn.Tanh)


def mean(outputs):
    return outputs if outputs.ndim == 2 else outputs.mean(dim=1)


def loss_fn(model, batch):
    return F.cross_entropy(mean(model(batch[0])).float(), batch[1])


COSTS = ("weights", "flops")


def options_of(rng):
    """Settings of `prune`, and the share that is pruned (None for N:M)."""
    sparsity = rng.choice([0.0, 0.3, 0.5, 0.75, 0.9, 0.99])
    budget = rng.choice(
        [
            {"sparsity": sparsity},
            {"sparsity": sparsity},
            {"sparsity": sparsity, "scope": "layer"},
            {"scope": {"*": sparsity}},
            {"sparsity": sparsity, "min_density": (1 - sparsity) / 3},
            {"pattern": rng.choice(["2:4", "1:2", "3:8"])},
            {"pattern": "units", "sparsity": sparsity, "scope": "layer"},
            {"pattern": "units", "sparsity": sparsity, "cost": rng.choice(COSTS)},
        ]
    )
    objective = rng.choice(["gradients", "reconstruction", "auto"])
    options = {
        **budget,
        "objective": objective,
        "stages": rng.choice([1, 1, 1, 2]),
        "regrow": rng.random() < 0.8,
        "n_gradients": rng.choice([1, 6, 12]),
        "samples_per_gradient": rng.choice([1, 2, 4]),
        "n_samples": rng.choice([5, 1000]),
        "calibration": rng.choice([0.0, 0.25, 0.25, 0.25]),
        "block_size": rng.choice([None, None, 40]),
        "split": rng.choice([None, None, None, "batch"]),
        "recalibrate_batchnorm": False,
        "progress": False,
        "random_state": rng.randrange(1000),
    }
    if options["calibration"] == 0 and objective == "gradients":
        options |= {"ridge": 0.1, "first_order": False}
    if options["split"] is not None:
        options["samples_per_gradient"] = 1
    return options


def faults(seed):
    """What is wrong with one network, as a list of sentences."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model, dtype = Maker(rng).network()
    shape = rng.choice([(WIDTH,), (WIDTH,), (3, WIDTH)])
    batches = [
        (torch.randn(6, *shape, dtype=dtype), torch.randint(3, (6,))) for _ in range(4)
    ]
    options = options_of(rng)
    loss = (
        None if options["objective"] != "gradients" and rng.random() < 0.2 else loss_fn
    )
    if loss is None and len(shape) == 2:
        loss = loss_fn
    before, flags = copy.deepcopy(model.state_dict()), flags_of(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = prune(model, batches, loss, **options)
    except Exception as error:
        found = changed(model, before, {}) + (flags != flags_of(model)) * ["flags"]
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        clear = isinstance(error, ValueError | TypeError | MemoryError)
        if not (clear and HERE in where):
            found.append("".join(traceback.format_exception(error)[-6:]))
        return found
    found = changed(model, before, report.masks)
    found += checked(model, report, options)
    if flags != flags_of(model):
        found.append("flags or gradients were left")
    if options.get("pattern") == "units":
        found += sliced(model, batches, report)
    with torch.no_grad():
        if not bool(torch.isfinite(model.eval()(batches[0][0])).all()):
            found.append("outputs are not finite")
    return found + held(model, batches)


def in_parallel(model):
    """Wrap a model, and leave it on the host where there are GPUs to move it to."""
    model = nn.DataParallel(model).cpu()
    model.device_ids = []
    return model


def bare(model):
    return model.module if isinstance(model, nn.DataParallel) else model


def flags_of(model):
    return (
        [(name, m.training) for name, m in model.named_modules()],
        [(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()],
    )


def changed(model, before, masks):
    """Tensors that are not as they were, but for those that a mask names."""
    after, prefix = model.state_dict(), "" if model is bare(model) else "module."
    memory = {p.data_ptr() for n, p in bare(model).named_parameters() if n in masks}
    return [
        f"{name} was changed"
        for name, tensor in before.items()
        if name.removeprefix(prefix) not in masks
        and after[name].data_ptr() not in memory
        and not torch.equal(after[name], tensor)
    ]


def checked(model, report, options):
    """Whether the budget is met, by counting."""
    found = []
    parameters = dict(bare(model).named_parameters())
    sizes = {name: mask.numel() for name, mask in report.masks.items()}
    kept = {name: int(mask.sum()) for name, mask in report.masks.items()}
    for name, mask in report.masks.items():
        if bool((parameters[name][~mask] != 0).any()):
            found.append(f"pruned weights of {name} are not zero")
    if sum(kept.values()) != report.n_kept:
        found.append("n_kept is not what the masks keep")
    if options.get("pattern") == "units":
        return found + unit_faults(report, options)
    if "pattern" in options:
        n, m = map(int, options["pattern"].split(":"))
        for name, mask in report.masks.items():
            if mask.ndim == 2:
                rows = F.pad(mask.float(), (0, -mask.shape[1] % m))
                most = rows.reshape(len(mask), -1, m).sum(dim=-1)
                if float(most.max()) > n:
                    found.append(f"{name} is not {options['pattern']}")
        return found
    scope = options.get("scope", "global")
    if scope == "global":
        expected = {"all": round((1 - options["sparsity"]) * sum(sizes.values()))}
        counted = {"all": sum(kept.values())}
    else:
        share = options["sparsity"] if scope == "layer" else scope["*"]
        expected = {name: round((1 - share) * size) for name, size in sizes.items()}
        counted = kept
    for name, count in counted.items():
        if count > expected[name] or (options["regrow"] and count < expected[name]):
            found.append(f"{name}: {count} kept, not {expected[name]}")
    return found


def unit_faults(report, options):
    """Whether whole units were removed, as many as asked."""
    found = []
    for units in report.units:
        expected = max(1, round((1 - options["sparsity"]) * units.n_units))
        if options.get("scope") == "layer" and units.n_kept != expected:
            found.append(f"{units.writers}: {units.n_kept} units, not {expected}")
        if units.n_kept < 1:
            found.append(f"{units.writers} are dead")
    before, after = report.sizes[options.get("cost", "weights")]
    if "cost" in options and after > (1 - options["sparsity"]) * before * (1 + 1e-9):
        found.append(f"{after} of {before} left")
    return found


def sliced(model, batches, report):
    """Whether a smaller model gives the same, and is as small as the report says."""
    model = bare(model)
    try:
        small = compact(model, batches[0][0], tolerance=2e-2)
    except ValueError as error:
        return [] if "cannot trace" in str(error) else [f"not sliced: {error}"]
    names = {name for units in report.units for name in units.writers + units.readers}
    most = sum(int(report.masks[name].sum()) for name in names)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    left = [p.numel() for n, p in small.named_parameters() if n in names]
    if sum(left) > most and all(n in shapes for n in names):
        return [f"{sum(left)} weights are left, not {most}"]
    return []


def held(model, batches):
    """Whether a step under the hold keeps the zeros."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        return []
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    with warnings.catch_warnings(), keep_pruned(model, optimizer) as hold:
        for batch in batches:
            loss_fn(model, batch).backward()
            optimizer.step()
    parameters = dict(bare(model).named_parameters())
    return [
        f"the hold lost zeros of {name}"
        for name, mask in hold.masks.items()
        if bool((parameters[name][~mask] != 0).any())
    ]


def main():
    """Run many seeds, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.count)
    failed = 0
    for seed in seeds if given.seed is None else [given.seed]:
        if found := faults(seed):
            failed += 1
            print(f"seed {seed}:", *found, sep="\n  ", flush=True)
    print(f"{failed} of {len(seeds) if given.seed is None else 1} networks failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
