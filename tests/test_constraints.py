"""Constraints on the support and on the signs, against every support in turn.

The oracle shares no code with the library. It writes out the rows that n F is made of,
weighted, centred and divided by the columns' deviations, with sqrt(mu) I below for the
ridge, and solves each allowed support by numpy's lstsq, or scipy's nnls where signs are
asked for.
"""

import itertools
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from chita_sklearn import ChitaRegressor, ChitaRegressorCV, chita_path, ebic

N_PROBLEMS = 200


@dataclass
class Case:
    X: np.ndarray
    y: np.ndarray
    ridge: float
    options: dict = field(default_factory=dict)
    weights: np.ndarray | None = None
    sparse: bool = False

    def __post_init__(self):
        n, p = self.X.shape
        s = np.ones(n) if self.weights is None else self.weights
        root, self.n = np.sqrt(s), s.sum()
        X, y = self.X, self.y
        if self.options["fit_intercept"]:
            X, y = X - s @ X / self.n, y - s @ y / self.n
        A, b = root[:, None] * X, (root * y.T).T
        self.scale = np.ones(p)
        if self.options["standardize"]:
            size = np.sqrt(np.sum(A**2, axis=0) / self.n)
            self.scale = np.where(size > 1e-12, size, 1.0)
        mu = self.n * self.ridge
        prior = self.options.get("coef_prior")
        self.w_bar = self.scale * (np.zeros(p) if prior is None else prior)
        self.A = np.vstack([A / self.scale, np.sqrt(mu) * np.eye(p)])
        below = np.sqrt(mu) * self.w_bar
        if y.ndim == 2:
            below = np.repeat(below[:, None], y.shape[1], axis=1)
        self.b = np.concatenate([b, below])

    @property
    def given(self):
        return scipy.sparse.csr_array(self.X) if self.sparse else self.X

    def at(self, S):
        """The least F on a support."""
        A = self.A[:, list(S)]
        w = np.linalg.lstsq(A, self.b, rcond=None)[0]
        return np.sum((self.b - A @ w) ** 2) / (2 * self.n)

    def of(self, coef):
        """F of some coefficients (the intercept is the best one)."""
        r = self.b - self.A @ (self.scale * coef).T
        return np.sum(r**2) / (2 * self.n)

    @property
    def zero(self):
        return np.sum(self.b**2) / (2 * self.n)


def case(seed, targets=0):
    """Weights, priors, intercepts, sparse X, dependent columns: all come up."""
    rng = np.random.default_rng(seed)
    p = int(rng.integers(2, 9))
    n = int(rng.integers(4, 30))
    rho = rng.choice([0.0, 0.5, 0.9])
    X = np.sqrt(rho) * rng.standard_normal((n, 1))
    X = (X + np.sqrt(1 - rho) * rng.standard_normal((n, p))) * rng.uniform(0.5, 2, p)
    sparse = bool(rng.random() < 0.3)
    X = np.where(rng.random((n, p)) < 0.5, X, 0.0) if sparse else X + rng.normal(0, 2)
    if seed % 5 == 0:
        X[:, p - 1] = X[:, 0]
    truth = rng.standard_normal((p, targets) if targets else p)
    y = X @ (truth * (rng.random(truth.shape) < 0.6))
    y = y + rng.choice([0.1, 1.0]) * rng.standard_normal(y.shape) + rng.normal()
    options = {
        "fit_intercept": bool(rng.random() < 0.5),
        "standardize": bool(rng.random() < 0.5),
        "coef_prior": rng.standard_normal(p) if rng.random() < 0.3 else None,
    }
    ridge = float(10 ** rng.uniform(-4, 0)) if rng.random() < 0.7 else 0.0
    weights = rng.uniform(0.1, 2, n) if rng.random() < 0.5 else None
    return Case(X, y, ridge, options, weights, sparse)


def fitted(case, k, **more):
    model = ChitaRegressor(k, case.ridge, random_state=0, **case.options, **more)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*linearly dependent.*")
        return model.fit(case.given, case.y, case.weights)


def path_of(case, ks, **more):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*linearly dependent.*")
        return chita_path(
            case.given,
            case.y,
            ks,
            ridge=case.ridge,
            sample_weight=case.weights,
            random_state=0,
            **case.options,
            **more,
        )


