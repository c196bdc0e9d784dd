"""Networks over the ranks of torch.distributed: real processes, one gloo group."""

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch is built without torch.distributed", allow_module_level=True)

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


def test_a_sharded_model_is_refused_by_name():
    for said in done(2, jobs.refusals_of_shards):
        for name, text in said.items():
            assert "parameter '0.weight' is a DTensor" in text, (name, text)
