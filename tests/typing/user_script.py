"""A user's script, for type checkers and editors: `make types` runs them on it.

mypy --strict and pyright have nothing to say of it, and know every fitted attribute. A
test runs it too.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from chita_sklearn import (
    ChitaRegressor,
    ChitaRegressorCV,
    ChitaSelector,
    CVDisplay,
    Moments,
    PathDisplay,
    chita_path,
    ebic,
)


def fitted(X: np.ndarray, y: np.ndarray, k: int) -> ChitaRegressor:
    return ChitaRegressor(k=k, solver="swap", random_state=0).fit(X, y)


def chosen(X: np.ndarray, y: np.ndarray) -> ChitaRegressorCV:
    model = ChitaRegressorCV(ks=8, criterion="cv", selection="one_se", random_state=0)
    return model.fit(X, y)


def main() -> None:
    X, y = map(np.asarray, load_diabetes(return_X_y=True))
    names = [f"x{j}" for j in range(X.shape[1])]

    model = fitted(X, y, k=4)
    print(f"k = {model.k_}, gap {model.gap_:.1%}, F {model.objective_:.4g}")
    print({names[j]: float(model.coef_[j]) for j in model.support_}, model.intercept_)
    print(model.score(X, y), model.n_iter_, model.lower_bound_, model.solver_history_)
    residuals: np.ndarray = y - model.predict(X)
    print(residuals.std(), model.get_support(indices=True), model.n_features_in_)

    searched = chosen(X, y)
    ridge: float = searched.ridge_
    k: int = searched.k_
    print(k, ridge, searched.best_score_, searched.score_path_.shape)
    print(searched.cv_results_["mean_test_score"][searched.best_index_])
    CVDisplay.from_estimator(searched).figure_.savefig("scores.png")

    path = chita_path(X, y, 6, ridge=ridge, solver="auto", target_support="separate")
    print(path, ebic(len(y), path.rss, path.ks, n_features=X.shape[1]))
    PathDisplay.from_path(path, feature_names=names, kind="objective")

    seen = Moments().update(X[:200], y[:200]).update(X[200:], y[200:])
    again = ChitaRegressor(4).fit_moments(seen).partial_fit(X[:5], y[:5])
    print(again.coef_, again.support_, again.moments_.n_samples_, again.to_numpy().k_)
    print(again.summary(), again.chosen_, again.to_sklearn().coef_)
    selector = ChitaSelector(4).fit(X, y)
    print(selector.estimator_.gap_, selector.get_support())
    make_pipeline(PolynomialFeatures(2), selector, ChitaRegressor(4)).fit(X, y)


if __name__ == "__main__":
    main()