def holds(case, objective, bound, optimum):
    """An objective is no less than the optimum, and a bound no more."""
    room = 1e-9 * optimum + 1e-12 * case.zero
    assert objective >= optimum - room
    assert np.isnan(bound) or bound <= optimum + room


def missed(case, objective, optimum):
    return objective > optimum * (1 + 1e-7) + 1e-10 * case.zero


# --- always_include -------------------------------------------------------------------


def required_of(seed, p):
    rng = np.random.default_rng(seed + 10**6)
    return rng.choice(p, size=int(rng.integers(1, p + 1)), replace=False)


def best_including(case, required, k):
    rest = sorted(set(range(case.X.shape[1])) - set(required.tolist()))
    return min(
        case.at([*required, *S])
        for S in itertools.combinations(rest, k - len(required))
    )


@pytest.mark.parametrize("solver", ["auto", "swap"])
def test_required_features_are_chosen_and_the_rest_is_the_best(solver):
    worse = []
    for seed in range(N_PROBLEMS):
        problem = case(seed)
        p = problem.X.shape[1]
        required = required_of(seed, p)
        k = len(required) + seed % (p - len(required) + 1)
        model = fitted(problem, k, always_include=required, solver=solver)
        best = best_including(problem, required, k)
        assert np.count_nonzero(np.delete(model.coef_, required)) <= k - len(required)
        assert model.objective_ == pytest.approx(
            problem.of(model.coef_), rel=1e-7, abs=1e-10 * problem.zero
        )
        holds(problem, model.objective_, model.lower_bound_, best)
        if missed(problem, model.objective_, best):
            worse.append((seed, k, model.objective_ / best - 1))
    assert not worse


@pytest.mark.parametrize("solver", ["dual", "iht", "dense", "admm", "exact"])
def test_every_solver_keeps_required_features(solver):
    for seed in range(40):
        problem = case(seed)
        if solver == "dual" and problem.ridge == 0:
            continue
        p = problem.X.shape[1]
        required = required_of(seed, p)
        k = len(required) + seed % (p - len(required) + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = fitted(problem, k, always_include=required, solver=solver)
        best = best_including(problem, required, k)
        assert np.count_nonzero(np.delete(model.coef_, required)) <= k - len(required)
        holds(problem, model.objective_, model.lower_bound_, best)
        if solver == "exact":
            assert not missed(problem, model.objective_, best)


def test_branch_and_bound_with_required_features():
    # Without a ridge it is the best subset of what the required ones leave of the rest.
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((60, 25)) + rng.standard_normal((60, 1))
        y = X @ rng.standard_normal(25) + 3 * rng.standard_normal(60)
        plain = {"ridge": 0.0, "fit_intercept": False, "solver": "exact", "tol": 1e-8}
        model = ChitaRegressor(8, always_include=[3, 7], **plain).fit(X, y)
        assert "branch and bound" in model.solver_history_[-2]
        Q, _ = np.linalg.qr(X[:, [3, 7]])
        rest = np.delete(np.arange(25), [3, 7])
        left = X[:, rest] - Q @ (Q.T @ X[:, rest])
        other = ChitaRegressor(6, **plain).fit(left, y - Q @ (Q.T @ y))
        assert {3, 7} <= set(model.support_.tolist())
        assert model.gap_ <= 1e-8
        assert other.gap_ <= 1e-8
        assert model.objective_ == pytest.approx(other.objective_, rel=1e-9)
        assert set(rest[other.support_]) == set(model.support_) - {3, 7}


def test_paths_keep_required_features():
    for seed in range(0, N_PROBLEMS, 4):
        problem = case(seed)
        p = problem.X.shape[1]
        required = required_of(seed, p)
        path = path_of(problem, p, always_include=required)
        assert path.ks.tolist() == list(range(len(required), p + 1))
        for t, k in enumerate(path.ks):
            best = best_including(problem, required, k)
            holds(problem, path.objectives[t], path.lower_bounds[t], best)
            assert not missed(problem, path.objectives[t], best)
            rest = np.delete(path.coefs[:, t], required)
            assert np.count_nonzero(rest) <= k - len(required)


def signals(n=80, p=20, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return X, 3 * X[:, 4] - 2 * X[:, 11] + 0.5 * rng.standard_normal(n)


def test_required_features_by_name_in_cross_validation():
    pd = pytest.importorskip("pandas")
    X, y = signals()
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(20)])
    model = ChitaRegressorCV(6, always_include=["x3", "x0"]).fit(frame, y)
    assert model.ks_.tolist() == [2, 3, 4, 5, 6]
    assert {0, 3, 4, 11} <= set(model.support_.tolist())
    path = chita_path(frame, y, [4], always_include=["x3", 0])
    assert path.supports[0].tolist() == [0, 3, 4, 11]
    assert ChitaRegressorCV([2], always_include=[0, 3]).fit(X, y).k_ == 2
    by_index = ChitaRegressorCV(6, always_include=[0, 3]).fit(X, y)
    np.testing.assert_allclose(by_index.coef_, model.coef_, rtol=1e-10)


