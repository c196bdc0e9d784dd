"""Batches are replayed, cut and held back without any sample seen twice."""

import copy
from collections import OrderedDict, UserDict
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from chita_torch import prune, refit  # noqa: E402
from chita_torch.batches import (  # noqa: E402
    Batches,
    Pieces,
    joined,
    map_tensors,
    n_samples,
)


def make(source, B=4, calibration=0.25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batches(source, B, calibration, torch.device("cpu"), generator)


def loader(n=64, batch_size=8, **options):
    return DataLoader(
        TensorDataset(torch.arange(n)), batch_size, shuffle=True, **options
    )


def seen(trees):
    return sorted(int(x) for tree in trees for x in tree[0])


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(3)])
def test_a_shuffling_loader_never_leaks_calibration_samples(generator):
    batches = make(loader(generator=generator))
    held = seen(batches.calibration)
    assert len(held) == 16
    for _ in range(3):
        drawn = seen(batches.draw(1000))
        assert len(drawn) == 48
        assert not set(held) & set(drawn)
        assert sorted(held + drawn) == list(range(64))
        assert seen(batches.remaining()) == drawn


def test_draws_have_no_repeats_and_differ_between_draws():
    batches = make(loader())
    first, second = seen(batches.draw(5)), seen(batches.draw(5))
    assert len(set(first)) == len(first) == 20
    assert first != second


def test_the_same_seed_draws_the_same_and_leaves_global_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        batches = make([(torch.arange(40)[i : i + 8],) for i in range(0, 40, 8)])
        draws.append([seen(batches.calibration), seen(batches.draw(3))])
        assert torch.equal(torch.rand(3), expected)
    assert draws[0] == draws[1]


def test_a_loaders_own_generator_is_left_as_it_was():
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    make(loader(generator=generator))
    assert torch.equal(generator.get_state(), state)


def test_a_short_last_batch_is_cut_to_whole_micro_batches():
    batches = make(list(torch.arange(22).split(8)), calibration=0)
    assert batches.n_available == 5
    assert len(list(batches.draw(10))) == 5
    assert batches.calibration == []


class Pair(NamedTuple):
    x: torch.Tensor
    rest: list


def test_trees_of_every_kind_are_cut_along_the_first_axis():
    tree = {
        "a": torch.arange(8),
        "b": Pair(torch.ones(8, 2), [torch.zeros(8, 1), None, "text"]),
    }
    assert n_samples(tree) == 8
    (first, *_) = make([tree], calibration=0).draw(2)
    assert first["a"].tolist() == [0, 1, 2, 3]
    assert isinstance(first["b"], Pair)
    assert first["b"].x.shape == (4, 2)
    assert first["b"].rest[1:] == [None, "text"]
    doubled = map_tensors(lambda t: 2 * t, tree)
    assert doubled["a"].tolist() == list(range(0, 16, 2))


@pytest.mark.parametrize(
    ("source", "options", "error", "match"),
    [
        ([], {}, ValueError, "batches is empty"),
        (iter([torch.ones(8)]), {}, TypeError, "again and again"),
        (7, {}, TypeError, "again and again"),
        ([torch.ones(8)] * 3, {"B": 9}, ValueError, "samples_per_gradient=9"),
        ([torch.ones(8)], {}, ValueError, "leaves none to differentiate"),
        (["text"], {}, TypeError, "at least one torch.Tensor"),
        ([(torch.ones(8), torch.ones(3))], {}, ValueError, "share their first axis"),
        ([(torch.ones(8), torch.tensor(1.0))], {}, ValueError, "share their first"),
        (torch.ones(8, 2), {}, TypeError, r"tensor.split\(64\) of a tensor"),
        ([(torch.ones(8), np.ones(8))], {}, TypeError, r"torch.from_numpy\(array\)"),
    ],
)
def test_bad_batches_are_refused(source, options, error, match):
    with pytest.raises(error, match=match):
        make(source, **options)


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_a_mapping_stays_of_its_kind(kind):
    (first, *_) = make([kind(x=torch.arange(8))], calibration=0).draw(2)
    assert type(first) is kind
    assert first["x"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(6))
def test_the_only_batch_that_is_long_enough_is_not_held_back(seed):
    batches = make([torch.ones(64), torch.ones(3)], seed=seed)
    assert batches.n_available == 16
    assert [len(batch) for batch in batches.calibration] == [3]


def test_single_samples_do_not_renew_statistics_unless_there_is_nothing_else():
    sizes = [len(b) for b in make([*[torch.ones(8)] * 3, torch.ones(1)]).remaining()]
    assert sizes in ([8, 8], [8, 8, 8])
    alone = make([torch.ones(1)] * 4, B=1).remaining()
    assert [len(batch) for batch in alone] == [1, 1, 1]


def test_a_samplers_own_generator_is_replayed_and_left_as_it_was():
    data = TensorDataset(torch.arange(64))
    generator = torch.Generator().manual_seed(5)
    sampler = torch.utils.data.RandomSampler(data, generator=generator)
    before = generator.get_state()
    batches = make(DataLoader(data, 8, sampler=sampler))
    drawn, held = seen(batches.draw(99)), seen(batches.calibration)
    assert not set(drawn) & set(held)
    assert torch.equal(generator.get_state(), before)


def test_batches_that_change_between_passes_are_refused():
    class Changing:
        count = 0

        def __iter__(self):
            self.count += 1
            return iter([torch.full((8,), float(self.count))] * 4)

    with pytest.raises(ValueError, match="changed between two passes"):
        make(Changing())


