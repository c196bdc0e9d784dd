"""abess: splicing at a fixed support size (GPL-3: a benchmark dependency only)."""

name = "abess"
requirement = "abess==0.4.11"


def fit(X, y, k):
    from abess import LinearRegression

    # Warm-started over no path: the size alone, as `support_size=k` asks for.
    model = LinearRegression(support_size=k, fit_intercept=False, thread=1)
    return model.fit(X, y).coef_