def test_a_required_feature_of_which_nothing_is_known_keeps_its_place():
    X, y = signals()
    X[:, 0] = 1.0  # a constant, which the intercept is already
    model = ChitaRegressor(3, always_include=[0]).fit(X, y)
    assert len(model.support_) == 2
    assert model.coef_[0] == 0


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"always_include": [0, 1, 2]}, "always_include names 3 features, and k=2"),
        ({"always_include": "x1"}, "'always_include' parameter.*Pass a list"),
        ({"always_include": ["x1"]}, "the feature 'x1', and X has no feature names"),
        ({"always_include": [20]}, r"indices in \[0, 20\). Got 20 among them"),
        ({"always_include": [-1]}, "Got -1 among them"),
        ({"always_include": [True]}, "Got True among them"),
        ({"always_include": [0.0]}, "Got 0.0 among them"),
    ],
)
def test_what_always_include_refuses(options, pattern):
    X, y = signals()
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor(2, **options).fit(X, y)
    with pytest.raises(ValueError, match=pattern.replace("k=2", "ks=2")):
        chita_path(X, y, 2, **options)


# --- positive -------------------------------------------------------------------------


def signed_value(case, S, signs):
    """The least F on a support with signs, by scipy's nnls."""
    S = list(S)
    columns = [case.A[:, j] * (signs[j] or 1) for j in S]
    columns += [-case.A[:, j] for j in S if signs[j] == 0]
    if not columns:
        return case.zero
    A = np.column_stack(columns)
    try:
        _, length = scipy.optimize.nnls(A, case.b, maxiter=1000)
    except np.linalg.LinAlgError:  # SciPy 1.14 meets dependent columns
        found = scipy.optimize.lsq_linear(A, case.b, (0, np.inf), "bvls", tol=1e-15)
        length = np.sqrt(2 * found.cost)
    return length**2 / (2 * case.n)


def best_with_signs(case, k, signs, required=()):
    rest = sorted(set(range(case.X.shape[1])) - set(required))
    supports = itertools.combinations(rest, k - len(required))
    return min(signed_value(case, [*required, *S], signs) for S in supports)


def signs_of(seed, p):
    if seed % 3 == 0:
        return True, np.ones(p)
    signs = np.random.default_rng(seed + 10**7).integers(-1, 2, p)
    return signs, signs


def keeps(coef, signs):
    return np.all(np.asarray(signs) * coef >= 0)


def test_signs_are_kept_and_the_support_is_the_best():
    worse = []
    for seed in range(N_PROBLEMS):
        problem = case(seed)
        p = problem.X.shape[1]
        positive, signs = signs_of(seed, p)
        k = 1 + seed % p
        model = fitted(problem, k, positive=positive)
        best = best_with_signs(problem, k, signs)
        assert keeps(model.coef_, signs)
        assert len(model.support_) <= k
        assert model.objective_ == pytest.approx(
            problem.of(model.coef_), rel=1e-7, abs=1e-10 * problem.zero
        )
        holds(problem, model.objective_, model.lower_bound_, best)
        if missed(problem, model.objective_, best):
            worse.append((seed, k, model.objective_ / best - 1))
    assert not worse


