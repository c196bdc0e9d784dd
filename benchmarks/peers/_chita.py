"""What the three settings of our own estimator share."""


def fit_chita(X, y, k, **settings):
    from chita_sklearn import ChitaRegressor

    return ChitaRegressor(k, ridge=1e-10, **settings).fit(X, y).coef_
