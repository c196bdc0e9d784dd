"""scikit-learn's orthogonal matching pursuit."""

name = "OMP"
requirement = ""


def fit(X, y, k):
    from sklearn.linear_model import OrthogonalMatchingPursuit

    model = OrthogonalMatchingPursuit(n_nonzero_coefs=k, fit_intercept=False)
    return model.fit(X, y).coef_
