"""
===========================================
The path: one fit for every number of terms
===========================================

``chita_path`` solves for k = 1, 2, 3, ... together. Neighbouring k start searches for
each other, so that no solution on the path is worse than a single fit's. Unlike on a
lasso path, a term may leave again as k grows: the best set of five need not contain the
best set of four.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from chita_sklearn import chita_path

# %%
# The data
# --------

data = load_diabetes()
expand = make_pipeline(
    StandardScaler(),
    PolynomialFeatures(degree=2, include_bias=False),
    StandardScaler(),
)
X, y = expand.fit_transform(data.data), data.target
names = expand.get_feature_names_out(data.feature_names)

# %%
# The path
# --------
# Printed, it is a table. Everything in it is kept: coefficients, objectives, bounds.

path = chita_path(X, y, 12, ridge=0.1, random_state=0)
print(path)

for before, after, k in zip(
    path.supports, path.supports[1:], path.ks[1:], strict=False
):
    left = np.setdiff1d(before, after)
    if left.size:
        print(f"at k = {k}, out: {', '.join(names[left])}")

# %%
# As a picture
# ------------
# Coefficients of terms that are in the model at any k, and what is known of the
# objective: no set of k terms can go below the lower line.

ever = np.unique(np.concatenate(path.supports))
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for j in ever:
    (line,) = left.plot(path.ks, path.coefs[j], "o-", markersize=3, linewidth=1)
    if path.coefs[j, -1]:
        left.annotate(
            names[j],
            (path.ks[-1], path.coefs[j, -1]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize="x-small",
            color=line.get_color(),
        )
left.axhline(0, color="0.7", linewidth=0.8)
left.set(xlabel="number of terms k", ylabel="coefficient", xlim=(0.5, 14.5))
right.plot(path.ks, path.objectives, "o-", color="#0072B2", label="objective")
right.plot(path.ks, path.lower_bounds, "--", color="#D55E00", label="lower bound")
right.fill_between(
    path.ks, path.lower_bounds, path.objectives, color="#999999", alpha=0.2, lw=0
)
right.set(xlabel="number of terms k", ylabel="F", ylim=(0, None))
right.legend(frameon=False)
plt.show()
