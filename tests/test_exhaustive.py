"""The default solver against exhaustive search, on every support of small problems.

The oracle shares no code with the library: it stacks the weighted rows, a column of
ones for the intercept and sqrt(mu) I for the ridge term, and calls numpy's svd for
each support.
"""

import functools
import itertools
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.linear_model import OrthogonalMatchingPursuit

from chita_sklearn import ChitaRegressor

N_PROBLEMS = 240


@dataclass
class Problem:
    X: np.ndarray
    y: np.ndarray
    ridge: float
    prior: np.ndarray | None
    weights: np.ndarray | None
    intercept: bool
    rho: float  # correlation of the columns
    snr: float  # variance of the signal over that of the noise

    @property
    def hard(self):
        return self.rho >= 0.9 and self.snr <= 1.0

    @property
    def scale(self):
        """F at w = 0 without intercept: what rounding is compared with."""
        return 0.5 * float(np.mean(self.y**2)) + 1e-300

    @functools.cached_property
    def rows(self):
        """A, its last column that of the intercept, and b: F = ||b - A w||^2 / 2n."""
        n, p = self.X.shape
        s = np.ones(n) if self.weights is None else self.weights
        prior = np.zeros(p) if self.prior is None else self.prior
        mu = s.sum() * self.ridge
        A = np.zeros((n + p, p + 1))
        A[:n, :p], A[n:, :p] = self.X, np.sqrt(mu) * np.eye(p)
        A[:n, p] = self.intercept
        A[:n] *= np.sqrt(s)[:, None]
        return A, np.concatenate([np.sqrt(s) * self.y, np.sqrt(mu) * prior]), s.sum()

    def objectives(self, supports):
        """Smallest F with non-zeros in each support only, shape (m, k) to (m,).

        What the singular vectors of its columns leave of b; those of singular values
        that are zero to rounding, as lstsq of NumPy sees it, are no part of them.
        """
        A, b, total = self.rows
        supports = np.atleast_2d(supports)
        intercept = np.full((len(supports), 1), A.shape[1] - 1)
        M = A[:, np.hstack([supports, intercept])].transpose(1, 0, 2)
        U, sigma, _ = np.linalg.svd(M, full_matrices=False)
        lowest = np.finfo(float).eps * max(M.shape[1:]) * sigma[:, :1]
        U = U * (sigma > lowest)[:, None, :]
        left = b - (U @ (np.swapaxes(U, 1, 2) @ b)[..., None])[..., 0]
        return np.sum(left**2, axis=1) / (2 * total)

    def objective(self, support):
        """Smallest F with non-zeros in `support` only."""
        return float(self.objectives(np.asarray(list(support), dtype=int))[0])

    def best_objectives(self):
        """The optimum of F for k = 1..p: all 2^p supports."""
        p = self.X.shape[1]
        every = {k: list(itertools.combinations(range(p), k)) for k in range(1, p + 1)}
        return {k: float(self.objectives(S).min()) for k, S in every.items()}

    def omp_objective(self, k):
        """F of the support that OMP finds on the same rows, re-solved."""
        s = np.ones(len(self.y)) if self.weights is None else self.weights
        X, y = self.X, self.y
        if self.intercept:
            X, y = X - s @ X / s.sum(), y - s @ y / s.sum()
        root = np.sqrt(s)
        omp = OrthogonalMatchingPursuit(n_nonzero_coefs=k, fit_intercept=False)
        with warnings.catch_warnings():
            # OMP stops early at duplicated columns, and says so.
            warnings.simplefilter("ignore")
            omp.fit(root[:, None] * X, root * y)
        return self.objective(np.flatnonzero(omp.coef_))


