"""Coordinate descent reaches the backsolve's answer and never rises on the way."""

import numpy as np
import pytest

from chita_sklearn.core import LeastSquares, Solution
from chita_sklearn.core.limits import Limits
from chita_sklearn.core.refit.backsolve import backsolve
from chita_sklearn.core.refit.coordinate_descent import coordinate_descent


def start(n, p, s, ridge, *, prior, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + rng.standard_normal((n, 1))
    y = X @ rng.standard_normal(p) + rng.standard_normal(n)
    w_bar = rng.standard_normal(p) if prior else None
    problem = LeastSquares(X, y, ridge=ridge, prior=w_bar)
    mask = np.zeros(p, dtype=bool)
    mask[rng.choice(p, s, replace=False)] = True
    w = np.where(mask, 0.0 if w_bar is None else w_bar, 0.0)
    return problem, Solution(w, mask, problem.objective(w))


@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("shape", [(40, 60, 15), (30, 80, 50)], ids=str)
def test_it_converges_to_the_backsolve(shape, prior, block):
    problem, given = start(*shape, 0.1, prior=prior, seed=0)
    best = backsolve(problem, given)
    found = coordinate_descent(problem, given, block=block, max_iter=5000, tol=1e-14)
    assert found.objective == pytest.approx(best.objective, rel=1e-8)
    assert not found.coef[~given.support].any()


@pytest.mark.parametrize("seed", range(10))
def test_every_sweep_lowers_the_objective(seed):
    problem, solution = start(25, 50, 30, 10.0 ** (seed - 6), prior=True, seed=seed)
    for _ in range(5):
        following = coordinate_descent(problem, solution, block=4, max_iter=1, tol=0)
        assert following.objective <= solution.objective
        solution = following


def test_one_block_of_everything_is_the_backsolve():
    problem, given = start(60, 80, 40, 1e-3, prior=False, seed=1)
    small = coordinate_descent(problem, given, block=1, max_iter=3000, tol=1e-9)
    whole = coordinate_descent(problem, given, block=40, max_iter=3000, tol=1e-9)
    assert whole.n_iter == given.n_iter + 2  # the second finds nothing to gain
    assert small.n_iter > whole.n_iter
    best = backsolve(problem, given)
    assert whole.objective == pytest.approx(best.objective, rel=1e-12)


def test_supports_too_large_for_a_factor_are_solved_by_it():
    problem, given = start(30, 80, 50, 0.1, prior=True, seed=2)
    best = backsolve(problem, given)
    problem.limits = Limits(factor_up_to=20)
    found = backsolve(problem, given)
    assert "coordinate descent" in found.history[-1]
    assert found.objective == pytest.approx(best.objective, rel=1e-6)