def test_paths_keep_signs():
    worse = []
    for seed in range(0, N_PROBLEMS, 4):
        problem = case(seed)
        p = problem.X.shape[1]
        positive, signs = signs_of(seed, p)
        path = path_of(problem, p, positive=positive)
        assert np.all(np.diff(path.objectives) <= 0)
        for t, k in enumerate(path.ks):
            best = best_with_signs(problem, k, signs)
            assert keeps(path.coefs[:, t], signs)
            assert np.count_nonzero(path.coefs[:, t]) <= k
            holds(problem, path.objectives[t], path.lower_bounds[t], best)
            if missed(problem, path.objectives[t], best):
                worse.append((seed, k, path.objectives[t] / best - 1))
    assert not worse


def test_signs_and_required_features_together():
    for seed in range(60):
        problem = case(seed)
        p = problem.X.shape[1]
        positive, signs = signs_of(seed, p)
        required = required_of(seed, p)
        k = len(required) + seed % (p - len(required) + 1)
        model = fitted(problem, k, positive=positive, always_include=required)
        best = best_with_signs(problem, k, signs, required.tolist())
        rest = np.delete(model.coef_, required)
        assert np.count_nonzero(rest) <= k - len(required)
        assert keeps(model.coef_, signs)
        holds(problem, model.objective_, model.lower_bound_, best)
        assert not missed(problem, model.objective_, best), seed


def test_all_positive_columns_and_coefficients():
    rng = np.random.default_rng(0)
    X = np.exp(rng.standard_normal((100, 1000)))
    y = X[:, :60] @ rng.uniform(0.5, 2, 60) + rng.standard_normal(100)
    path = chita_path(X, y, [5, 20, 60], positive=True, n_restarts=0)
    assert np.all(path.coefs >= 0)
    assert np.all(np.diff(path.rss) < 0)
    assert np.count_nonzero(path.coefs[:, -1]) == 60
    model = ChitaRegressor(60, positive=True, n_restarts=0).fit(X, y)
    assert np.all(model.coef_ >= 0)
    assert path.objectives[-1] <= model.objective_ * (1 + 1e-9)


def test_signs_on_more_columns_than_a_working_set_holds():
    rng = np.random.default_rng(1)
    options = {"density": 0.02, "format": "csc", "random_state": rng}
    X = scipy.sparse.random_array((300, 4000), **options)
    truth = np.zeros(4000)
    truth[:6] = [3, -3, 2, 2, -2, 1]
    y = X @ truth + 0.01 * rng.standard_normal(300)
    signs = np.where(np.arange(4000) % 2, -1, 1)
    signs[1], signs[4] = 0, 0
    model = ChitaRegressor(6, positive=signs, random_state=0).fit(X, y)
    assert keeps(model.coef_, signs)
    assert {0, 1, 2, 4} <= set(model.support_.tolist())
    assert 3 not in model.support_
    assert 5 not in model.support_


