"""Objective and bound of one problem at many ridges."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from chita_sklearn import ChitaRegressor

data = load_diabetes()
expand = make_pipeline(
    StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler()
)
X, y = expand.fit_transform(data.data), data.target
y = (y - y.mean()) / y.std()

ridges = np.logspace(-4, 1, 16)
fits = [ChitaRegressor(10, ridge, random_state=0).fit(X, y) for ridge in ridges]
objectives = [fit.objective_ for fit in fits]
bounds = [fit.lower_bound_ for fit in fits]

fig, ax = plt.subplots()
ax.semilogx(ridges, objectives, "o-", label="objective_")
ax.semilogx(ridges, bounds, "s--", label="lower_bound_")
ax.fill_between(ridges, bounds, objectives, color="#999999", alpha=0.2, linewidth=0)
ax.set(
    xlabel="ridge",
    ylabel="F",
    title="Diabetes with squares and products: 10 of 65 terms",
)
ax.legend()
