"""Groups of coordinates and coefficients with signs, piece by piece."""

import itertools

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from chita_sklearn.core import Cardinality, Groups, LeastSquares
from chita_sklearn.core.refit.nonnegative import nonnegative
from chita_sklearn.core.search.cone import Cone, exchange_bounds, leaving
from chita_sklearn.core.search.groups import GroupSearch
from chita_sklearn.core.search.working_set import WorkingSet

seeds = st.integers(0, 2**32 - 1)


# --- Groups ---------------------------------------------------------------------------


@given(seed=seeds, p=st.integers(1, 10))
def test_the_best_groups_are_the_best_of_all(seed, p):
    rng = np.random.default_rng(seed)
    labels = np.unique(rng.integers(0, p, p), return_inverse=True)[1]
    n_groups = int(labels.max()) + 1
    required = rng.permutation(n_groups)[: n_groups // 3]
    k = int(rng.integers(max(len(required), 1), n_groups + 1))
    pattern = Groups(k, labels, required)
    score = rng.integers(0, 1000, p).astype(float)
    sums = np.bincount(labels, weights=score)
    np.testing.assert_array_equal(pattern.sums(score), sums)
    best = max(
        sums[list(chosen)].sum()
        for chosen in itertools.combinations(range(n_groups), k)
        if set(required) <= set(chosen)
    )
    mask = pattern.best_mask(score)
    assert score[mask].sum() == best
    assert len(np.unique(labels[mask])) == k
    assert set(required) <= set(labels[mask])
    assert mask.sum() <= pattern.size
    assert not pattern.exchangeable(np.flatnonzero(mask), np.flatnonzero(~mask)).any()


def test_groups_on_every_array_library(backend):
    rng = np.random.default_rng(0)
    pattern = Groups(7, rng.permutation(np.repeat(np.arange(20), 5)), [3, 4])
    score = rng.integers(0, 10**6, 100).astype(float)
    mask = pattern.best_mask(backend.to(score))
    assert np.array_equal(backend.back(mask), pattern.best_mask(score))


@given(seed=seeds)
def test_a_part_of_the_coordinates_has_the_groups_that_are_there(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), 3)
    index = np.sort(rng.choice(12, size=int(rng.integers(1, 12)), replace=False))
    part = Groups(2, labels, [1]).restrict(index)
    mask = part.best_mask(rng.random(len(index)))
    there = np.unique(labels[index])
    assert len(np.unique(labels[index][mask])) == min(2, len(there))
    if 1 in there:
        assert 1 in labels[index][mask]


@given(seed=seeds, targets=st.integers(1, 3))
def test_group_gains_are_exact(seed, targets):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((20, 9)) * 10.0 ** rng.uniform(-2, 2, 9)
    B = rng.standard_normal((20, targets))
    labels = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4])
    search = GroupSearch(A.T @ A, A.T @ B, labels, 2, np.empty(0, dtype=int))

    def value(U):
        S = np.flatnonzero(np.isin(labels, U))
        fit = A[:, S] @ np.linalg.lstsq(A[:, S], B, rcond=None)[0]
        return 0.5 * np.sum(fit**2)

    U = rng.choice(5, size=2, replace=False)
    state = search.at(U)
    assert state.value == pytest.approx(value(U), rel=1e-8)
    others = np.setdiff1d(np.arange(5), U)
    joining = search.joining(state)
    for G in others:
        gain = value([*U, G]) - value(U)
        assert joining[G] == pytest.approx(gain, rel=1e-6, abs=1e-8)
    for i in range(2):
        replacing = search.replacing(state, i)
        for G in others:
            gain = value([U[1 - i], G]) - value(U)
            assert replacing[G] == pytest.approx(gain, rel=1e-6, abs=1e-8)


# --- Signs ----------------------------------------------------------------------------


def problem_with_signs(seed, n=12, p=6):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, p)) + rng.choice([0.0, 2.0])
    return A, rng.standard_normal(n), rng.integers(-1, 2, p).astype(float)


@given(seed=seeds, warm=st.booleans())
def test_least_squares_with_signs_is_scipys(seed, warm):
    A, b, signs = problem_with_signs(seed)
    lower = np.where(signs == 1, 0.0, -np.inf)
    upper = np.where(signs == -1, 0.0, np.inf)
    expected = scipy.optimize.lsq_linear(A, b, (lower, upper), tol=1e-14).x
    start = np.random.default_rng(seed).random(6) < 0.5 if warm else None
    w = nonnegative(A.T @ A, A.T @ b, signs, start)
    assert np.all(signs * w >= 0)
    np.testing.assert_allclose(
        np.sum((b - A @ w) ** 2), np.sum((b - A @ expected) ** 2), rtol=1e-8
    )


def test_dependent_and_empty_columns_with_signs():
    A = np.array([[1.0, 1, 0, -1], [2, 2, 0, -2], [0, 0, 0, 0]])
    for signs in ([1, 1, 1, 1], [-1, -1, -1, -1], [1, -1, 0, 1], [0, 0, 0, 0]):
        signs = np.asarray(signs, dtype=float)
        for b in ([1.0, 2, 0], [-1.0, -2, 0], [0.0, 0, 0]):
            w = nonnegative(A.T @ A, A.T @ np.asarray(b), signs)
            assert np.all(signs * w >= 0)
            _, length = scipy.optimize.nnls(
                np.hstack([A * np.where(signs < 0, -1, 1), -A[:, signs == 0]]), b
            )
            assert np.linalg.norm(A @ w - b) <= length + 1e-6


@given(seed=seeds)
def test_no_exchange_gains_more_than_its_bound(seed):
    A, b, signs = problem_with_signs(seed)
    problem = LeastSquares(A, b, ridge=1e-3, signs=signs)
    W = WorkingSet(problem, Cardinality(3), np.arange(6), problem.correlation())
    cone = Cone(W, signs)
    S = np.sort(np.random.default_rng(seed).choice(6, size=3, replace=False))
    w, H = cone.minimiser(S), W.H(np.arange(6), np.arange(6))
    rests = leaving(H[np.ix_(S, S)], W.g[S], signs[S], w)
    bounds = exchange_bounds(H[S], H[np.ix_(S, S)], rests, W.g, W.h, signs)
    for i in range(3):
        rest = np.delete(S, i)
        np.testing.assert_allclose(
            0.5 * W.g[S] @ rests[i], cone.value(rest), rtol=1e-8, atol=1e-12
        )
        for j in np.setdiff1d(np.arange(6), S):
            gain = cone.value(np.append(rest, j)) - cone.value(rest)
            assert gain <= bounds[i, j] * (1 + 1e-8) + 1e-12


@given(seed=seeds)
def test_where_nothing_gains_no_exchange_does(seed):
    A, b, signs = problem_with_signs(seed, p=8)
    problem = LeastSquares(A, b, ridge=1e-3, signs=signs)
    W = WorkingSet(problem, Cardinality(3), np.arange(8), problem.correlation())
    cone = Cone(W, signs)
    S, value, _ = cone.improve(np.empty(0, dtype=int), 100)
    for i, j in itertools.product(range(len(S)), np.setdiff1d(np.arange(8), S)):
        other = np.append(np.delete(S, i), j)
        assert cone.value(other) <= value * (1 + 1e-9) + 1e-12