def test_signs_in_cross_validation_and_with_several_targets():
    X, y = signals()
    model = ChitaRegressorCV(5, positive=True, random_state=0).fit(X, y)
    assert np.all(model.path_.coefs >= 0)
    assert 4 in model.support_
    assert 11 not in model.support_
    Y = np.column_stack([y, -y])
    both = ChitaRegressor(3, positive=True, random_state=0).fit(X, Y)
    assert np.all(both.coef_ >= 0)
    assert {11} <= set(both.support_[1].tolist())


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (
            {"positive": [1, 1]},
            r"positive must be True, False, or 20 numbers.*\[1, 1\]",
        ),
        ({"positive": [2] * 20}, "that are -1, 0 or 1"),
        ({"positive": {3: 1}}, r"Got \{3: 1\} instead"),
        ({"positive": {3}}, r"Got \{3\} instead"),
        ({"positive": "yes"}, "'positive' parameter.*Pass True, False, or a sign"),
        (
            {"positive": True, "solver": "dual"},
            "solver='dual' and positive cannot be combined: with positive, solver must "
            "be one of 'auto', 'swap'",
        ),
    ],
)
def test_what_positive_refuses(options, pattern):
    X, y = signals()
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressor(2, **options).fit(X, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_signs_on_torch(dtype):
    torch = pytest.importorskip("torch")
    from chita_sklearn.core import Cardinality, LeastSquares, solve

    X, y = signals()
    expected, signs = None, np.where(np.arange(20) == 11, -1.0, 1.0)
    for to in (np.asarray, torch.asarray):
        problem = LeastSquares(
            to(X.astype(dtype)), to(y), ridge=0.1, signs=to(signs), fit_intercept=True
        )
        found = solve(problem, Cardinality(4), random_state=0)
        expected = found if expected is None else expected
        np.testing.assert_allclose(np.asarray(found.coef), expected.coef, atol=1e-6)
        # Where supports tie, rounding decides how the ascent goes: the bounds differ.
        assert found.lower_bound <= expected.objective * (1 + 1e-6)
        assert found.gap <= 0.02


# --- target_support -------------------------------------------------------------------


def joint_case(seed):
    problem = case(seed, targets=1 + seed % 3)
    problem.options["standardize"] = bool(seed % 2)
    problem.__post_init__()
    return problem


def joined(problem, k, **more):
    model = fitted(problem, k, **more)
    if problem.y.shape[1] == 1:  # one target is a problem of its own
        return model, model.objective_[0], model.lower_bound_[0]
    return model, model.objective_, model.lower_bound_


def test_a_shared_support_is_the_best_for_the_sum():
    worse = []
    for seed in range(N_PROBLEMS):
        problem = joint_case(seed)
        p = problem.X.shape[1]
        k = 1 + seed % p
        model, objective, bound = joined(problem, k, target_support="shared")
        best = min(problem.at(S) for S in itertools.combinations(range(p), k))
        assert np.count_nonzero(np.any(model.coef_ != 0, axis=0)) <= k
        assert objective == pytest.approx(
            problem.of(model.coef_), rel=1e-7, abs=1e-10 * problem.zero
        )
        holds(problem, objective, bound, best)
        if missed(problem, objective, best):
            worse.append((seed, k, objective / best - 1))
    assert not worse


def test_a_shared_support_with_required_features():
    for seed in range(60):
        problem = joint_case(seed)
        p = problem.X.shape[1]
        required = required_of(seed, p)
        k = len(required) + seed % (p - len(required) + 1)
        more = {"target_support": "shared", "always_include": required}
        model, objective, bound = joined(problem, k, **more)
        best = best_including(problem, required, k)
        used = np.any(model.coef_ != 0, axis=0)
        assert np.count_nonzero(np.delete(used, required)) <= k - len(required)
        holds(problem, objective, bound, best)
        assert not missed(problem, objective, best), seed


def pooled_optimum(problem, k):
    """The best of each target for each number, and the best way to share k out."""
    p, t = problem.X.shape[1], problem.y.shape[1]
    table = np.array([0.0])
    for target in range(t):
        one = Case(
            problem.X, problem.y[:, target], problem.ridge, problem.options,
            problem.weights,
        )  # fmt: skip
        best = [
            min(one.at(S) for S in itertools.combinations(range(p), m))
            for m in range(p + 1)
        ]
        sums = np.add.outer(table, best)
        table = np.array(
            [
                min(sums[i, m - i] for i in range(len(table)) if 0 <= m - i <= p)
                for m in range(len(table) + p)
            ]
        )
    return table[k]


def test_a_pooled_budget_is_spent_where_it_gains_most():
    worse = []
    for seed in range(N_PROBLEMS):
        problem = joint_case(seed)
        p, t = problem.X.shape[1], problem.y.shape[1]
        k = 1 + seed % (p * t)
        model, objective, bound = joined(problem, k, target_support="pooled")
        assert np.count_nonzero(model.coef_) <= k
        best = pooled_optimum(problem, k)
        holds(problem, objective, bound, best)
        if missed(problem, objective, best):
            worse.append((seed, k, t, objective / best - 1))
    assert not worse


# --- groups ---------------------------------------------------------------------------


def labels_of(seed, p):
    rng = np.random.default_rng(seed + 10**8)
    return rng.integers(0, int(rng.integers(1, p + 1)), p)


def best_groups(problem, labels, k, required=()):
    kinds = np.unique(labels)
    rest = [G for G in kinds if G not in required]
    return min(
        problem.at(np.flatnonzero(np.isin(labels, [*required, *chosen])))
        for chosen in itertools.combinations(rest, k - len(required))
    )


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("targets", [0, 2])
def test_groups_are_whole_and_the_best(targets, required):
    worse = []
    for seed in range(N_PROBLEMS // (2 if targets or required else 1)):
        problem = case(seed, targets)
        p = problem.X.shape[1]
        labels = labels_of(seed, p)
        n_groups = len(np.unique(labels))
        features = [seed % p] if required else []
        k = max(1 + seed % n_groups, 1)
        model = fitted(
            problem,
            k,
            groups=labels,
            always_include=features or None,
            **({"target_support": "shared"} if targets else {}),
        )
        must = np.unique(labels[features])
        best = best_groups(problem, labels, k, must)
        used = model.coef_ != 0 if not targets else np.any(model.coef_ != 0, axis=0)
        assert len(np.union1d(np.unique(labels[used]), must)) <= k
        assert model.k_ == k
        assert model.objective_ == pytest.approx(
            problem.of(model.coef_), rel=1e-7, abs=1e-10 * problem.zero
        )
        holds(problem, model.objective_, model.lower_bound_, best)
        if missed(problem, model.objective_, best):
            worse.append((seed, k, model.objective_ / best - 1))
    assert not worse


def test_paths_of_groups():
    for seed in range(0, N_PROBLEMS, 4):
        problem = case(seed)
        labels = labels_of(seed, problem.X.shape[1])
        path = path_of(problem, 8, groups=labels, n_restarts=3)
        for t, k in enumerate(path.ks):
            best = best_groups(problem, labels, k)
            used = np.unique(labels[path.coefs[:, t] != 0])
            assert len(used) <= k
            holds(problem, path.objectives[t], path.lower_bounds[t], best)
            assert not missed(problem, path.objectives[t], best), (seed, k)


def test_dummies_of_a_category_beside_an_intercept():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, (200, 5))
    X = np.concatenate([kinds[:, [j]] == np.arange(4) for j in range(5)], axis=1)
    X = X.astype(float)
    y = np.array([0.0, 2, -1, 1])[kinds[:, 1]] + np.array([1.0, 0, 0, 3])[kinds[:, 3]]
    labels = np.repeat([f"category {j}" for j in range(5)], 4)
    for given in (X, scipy.sparse.csr_array(X)):
        model = ChitaRegressor(2, groups=labels, random_state=0).fit(given, y)
        assert set(labels[model.support_]) == {"category 1", "category 3"}
        assert model.score(given, y) > 0.999
    chosen = ChitaRegressorCV(4, groups=labels, random_state=0).fit(X, y)
    assert {"category 1", "category 3"} <= set(labels[chosen.support_])


def test_groups_on_more_columns_than_a_working_set_holds():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((120, 3000))
    labels = rng.permutation(np.repeat(np.arange(1000), 3))
    truth = np.isin(labels, [7, 500, 999]) * rng.uniform(0.5, 2, 3000)
    y = X @ truth + 0.1 * rng.standard_normal(120)
    model = ChitaRegressor(3, groups=labels, random_state=0).fit(X, y)
    assert set(labels[model.support_]) == {7, 500, 999}
    Y = np.column_stack([y, y + X[:, 5]])
    more = {"groups": labels, "target_support": "shared", "random_state": 0}
    both = ChitaRegressor(4, **more).fit(X, Y)
    assert set(labels[both.support_[1]]) == {7, 500, 999, labels[5]}


@pytest.mark.parametrize("solver", ["dual", "iht", "dense", "swap"])
def test_every_solver_that_knows_groups_keeps_them(solver):
    for seed in range(30):
        problem = case(seed)
        problem.ridge = problem.ridge or 0.01
        problem.__post_init__()
        labels = labels_of(seed, problem.X.shape[1])
        k = 1 + seed % len(np.unique(labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = fitted(problem, k, groups=labels, solver=solver)
        assert len(np.unique(labels[model.coef_ != 0])) <= k
        best = best_groups(problem, labels, k)
        holds(problem, model.objective_, model.lower_bound_, best)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"positive": True}, {"groups": [0] * 20}),
        ({"positive": True}, {"target_support": "shared"}),
        ({"positive": True}, {"target_support": "pooled"}),
        ({"groups": [0] * 20}, {"target_support": "pooled"}),
        ({"always_include": [0]}, {"target_support": "pooled"}),
        ({"groups": [0] * 20}, {"solver": "exact"}),
        ({"positive": [1] * 20}, {"solver": "iht"}),
        ({"target_support": "pooled"}, {"solver": "swap"}),
        ({"target_support": "shared"}, {"solver": "admm"}),
    ],
)
def test_pairs_that_cannot_be_combined_are_refused_by_name(one, other):
    X, y = signals()
    Y = np.column_stack([y, y])
    with pytest.raises(ValueError, match="cannot be combined: ") as refused:
        ChitaRegressor(1, **one, **other).fit(X, Y)
    for name in (*one, *other):
        assert name in str(refused.value)