@pytest.mark.slow
def test_workers_that_are_spawned_give_the_same_batches():
    """As on Windows and macOS, where a worker begins with nothing."""
    drawn = []
    for options in ({}, {"num_workers": 1, "multiprocessing_context": "spawn"}):
        source = loader(generator=torch.Generator().manual_seed(3), **options)
        batches = make(source)
        drawn.append([seen(batches.calibration), seen(batches.draw(1000))])
    assert drawn[0] == drawn[1]


# --- Batches of any form --------------------------------------------------------------


class Detector(nn.Module):
    """Takes a list of images of any size and a list of dicts; returns a loss."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, images, targets):
        losses = []
        for image, target in zip(images, targets, strict=True):
            seen = torch.relu(self.trunk(image[None])).mean(dim=(2, 3))
            box = self.head(seen)
            losses.append((box - target["boxes"]).square().sum() + 0.1 * box.sum())
        return torch.stack(losses).mean()


def detection(n=12, size=3):
    """Batches of images of several sizes, some without any box."""
    generator = torch.Generator().manual_seed(0)

    def image(i):
        return torch.randn(3, 5 + i % 3, 6 + i % 2, generator=generator)

    return [
        (
            [image(i + j) for j in range(size)],
            [
                {"boxes": torch.rand((i + j) % 3, 4, generator=generator), "id": i}
                for j in range(size)
            ],
        )
        for i in range(n)
    ]


def detection_loss(model, batch):
    return model(*batch)


def by_image(batch):
    return [([image], [target]) for image, target in zip(*batch, strict=True)]


OWN = {"progress": False, "random_state": 0, "n_gradients": 30}


def test_detection_batches_need_a_split_and_the_message_says_so():
    with pytest.raises(ValueError, match="split="):
        prune(Detector(), detection(), detection_loss, sparsity=0.5, **OWN)


@pytest.mark.parametrize("objective", ["gradients", "reconstruction", "auto"])
@pytest.mark.parametrize("split", [by_image, "batch"])
def test_detection_batches_are_pruned_by(split, objective):
    torch.manual_seed(0)
    model = Detector()
    report = prune(
        model,
        detection(),
        detection_loss,
        sparsity=0.5,
        split=split,
        samples_per_gradient=1,
        objective=objective,
        **OWN,
    )
    kept = sum(int((m.weight != 0).sum()) for m in (model.trunk, model.head))
    assert kept == report.n_kept == round(0.5 * (6 * 27 + 24))
    assert report.loss_after < 2 * report.loss_before


def test_a_split_into_samples_gives_what_tensors_of_samples_give(trained):
    model, batches, loss_fn = trained["mlp"]

    def rows(batch):
        return list(zip(*(part.split(1) for part in batch), strict=True))

    reports = []
    for split in (None, rows):
        options = {"samples_per_gradient": 4, "ridge": 1e-3, "first_order": True}
        net = copy.deepcopy(model)
        reports.append(
            prune(net, batches, loss_fn, sparsity=0.5, split=split, **OWN, **options)
        )
    one, other = reports
    assert other.loss_before == pytest.approx(one.loss_before, rel=1e-4)
    agree = [one.masks[name] == other.masks[name] for name in one.masks]
    assert float(torch.cat([a.flatten() for a in agree]).float().mean()) > 0.98


@pytest.mark.parametrize("wrong", [lambda batch: batch[0][0], lambda batch: [], len])
def test_a_split_that_gives_no_list_of_samples_is_refused(wrong):
    with pytest.raises(TypeError, match=r"split\(batch\) must return a list"):
        prune(Detector(), detection(), detection_loss, sparsity=0.5, split=wrong, **OWN)


def test_refit_takes_a_split():
    model = Detector()
    dense = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for module in (model.trunk, model.head):
            module.weight[torch.rand(module.weight.shape) < 0.5] = 0
    zeros = model.head.weight == 0
    errors = refit(model, detection(), detection_loss, dense=dense, split=by_image)
    assert set(errors) == {"trunk.weight", "head.weight"}
    assert torch.equal(model.head.weight == 0, zeros)


def test_joined_batches_hold_the_same_samples_and_only_what_fits_together():
    short = [{"x": torch.full((2, 3), float(i)), "name": "a"} for i in range(20)]
    long = [{"x": torch.full((2, 5), float(i)), "name": "a"} for i in range(20)]
    other = [{"x": torch.full((2, 3), 7.0), "name": "b"}]
    mixed = [each for pair in zip(short, long, strict=True) for each in pair] + other
    assert joined(mixed, len(mixed)) == (mixed, [(i,) for i in range(len(mixed))])
    found, numbers = joined(mixed, 5)
    assert len(found) < 10
    assert sorted(sum(numbers, ())) == list(range(len(mixed)))
    for whole, some in zip(found, numbers, strict=True):
        assert torch.equal(whole["x"], torch.cat([mixed[i]["x"] for i in some]))
    for width, name, batches in ((3, "a", short), (5, "a", long), (3, "b", other)):
        parts = [b for b in found if b["name"] == name and b["x"].shape[1] == width]
        rows = torch.cat([part["x"] for part in parts])
        assert torch.equal(rows, torch.cat([batch["x"] for batch in batches]))


def test_what_was_split_is_not_joined():
    pieces = [Pieces([torch.zeros(1)]) for _ in range(10)]
    assert joined(pieces, 3)[0] == pieces
