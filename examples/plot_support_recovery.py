"""
=========================================
Which columns, when they are correlated?
=========================================

A few of 300 columns make y; neighbouring columns are correlated. The stronger the
correlation, the easier it is to take a neighbour for the right column. Greedy selection
never takes a choice back; the lasso shrinks what it chooses and lets neighbours in.
``ChitaRegressor`` exchanges columns until no exchange helps.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import OrthogonalMatchingPursuit, lasso_path

from chita_sklearn import ChitaRegressor

N, P, K = 100, 300, 10

# %%
# The data
# --------
# Columns j and l have the correlation rho to the power of their distance. The ten
# columns that matter are drawn at random, with coefficients of 1 or -1; the noise has a
# fifth of the signal's variance.


def make(rho, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, P))
    for j in range(1, P):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    truth = np.sort(rng.choice(P, size=K, replace=False))
    signal = X[:, truth] @ rng.choice([-1.0, 1.0], size=K)
    noise = rng.standard_normal(N)
    return X, signal + noise * np.sqrt(signal.var() / 5), truth


# %%
# Three ways to choose ten columns
# --------------------------------


def chita(X, y):
    return ChitaRegressor(K, random_state=0).fit(X, y).support_


def matching_pursuit(X, y):
    return np.flatnonzero(OrthogonalMatchingPursuit(n_nonzero_coefs=K).fit(X, y).coef_)


def lasso(X, y):
    # The first point of the path with K columns or more, and its K largest.
    _, path, _ = lasso_path(X, y - y.mean(), eps=1e-2, alphas=100)
    point = path[:, np.argmax(np.count_nonzero(path, axis=0) >= K)]
    return np.argsort(-np.abs(point))[:K]


METHODS = {
    "ChitaRegressor": chita,
    "OrthogonalMatchingPursuit": matching_pursuit,
    "Lasso": lasso,
}

# %%
# How many of the ten are found
# -----------------------------
# The mean of ten data sets for each correlation. Beyond a point nobody finds them:
# with this much noise a neighbour may even fit better than the column itself, and
# then the best set of ten is not the one that made the data.

rhos = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)
seeds = range(10)
found = {title: np.empty((len(rhos), len(seeds))) for title in METHODS}
for a, rho in enumerate(rhos):
    for b, seed in enumerate(seeds):
        X, y, truth = make(rho, seed)
        for title, method in METHODS.items():
            found[title][a, b] = len(np.intersect1d(method(X, y), truth))

print(f"of {K} columns found       " + "".join(f"{rho:7g}" for rho in rhos))
for title, counts in found.items():
    print(f"{title:26}" + "".join(f"{count:7.1f}" for count in counts.mean(axis=1)))

fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
colors = ("#0072B2", "#D55E00", "#999999")
for (title, counts), color in zip(found.items(), colors, strict=True):
    mean = counts.mean(axis=1)
    error = counts.std(axis=1, ddof=1) / np.sqrt(len(seeds))
    ax.errorbar(rhos, mean, error, fmt="o-", color=color, label=title, capsize=3)
ax.set(
    xlabel="correlation of neighbouring columns",
    ylabel=f"columns found, of {K}",
    title=f"n = {N}, p = {P}: mean of {len(seeds)} data sets",
    ylim=(0, K + 0.5),
)
ax.legend(frameon=False)
plt.show()
