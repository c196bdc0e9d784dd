"""
=======================================================
How many features? Cross-validation, EBIC, one-SE rule
=======================================================

``ChitaRegressorCV`` chooses the number of features and the ridge together. It can go by
the score on held-out folds, or by an information criterion on all data. The
one-standard-error rule takes the smallest model whose score is nearly the best.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from chita_sklearn import ChitaRegressorCV, CVDisplay

# %%
# The data
# --------
# Ten measurements of 442 patients, with their squares and products: 65 terms.

data = load_diabetes()
X, X_test, y, y_test = train_test_split(
    data.data, data.target, test_size=0.25, random_state=0
)
expand = make_pipeline(
    StandardScaler(),
    PolynomialFeatures(degree=2, include_bias=False),
    StandardScaler(),
)
A, A_test = expand.fit_transform(X), expand.transform(X_test)
names = expand.get_feature_names_out(data.feature_names)

# %%
# Three rules
# -----------
# "best" takes the pair with the best mean score. "one_se" takes the smallest k within
# one standard error of it. EBIC needs no folds: it penalises each coefficient, and
# the number of models there are to choose from.

folds = KFold(5, shuffle=True, random_state=0)
options = {"ks": 15, "ridges": (1e-3, 1e-2, 1e-1, 1.0), "random_state": 0}
models = {
    "CV, best": ChitaRegressorCV(cv=folds, **options),
    "CV, one standard error": ChitaRegressorCV(cv=folds, selection="one_se", **options),
    "EBIC": ChitaRegressorCV(criterion="ebic", **options),
}
print(f"{'':24}  k    ridge   test R2   terms")
for title, model in models.items():
    model.fit(A, y)
    r2, terms = model.score(A_test, y_test), ", ".join(names[model.support_])
    print(f"{title:24} {model.k_:2}  {model.ridge_:7g}  {r2:8.3f}   {terms}")

# %%
# The scores
# ----------
# One curve for each ridge, with one standard error of the mean over the folds. The
# scores lie close together over a wide range of k, which is why the
# one-standard-error rule costs little. EBIC has no folds and no error bars, and
# smaller is better.

fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for ax, title in zip(axes, ("CV, one standard error", "EBIC"), strict=True):
    CVDisplay.from_estimator(models[title], ax=ax, name=title)
plt.show()
