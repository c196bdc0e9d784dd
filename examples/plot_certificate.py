"""
========================================
How good is the answer? The proven gap
========================================

Choosing k of p features is hard, and a search may stop short of the best set.
``lower_bound_`` is a value that no set of k features can go below, and ``gap_`` is the
distance of the answer from it. How useful that is depends on the ridge.
"""

import matplotlib.pyplot as plt
import numpy as np

from chita_sklearn import ChitaRegressor

N, P, K = 200, 1000, 10

# %%
# The data
# --------
# A thousand correlated columns, ten of which matter.

rng = np.random.default_rng(0)
X = rng.standard_normal((N, P))
for j in range(1, P):
    X[:, j] = 0.5 * X[:, j - 1] + np.sqrt(0.75) * X[:, j]
X = (X - X.mean(axis=0)) / X.std(axis=0)
truth = rng.choice(P, size=K, replace=False)
y = X[:, truth] @ rng.choice([-1.0, 1.0], size=K) + rng.standard_normal(N)

# %%
# The certificate, for many ridges
# --------------------------------
# The ridge stabilises the coefficients and shrinks them. The proof needs it too: with
# hardly any, a thousand columns could fit 200 samples exactly, and the bound says
# little more than that the objective cannot be negative.

ridges = np.logspace(-4, 1, 11)
rows = []
for ridge in ridges:
    model = ChitaRegressor(K, ridge, random_state=0).fit(X, y)
    hits = len(np.intersect1d(model.support_, truth))
    rows.append((model.objective_, model.lower_bound_, model.gap_, hits))
objective, bound, gap, hits = np.array(rows).T

print("    ridge   objective   lower bound        gap   right columns")
for row in zip(ridges, objective, bound, 100 * gap, hits, strict=True):
    print("{:9.2e}  {:10.4f}  {:12.4f}  {:8.3f} %  {:8.0f} of 10".format(*row))

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.semilogx(ridges, objective, "o-", color="#0072B2", label="objective_")
left.semilogx(ridges, bound, "s--", color="#D55E00", label="lower_bound_")
left.fill_between(ridges, bound, objective, color="#999999", alpha=0.2, lw=0)
left.set(xlabel="ridge", ylabel="F")
left.legend(frameon=False)
right.loglog(ridges, np.maximum(100 * gap, 1e-3), "o-", color="#009E73")
right.axhline(1, color="0.7", linestyle=":", linewidth=1)
right.set(xlabel="ridge", ylabel="gap_ in %, at least 0.001")
plt.show()
