"""Batches are replayed, cut and held back without any sample seen twice."""

from collections import OrderedDict, UserDict
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from chita_torch.batches import Batches, map_tensors, n_samples  # noqa: E402


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
        (torch.ones(8, 2), {}, TypeError, r"tensor.split\(size\) cuts"),
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
