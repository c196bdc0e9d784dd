"""What the three settings of our own estimator share."""


def fit_chita(X, y, k, **settings):
    from chita_sklearn import ChitaRegressor

    model = ChitaRegressor(k, ridge=1e-10, random_state=0, **settings)
    return model.fit(X, y).coef_
