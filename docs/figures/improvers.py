"""What each improver does to the objective of one problem, step by step."""

import matplotlib.pyplot as plt
import numpy as np

from chita_sklearn.core import Cardinality, LeastSquares, Solution, solve
from chita_sklearn.core.improvers.dual import dual
from chita_sklearn.core.improvers.iht import iht
from chita_sklearn.core.improvers.swaps import swaps
from chita_sklearn.core.initial import correlation
from chita_sklearn.core.refit.backsolve import backsolve

rng = np.random.default_rng(0)
n, p, k = 150, 600, 15
X = rng.standard_normal((n, p))
for j in range(1, p):
    X[:, j] = 0.9 * X[:, j - 1] + np.sqrt(0.19) * X[:, j]
X = (X - X.mean(axis=0)) / X.std(axis=0)
w = np.zeros(p)
w[rng.choice(p, k, replace=False)] = rng.choice([-1.0, 1.0], k)
y = X @ w + 0.7 * rng.standard_normal(n)
problem, pattern = LeastSquares(X, y - y.mean(), ridge=0.3), Cardinality(k)

mask = correlation(problem, pattern)
start = Solution(np.zeros(p), mask, problem.objective(np.zeros(p)), n_iter=0)


def steps(improver, first, **options):
    """Objectives after each step."""
    values = [first.objective]

    def record(coef):
        values.append(problem.objective(coef))
        return False

    last = improver(problem, pattern, first, on_step=record, **options)
    return np.minimum.accumulate([*values, last.objective]) / problem.n, last


refit = backsolve(problem, start)
by_steps, after_iht = steps(iht, start)
by_swaps, _ = steps(swaps, refit)

best = solve(problem, pattern, solver="swap", n_restarts=50, random_state=0)

fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.5))
left.plot(by_steps[1:], "o-", label="hard thresholding")
refitted = backsolve(problem, after_iht).objective / n
left.plot(len(by_steps) - 1, refitted, "P", color="#CC79A7", ms=9, label="+ backsolve")
left.plot(by_swaps, "s-", color="#D55E00", label="exact swaps")
left.axhline(best.objective / n, color="0.5", linestyle=":", label="best with restarts")
left.set(xlabel="step", ylabel="F", title="Descents from the same support")
left.legend(fontsize="small")

bounds, objectives = [], []
for limit in range(1, 31):
    solution = dual(problem, pattern, refit, max_iter=limit, tol=1e-6)
    bounds.append(solution.lower_bound / n)
    objectives.append(solution.objective / n)
objectives = np.minimum.accumulate(objectives)
bounds = np.maximum.accumulate(bounds)
right.plot(range(1, 31), objectives, label="objective")
right.plot(range(1, 31), bounds, "--", label="lower bound")
right.fill_between(range(1, 31), bounds, objectives, color="#999999", alpha=0.2, lw=0)
right.set(xlabel="steps", ylabel="F", title="Dual ascent")
right.legend(fontsize="small")