def test_what_groups_and_target_support_refuse():
    X, y = signals()
    with pytest.raises(ValueError, match=r"groups has shape \(2,\); it must be \(20,"):
        ChitaRegressor(1, groups=[0, 1]).fit(X, y)
    with pytest.raises(ValueError, match=r"'target_support' parameter.*Got 'all'"):
        ChitaRegressor(1, target_support="all").fit(X, y)
    labels = np.repeat(np.arange(10), 2)
    with pytest.raises(ValueError, match="names 2 groups, and k=1 asks for 1"):
        ChitaRegressor(1, groups=labels, always_include=[0, 2]).fit(X, y)


def test_one_target_is_the_same_with_every_target_support():
    X, y = signals()
    plain = ChitaRegressor(3, random_state=0).fit(X, y)
    for target_support in ("shared", "pooled"):
        model = ChitaRegressor(3, target_support=target_support, random_state=0)
        np.testing.assert_array_equal(model.fit(X, y).coef_, plain.coef_)


def test_a_pooled_warm_start_is_no_worse():
    X, y = signals()
    Y = np.column_stack([y, X[:, 0] - X[:, 4], X[:, 9]])
    for target_support in ("shared", "pooled"):
        model = ChitaRegressor(4, target_support=target_support, warm_start=True)
        before = model.set_params(random_state=0).fit(X, Y).objective_
        assert model.fit(X, Y).objective_ <= before * (1 + 1e-12)


