"""Networks over the ranks of torch.distributed: real processes, one gloo group."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch is built without torch.distributed", allow_module_level=True)

from chita_torch import prune  # noqa: E402
from tests.scaleout import rank_jobs as jobs  # noqa: E402
from tests.scaleout.ranks import Failed, on_ranks  # noqa: E402

pytestmark = pytest.mark.distributed


def done(size, job, *arguments):
    """What the ranks return, none of which may fail."""
    results = on_ranks(size, job, *arguments)
    assert not [r for r in results if r is None or isinstance(r, Failed)], results
    return results


def test_ranks_that_would_part_without_a_word_are_refused():
    for said, same in done(2, jobs.refusals):
        assert same
        for name, text in said.items():
            assert "torch.distributed runs 2 ranks" in text, (name, text)


def test_models_sharded_otherwise_than_by_fully_shard_are_refused_by_name():
    for said in done(2, jobs.refusals_of_shards):
        for name in ("tensor parallel", "keep_pruned"):
            assert "parameter '0.weight' is a DTensor that fully_shard" in said[name]
        assert "module '' is a FullyShardedDataParallel" in said["older"]
        assert "torch.distributed runs 2 ranks" in said["no group"]
        assert "ranks [0, 1] hold parts of the model" in said["a part of them"]


def test_a_sharded_model_is_pruned_by_way_of_a_plain_one_and_takes_masks_of_others():
    assert done(2, jobs.sharded_by_way_of_a_plain_copy) == [True, True]


def compare(found, alone):
    """Ranks have the same bits; masks are those of one process, weights nearly."""
    assert len({each["hash"] for each in found}) == 1
    assert len({str(each["loss"]) for each in found}) == 1
    for each in found:
        assert each["training"]
        assert each["before"] == pytest.approx(alone["before"], rel=1e-6, nan_ok=True)
        for name, mask in each["masks"].items():
            np.testing.assert_array_equal(mask, alone["masks"][name], err_msg=name)
        for name, weight in each["weights"].items():
            np.testing.assert_allclose(
                weight, alone["weights"][name], rtol=1e-3, atol=1e-4, err_msg=name
            )


@functools.cache
def on_one(make, options):
    """What one process makes of all batches; options as pairs, to be looked up."""
    return jobs.pruned(0, 1, make, dict(options))


RECONSTRUCTION = jobs.RECONSTRUCTION
ONE_OF_TWO = RECONSTRUCTION | {"sparsity": None, "pattern": "1:2", "calibration": 0.0}
STAGES = {"objective": "gradients", "stages": 2, "regrow": False}
FLOPS = RECONSTRUCTION | {"cost": "flops"}
AUTO = {"objective": "auto", "stages": 2}
ONE_STEP = RECONSTRUCTION | {"samples_per_gradient": 1, "ridge": 0.01}


@pytest.mark.parametrize(
    ("size", "make", "options"),
    [
        pytest.param(2, jobs.network, RECONSTRUCTION, id="reconstruction"),
        pytest.param(4, jobs.conv, RECONSTRUCTION, id="reconstruction-conv-4"),
        pytest.param(2, jobs.network, ONE_OF_TWO, id="pattern"),
        pytest.param(2, jobs.conv, STAGES, id="gradients-conv"),
        pytest.param(2, jobs.conv, FLOPS, id="flops-conv"),
        pytest.param(2, jobs.network, AUTO, id="auto"),
    ],
)
def test_ranks_prune_as_one_process_would_with_all_batches(size, make, options):
    found = done(size, jobs.pruned, make, options)
    compare(found, on_one(make, tuple(options.items())))


@pytest.mark.parametrize(
    ("size", "options", "wrap"),
    [(2, RECONSTRUCTION, jobs.sharded), (4, STAGES, jobs.hybrid)],
)
def test_a_sharded_model_is_pruned_as_a_plain_one(size, options, wrap):
    found = done(size, jobs.pruned, jobs.conv, options, wrap)
    compare(found, on_one(jobs.conv, tuple(options.items())))


def test_what_is_drawn_of_many_batches_depends_neither_on_ranks_nor_on_joining():
    # More batches than pass side by side, more rows than are read of a layer; with
    # labels, and with those that are drawn from the network's own predictions.
    many = [
        (jobs.small_conv, ONE_STEP, jobs.replicated, (100, 3), labels)
        for labels in (True, False)
    ]
    found = done(2, jobs.both, jobs.pruned, *many)
    for each, arguments in zip(zip(*found, strict=True), many, strict=True):
        compare(each, jobs.pruned(0, 1, *arguments))


FAILURES = {
    "raise": "rank {} failed: ValueError: something odd in a batch",
    "interrupt": "rank {} failed: KeyboardInterrupt",
    "kill": "a rank is gone, or was silent for timeout=20 seconds",
    "kill at the end": "a rank is gone, or was silent for timeout=20 seconds",
    "hang": "a rank is gone, or was silent for timeout=2 seconds",
    "nan": "rank {}: the gradient of micro-batch",
}


@pytest.mark.parametrize(
    ("size", "how", "options", "wrap"),
    [
        (2, "raise", RECONSTRUCTION, jobs.replicated),
        (2, "interrupt", RECONSTRUCTION, jobs.replicated),
        (4, "kill", RECONSTRUCTION, jobs.replicated),
        (2, "kill at the end", RECONSTRUCTION, jobs.replicated),
        (2, "hang", RECONSTRUCTION, jobs.replicated),
        (2, "kill", STAGES, jobs.replicated),
        (2, "nan", STAGES, jobs.replicated),
        (2, "raise", RECONSTRUCTION, jobs.sharded),
        (2, "kill at the end", RECONSTRUCTION, jobs.sharded),
    ],
)
def test_where_one_rank_fails_every_model_is_as_it_was(size, how, options, wrap):
    *others, last = on_ranks(size, jobs.failing, how, options, wrap)
    assert not [r for r in (*others, last) if isinstance(r, Failed)], (others, last)
    if how.startswith("kill"):
        assert last is None
    else:
        assert last["same"]
        own = {"raise": "ValueError: something odd", "interrupt": "KeyboardInterrupt"}
        assert own.get(how, "") in last["said"]
    for each in others:
        assert each["same"], each
        assert FAILURES[how].format(size - 1) in each["said"]
        assert each["seconds"] < 15  # at once, or after the timeout: not after torch's
    if how in ("raise", "interrupt", "nan"):
        assert len({each["again"] for each in (*others, last)}) == 1


def test_groups_of_ranks_prune_for_themselves():
    first, same, second, equal = done(4, jobs.parted)
    assert first == same
    assert second == equal
    assert first != second


def test_what_would_count_twice_or_differ_is_refused_in_words():
    zero, one = done(2, jobs.said_of_arguments)
    for said in (zero, one):
        assert "ranks 0 and 1 have the same batches" in said["same batches"]
        assert "the loader repeats 1 samples" in said["padded"]
        assert (
            "parameter '2.weight' differs between ranks 0 and 1"
            in (said["other weights"])
        )
        assert "batches is empty" in said["no batches"]
        for name in ("not padded", "a rank without batches"):
            assert said[name] == "nothing was said", name
    assert zero["another group"] == "nothing was said"
    assert "that this rank is in; got int on rank 1" in one["another group"]


@pytest.mark.parametrize("wrap", [jobs.replicated, jobs.sharded])
def test_training_on_ranks_prunes_and_holds_the_same_weights_on_each(wrap):
    whole = done(2, jobs.trained, None, None, wrap)
    assert len({each["hash"] for each in whole}) == 1
    for each in whole:
        assert each["zeros"] > 0
        assert each["held at zero"]
        assert set(each["gradients"].values()) == {0.0}
        for name, mask in each["masks"].items():
            np.testing.assert_array_equal(mask, whole[0]["masks"][name])
            np.testing.assert_array_equal(mask, each["held"][name])


@pytest.mark.parametrize("wrap", [jobs.replicated, jobs.sharded])
def test_a_run_is_resumed_on_another_number_of_ranks(wrap):
    once = done(2, jobs.trained, 3, None, wrap, jobs.network)[0]
    assert once["count"] == 3
    resumed = done(4, jobs.trained, None, once["state"], wrap, jobs.network)
    assert len({each["hash"] for each in resumed}) == 1
    assert resumed[0]["count"] == 6
    assert resumed[0]["zeros"] > once["zeros"] > 0  # pruned once more, and once only


def test_what_accelerate_has_prepared_is_pruned_but_for_loaders_it_pads_or_deals_out():
    pytest.importorskip("accelerate")
    for said, *_ in done(2, jobs.accelerated, {"dispatch_batches": True}):
        assert "rank 0 reads the loader" in said
    for said, n_batches, *_ in done(2, jobs.accelerated, {"even_batches": True}):
        assert "the loader repeats 24 samples" in said
        assert n_batches == 5
    found = done(2, jobs.accelerated, {"even_batches": False})
    assert {n_batches for _, n_batches, *_ in found} == {5, 4}
    assert {said for said, *_ in found} == {"nothing was said"}
    batches = jobs.samples(9, 24)  # of which each rank is given every other one
    batches = batches[::2] + batches[1::2]
    options = jobs.OPTIONS | RECONSTRUCTION
    report = prune(jobs.network(), batches, jobs.loss, random_state=3, **options)
    for _, _, masks, zeros, _ in found:
        for name, mask in report.masks.items():
            np.testing.assert_array_equal(masks[name], mask.numpy())
        assert zeros == sum(int((~mask).sum()) for mask in masks.values())
    assert len({bits for *_, bits in found}) == 1


def test_a_refit_on_ranks_is_that_of_one_process():
    alone, found = jobs.refitted(0, 1), done(2, jobs.refitted)
    assert found[0]["hash"] == found[1]["hash"]
    for each in found:
        assert each["errors"] == pytest.approx(alone["errors"], rel=1e-5)
        np.testing.assert_allclose(each["weight"], alone["weight"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        RECONSTRUCTION | {"sparsity": 0.95, "ridge": 0.01},
        {
            "objective": "gradients",
            "sparsity": 0.95,
            "n_gradients": 120,
            "ridge": 1e-3,
            "first_order": False,
        },
    ],
    ids=["reconstruction", "gradients"],
)
def test_a_trained_network_is_pruned_as_by_one_process(options):
    pruning_data = pytest.importorskip("benchmarks.pruning_data")
    folder = pruning_data.data_folder("mlpnet", None)
    if folder is None:
        pytest.skip("the optional MLPNet data is not there (benchmarks/README.md)")
    masks, _ = jobs.mlpnet(0, 1, folder, options)
    (first, bits), (second, same) = done(2, jobs.mlpnet, folder, options)
    assert bits == same
    for found in (first, second):
        for name, mask in masks.items():
            np.testing.assert_array_equal(found[name], mask, err_msg=name)
