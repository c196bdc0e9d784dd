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

from chita_sklearn import PathDisplay, chita_path

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

path = chita_path(X, y, 12, ridge=0.03, random_state=0)
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
# Left, coefficients; a colour for each term of the last model. Right, the objective:
# no set of k terms can go below the lower line.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
PathDisplay.from_path(path, feature_names=names, ax=left)
PathDisplay.from_path(path, kind="objective", ax=right)
plt.show()