# --- several targets along k, and in cross-validation ---------------------------------


def joint_paths(target_support, n_problems):
    for seed in range(n_problems):
        problem = joint_case(seed)
        if problem.y.shape[1] > 1:
            size = problem.X.shape[1]
            size *= problem.y.shape[1] if target_support == "pooled" else 1
            path = path_of(problem, size, target_support=target_support, n_restarts=3)
            yield problem, path


def test_paths_of_a_shared_support():
    for problem, path in joint_paths("shared", 30):
        p = problem.X.shape[1]
        assert path.n_features == p
        for t, k in enumerate(path.ks):
            best = min(problem.at(S) for S in itertools.combinations(range(p), k))
            coefs = path.coefs[:, :, t]
            assert np.count_nonzero(np.any(coefs != 0, axis=0)) <= k
            assert path.objectives[t] == pytest.approx(
                problem.of(coefs), rel=1e-7, abs=1e-10 * problem.zero
            )
            holds(problem, path.objectives[t], path.lower_bounds[t], best)
            assert not missed(problem, path.objectives[t], best)


def test_paths_of_a_pooled_budget():
    worse, total = [], 0
    for problem, path in joint_paths("pooled", 8):
        for t, k in enumerate(path.ks):
            best = pooled_optimum(problem, k)
            assert np.count_nonzero(path.coefs[:, :, t]) <= k
            holds(problem, path.objectives[t], path.lower_bounds[t], best)
            total += 1
            if missed(problem, path.objectives[t], best):
                worse.append((k, path.objectives[t] / best - 1))
    assert not worse, total


def three_targets(n=80):
    X, y = signals(n)
    rng = np.random.default_rng(3)
    other = X[:, 4] + X[:, 9] + 0.5 * rng.standard_normal(n)
    return X, np.column_stack([y, other, -y + 0.1 * other])