def random_problem(seed):
    """Every combination of options comes up; every second problem is a hard one."""
    rng = np.random.default_rng(seed)
    hard = seed % 2 == 0
    p = int(rng.choice([3, 5, 6, 7, 8, 9, 10, 12]))
    n = int(rng.integers(max(3, p // 2), 5 * p))
    rho = rng.uniform(0.9, 0.98) if hard else rng.uniform(0, 0.7)
    X = np.sqrt(rho) * rng.standard_normal((n, 1)) + np.sqrt(
        1 - rho
    ) * rng.standard_normal((n, p))
    X = X * rng.uniform(0.5, 2, p) + rng.normal(0, 3, p)
    if seed % 5 == 0:
        X[:, p - 1] = X[:, 0]
    truth = np.where(rng.random(p) < 0.5, rng.normal(0, 1, p), 0.0)
    signal = X @ truth
    noise = rng.standard_normal(n)
    snr = rng.uniform(0.2, 1.0) if hard else rng.uniform(2, 50)
    noise *= np.sqrt(max(np.var(signal), 0.1) / snr)
    options = rng.random(4) < 0.5
    return Problem(
        X=X,
        y=signal + noise + rng.normal(0, 2),
        ridge=float(10 ** rng.uniform(-4, 0)) if options[0] else 0.0,
        prior=rng.standard_normal(p) if options[1] else None,
        weights=rng.uniform(0.1, 3, n) if options[2] else None,
        intercept=bool(options[3]),
        rho=rho,
        snr=snr,
    )


def solved(problem, k, **options):
    """Our model on a problem."""
    model = ChitaRegressor(
        k,
        problem.ridge,
        coef_prior=problem.prior,
        fit_intercept=problem.intercept,
        standardize=False,  # (tests/test_standardize.py says what True adds)
        random_state=0,
        **options,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*linearly dependent.*")
        return model.fit(problem.X, problem.y, sample_weight=problem.weights)


@functools.cache
def all_problems():
    """(problem, optimum by k, objective of OMP's support by k), for every seed."""
    table = []
    for seed in range(N_PROBLEMS):
        problem = random_problem(seed)
        best = problem.best_objectives()
        table.append((problem, best, {k: problem.omp_objective(k) for k in best}))
    return table


# Not of the scope of the module: a fixture with parameters is made anew where the order
# of the tests takes them in turn.
@functools.cache
def results_of(solver):
    """(seed, problem, k, model, optimum, OMP's objective), for every k."""
    return [
        (seed, problem, k, solved(problem, k, solver=solver), best[k], omp[k])
        for seed, (problem, best, omp) in enumerate(all_problems())
        for k in best
    ]


@pytest.fixture
def problems():
    return all_problems()


# "auto" tries every support of problems this small; "swap" has to search.
@pytest.fixture(params=["auto", "swap"])
def results(request):
    return results_of(request.param)


def test_the_problems_are_what_they_are_said_to_be(problems):
    problems = [problem for problem, *_ in problems]
    assert len(problems) >= 200
    assert all(problem.X.shape[1] <= 12 for problem in problems)
    assert sum(problem.hard for problem in problems) >= len(problems) / 2
    for share in (
        np.mean([problem.prior is not None for problem in problems]),
        np.mean([problem.weights is not None for problem in problems]),
        np.mean([problem.ridge > 0 for problem in problems]),
        np.mean([problem.intercept for problem in problems]),
    ):
        assert 0.3 < share < 0.7


def test_support_is_exhaustive_optimum_for_small_p(results):
    missed = [
        (seed, k, model.objective_ / optimum - 1)
        for seed, problem, k, model, optimum, _ in results
        if model.objective_ > optimum * (1 + 1e-7) + 1e-10 * problem.scale
    ]
    assert len(missed) <= 0.01 * len(results), missed


@pytest.mark.parametrize("results", ["auto"], indirect=True)
def test_default_solver_is_never_worse_than_omps_support(results):
    worse = [
        (seed, k, model.objective_ / omp - 1)
        for seed, problem, k, model, _, omp in results
        if model.objective_ > omp * (1 + 1e-9) + 1e-10 * problem.scale
    ]
    assert not worse


def test_objective_is_reached_by_its_support(results):
    # Neither better than the support allows (a wrong objective_) nor worse (no refit).
    for _, problem, k, model, optimum, _ in results:
        assert len(model.support_) <= k
        exact = problem.objective(model.support_)
        slack = 1e-7 * exact + 1e-9 * problem.scale
        assert model.objective_ == pytest.approx(exact, abs=slack)
        assert model.objective_ >= optimum - slack


def check_bound(model, problem, optimum):
    if not np.isnan(model.lower_bound_):
        assert model.lower_bound_ <= optimum * (1 + 1e-9) + 1e-10 * problem.scale
        assert model.gap_ >= -1e-9


def test_lower_bound_is_below_the_optimum(results):
    for _, problem, _, model, optimum, _ in results:
        check_bound(model, problem, optimum)


@pytest.mark.parametrize("solver", ["iht", "dual", "dense"])
def test_lower_bound_of_the_other_solvers_is_below_the_optimum(problems, solver):
    for seed, (problem, best, _) in enumerate(problems):
        if solver == "dual" and problem.ridge == 0:
            continue
        k = 1 + seed % problem.X.shape[1]
        # Hard thresholding may need more than the default number of steps.
        model = solved(problem, k, solver=solver, max_iter=2000)
        check_bound(model, problem, best[k])
        assert len(model.support_) <= k
        assert model.objective_ >= best[k] - 1e-7 * problem.scale
