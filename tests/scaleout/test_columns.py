"""Columns over the ranks of torch.distributed: real processes, one gloo group."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch is built without torch.distributed", allow_module_level=True)

from chita_sklearn import ChitaRegressor  # noqa: E402
from chita_sklearn.core import Cardinality, LeastSquares, solve  # noqa: E402
from tests.scaleout import column_jobs as jobs  # noqa: E402
from tests.scaleout.ranks import Failed, on_ranks  # noqa: E402

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """The same for what one process answers, and to end with the test."""
    jobs.hurry(monkeypatch.setattr)


@pytest.fixture(scope="module")
def on_two():
    """All cases on two ranks: the processes are started once."""
    return done(2, jobs.fitted, list(jobs.CASES))


def done(size, job, *arguments):
    """What the ranks return, none of which may fail."""
    results = on_ranks(size, job, *arguments)
    assert not [r for r in results if r is None or isinstance(r, Failed)], results
    return results


def compare(found, name):
    """Ranks have the same bits; the answer is that of one process, to rounding."""
    shape, k, options = jobs.CASES[name]
    X, y = jobs.wide(**shape)
    model = ChitaRegressor(k, random_state=0, **options).fit(X, y)
    assert len({repr(alike) for alike, *_ in found}) == 1  # to the bit
    support, objective, bound, intercept, n_iter, history, _, total = found[0][0]
    assert total == X.shape[1]
    assert n_iter >= 1
    assert len(history) >= 1
    assert support == model.support_.tolist()
    assert objective == pytest.approx(model.objective_, rel=1e-9)
    assert intercept == pytest.approx(model.intercept_, rel=1e-5, abs=1e-6)
    known = model.objective_ * (1 - model.gap_)
    if options.get("ridge") == 0:
        assert np.isnan(bound)
    else:
        assert bound == pytest.approx(known, rel=1e-6, abs=1e-9 * objective)
    coef = np.concatenate([coef for _, coef, *_ in found])
    np.testing.assert_allclose(coef, model.coef_, rtol=1e-4, atol=1e-6)
    predicted = sum(own for *_, own, _ in found)
    np.testing.assert_allclose(predicted, model.predict(X), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The iteration limit was reached")
@pytest.mark.parametrize("name", jobs.CASES)
def test_columns_of_two_ranks_are_fitted_as_those_of_one_process(on_two, name):
    compare([each[name] for each in on_two], name)


def test_plans_ran_as_they_were_asked_to(on_two):
    ran = {name: " ".join(found[0][5]) for name, found in on_two[0].items()}
    assert "plan swap" in ran["few of many"]
    assert "dual ascent" in ran["few of many"]
    assert "plan admm" in ran["more than half the rows"]
    for name in ("ascent from a sample", "ascent by n x n", "ascent, more than rows"):
        assert "plan dual: asked for" in ran[name]
    assert "plan iht: asked for" in ran["thresholding"]
    assert "ADMM: 2 schedules" in ran["penalties, n x n"]
    assert "conjugate gradients" in ran["dense by steps"]


def test_columns_of_four_ranks_one_of_which_has_a_single_one():
    names = ["no ridge", "thresholding"]
    found = done(4, jobs.fitted, names)
    for name in names:
        compare([each[name] for each in found], name)


def test_one_process_alone_fits_its_columns_without_ranks():
    found = jobs.fitted(0, 1, ["few of many"])["few of many"]
    assert found[-1] == 0  # nothing was sent
    compare([found], "few of many")


def test_what_travels_does_not_grow_with_the_columns():
    for (few, history), (many, _) in done(2, jobs.sent):
        assert "working sets of up to 155 of 1500 columns" in history[1]
        assert many < 1.5 * few
        assert few < 3 * 2**20


def test_what_cannot_be_fitted_is_said_on_every_rank():
    zero, one = done(2, jobs.said)
    for said in (zero, one):
        others = "choose solver='swap', solver='admm', solver='dual', solver='iht'"
        assert "solver='exact' needs the Gram matrix of any columns" in said["exact"]
        assert others in said["exact"]
        assert "solver='magic' is not known" in said["unknown"]
        assert "solver='dual' needs ridge > 0" in said["no ridge"]
        assert "float32 on some processes and float64 on others" in said["two types"]
        assert "y is not the same on all ranks" in said["another y"]
        assert "was given no group" in said["no group"]
        assert said["in the end"] == "nothing was said"
    assert one["a hole on one"].startswith("ValueError: X_local contains NaN")
    assert "rank 1 failed: ValueError: X_local contains NaN" in zero["a hole on one"]
    assert "got (30, 40) and (29,)" in one["rows cut"]
    assert "got (30, 0)" in one["none on one"]
    assert "rank 1 failed: ValueError: fit_columns takes" in zero["none on one"]


@pytest.mark.parametrize("how", ["kill", "hang", "raise"])
def test_a_rank_that_breaks_off_ends_the_fit_of_the_others(how):
    zero, one = on_ranks(2, jobs.broken_off, how)
    assert not isinstance(zero, Failed), zero
    text, seconds = zero
    assert seconds < 15  # at once, or after the timeout
    if how == "raise":
        assert "rank 1 failed: MemoryError: no room for a vector" in text
        assert one[0].startswith("MemoryError")
    else:
        assert "a rank is gone, or was silent for timeout=" in text
    assert (one is None) == (how == "kill")


class Alone:
    """One process that has all columns."""

    rank, size = 0, 1

    def sum(self, x):
        return x

    def gather(self, x):
        return [x]

    def gather_to(self, owner, x):
        return x

    def share(self, owner, work, like):
        return np.asarray(work())


def test_the_core_refuses_what_processes_cannot_do_together():
    from chita_sklearn.core import NOfM, Sharded

    X, y = jobs.wide(n=30, p=60)
    problem = Sharded(X, y, Alone())
    for pattern, options in (
        (NOfM(1, 2, 60), {}),
        (Cardinality(2), {"time_limit": 1.0}),
        (Cardinality(2), {"n_solutions": 2}),
    ):
        with pytest.raises(ValueError, match="columns of several processes are"):
            solve(problem, pattern, **options)


def test_weights_of_rows_are_those_of_one_process():
    from chita_sklearn.core import Sharded

    X, y = jobs.wide()
    weights = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    options = {"ridge": 0.1, "sample_weight": weights, "fit_intercept": True}
    for solver in ("swap", "dual", "iht"):
        spread = solve(Sharded(X, y, Alone(), **options), Cardinality(4), solver=solver)
        known = solve(LeastSquares(X, y, **options), Cardinality(4), solver=solver)
        np.testing.assert_array_equal(spread.support, known.support)
        assert spread.objective == pytest.approx(known.objective, rel=1e-12)
        assert spread.lower_bound == pytest.approx(known.lower_bound, rel=1e-9)