def test_several_targets_in_cross_validation():
    X, Y = three_targets()
    few = {"ridges": [0.01, 0.1], "cv": 3, "n_restarts": 2, "random_state": 0}
    model = ChitaRegressorCV(5, target_support="shared", **few).fit(X, Y)
    assert model.coef_.shape == (3, 20)
    assert model.intercept_.shape == (3,)
    assert {4, 9, 11} <= set(model.support_[0].tolist())
    assert all(np.array_equal(S, model.support_[0]) for S in model.support_)
    assert model.predict(X).shape == Y.shape
    # The mean squared error over rows and targets, as scikit-learn has it.
    scored = ChitaRegressorCV(
        5, target_support="shared", scoring="neg_mean_squared_error", **few
    ).fit(X, Y)
    np.testing.assert_allclose(scored.score_path_, model.score_path_, rtol=1e-10)
    pooled = ChitaRegressorCV(8, target_support="pooled", **few).fit(X, Y)
    assert np.count_nonzero(pooled.coef_) <= pooled.k_ <= 8
    assert pooled.to_numpy().path_.supports[3][0].tolist() == (
        pooled.path_.supports[3][0].tolist()
    )
    assert " | " in str(pooled.path_)
    # Sparse, weighted, a group at a time.
    labels, weights = np.repeat(np.arange(10), 2), np.linspace(0.5, 2, 80)
    more = {"target_support": "shared", "groups": labels} | few
    dense = ChitaRegressorCV(4, **more).fit(X, Y, weights)
    sparse = ChitaRegressorCV(4, **more).fit(scipy.sparse.csr_array(X), Y, weights)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, atol=1e-10)


def test_several_targets_are_refused_where_each_would_have_its_own_path():
    X, Y = three_targets()
    with pytest.raises(ValueError, match=r"3 targets.*target_support='shared'"):
        chita_path(X, Y, 3)
    with pytest.raises(ValueError, match=r"3 targets.*target_support='shared'"):
        ChitaRegressorCV(3).fit(X, Y)
    pattern = "criterion='ebic' and target_support cannot be combined: a criterion"
    with pytest.raises(ValueError, match=pattern):
        ChitaRegressorCV(3, criterion="ebic", target_support="shared").fit(X, Y)


@pytest.mark.parametrize("target_support", ["shared", "pooled"])
def test_several_targets_and_groups_on_torch(target_support):
    torch = pytest.importorskip("torch")
    from chita_sklearn.core import Cardinality, Groups, SeveralTargets, solve
    from chita_sklearn.core import least_squares as joined_problem

    X, Y = three_targets()
    found = []
    for to in (np.asarray, torch.asarray):
        problem = joined_problem(to(X), to(Y), [None] * 3, ridge=0.1)
        assert isinstance(problem, SeveralTargets)
        pattern = Groups(3, np.tile(np.repeat(np.arange(10), 2), 3))
        pattern = pattern if target_support == "shared" else Cardinality(7)
        found.append(solve(problem, pattern, random_state=0))
    np.testing.assert_allclose(np.asarray(found[1].coef), found[0].coef, atol=1e-9)
    assert found[1].gap == pytest.approx(found[0].gap, abs=1e-9)


def test_a_criterion_counts_sets_of_groups():
    X, y = signals()
    labels = np.repeat(np.arange(10), 2)
    model = ChitaRegressorCV(4, [1e-3], criterion="ebic", groups=labels).fit(X, y)
    path = model.path_
    for t, k in enumerate(path.ks):
        df = path.degrees_of_freedom[t]
        value = ebic(80, path.rss[t], int(k), n_features=10, df=df)
        assert model.criterion_path_[0, t] == pytest.approx(value, rel=1e-12)
    assert set(labels[model.support_]) == {2, 5}


def test_callbacks_see_the_model_of_all_targets():
    pytest.importorskip("sklearn.callback")
    seen = []

    class Watch:
        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            seen.append(fitted_estimator.coef_.shape)

    X, Y = three_targets()
    for target_support in ("shared", "pooled"):
        model = ChitaRegressor(4, target_support=target_support, n_restarts=1)
        model.set_callbacks(Watch()).fit(X, Y)
    assert len(seen) >= 4
    assert set(seen) == {(3, 20)}
