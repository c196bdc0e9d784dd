"""Information criteria of Gaussian linear models: AIC, BIC and the extended BIC.

Each is n log(RSS / n), which is -2 times the log-likelihood maximised over coefficients
and noise variance, less the constant n (1 + log 2 pi) that all models of the same data
share, plus a price for the model's size. Smaller is better.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.special import gammaln

__all__ = ["aic", "bic", "ebic"]


def aic(n_samples: float, rss: Any, k: Any) -> Any:
    r"""Return Akaike's information criterion of a linear model.

    .. math::

        \mathrm{AIC} = n \log(\mathrm{RSS} / n) + 2 k

    Parameters
    ----------
    n_samples : float
        The number of samples, n; with sample weights their sum, so that a weight of 2
        counts as the sample twice. Weights whose sum is not the number of samples
        change what the criterion chooses: scale them first.

    rss : float or array-like
        The sum of squared residuals, each times its sample weight. 0, a perfect fit,
        gives ``-inf``.

    k : float or array-like
        The number of non-zero coefficients, or the effective degrees of freedom of a
        fit with a ridge term. The intercept, which all models have, is not counted.

    Returns
    -------
    float or ndarray
        The criterion, one number for each pair of `rss` and `k`.

    See Also
    --------
    bic : With a penalty that grows with the number of samples.
    ebic : With a penalty that grows with the number of features as well.

    Examples
    --------
    >>> from chita_sklearn import aic
    >>> print(round(aic(100, 50.0, 3), 3))
    -63.315
    """
    return _deviance(n_samples, rss) + 2.0 * _number(k, "k")


def bic(n_samples: float, rss: Any, k: Any) -> Any:
    r"""Return the Bayesian information criterion (Schwarz's) of a linear model.

    .. math::

        \mathrm{BIC} = n \log(\mathrm{RSS} / n) + k \log n

    Parameters
    ----------
    n_samples : float
        The number of samples, n; with sample weights their sum.

    rss : float or array-like
        The sum of squared residuals, each times its sample weight. 0, a perfect fit,
        gives ``-inf``.

    k : float or array-like
        The number of non-zero coefficients, or the effective degrees of freedom of a
        fit with a ridge term; the intercept is not counted.

    Returns
    -------
    float or ndarray
        The criterion, one number for each pair of `rss` and `k`.

    See Also
    --------
    aic : With a price of 2 a coefficient.
    ebic : For choosing among many features.

    Examples
    --------
    >>> from chita_sklearn import bic
    >>> print(round(bic(100, 50.0, 3), 3))
    -55.499
    """
    deviance = _deviance(n_samples, rss)  # checks n_samples before its logarithm
    return deviance + _number(k, "k") * float(np.log(n_samples))


def ebic(
    n_samples: float,
    rss: Any,
    k: Any,
    *,
    n_features: int,
    gamma: float = 1.0,
    df: Any = None,
) -> Any:
    r"""Return the extended Bayesian information criterion of a linear model.

    .. math::

        \mathrm{EBIC}_\gamma = n \log(\mathrm{RSS} / n) + \mathrm{df} \log n
        + 2 \gamma \log \binom{p}{k}

    BIC assumes that every model is equally likely, which with many features favours the
    sizes of which there are most models. Here every *size* is equally likely
    (``gamma=1``), and the models of one size share its probability.

    Parameters
    ----------
    n_samples : float
        The number of samples, n; with sample weights their sum.

    rss : float or array-like
        The sum of squared residuals, each times its sample weight. 0, a perfect fit,
        gives ``-inf``.

    k : float or array-like
        The number of non-zero coefficients; the intercept is not counted.

    n_features : int
        The number of features, p, that were chosen from.

    gamma : float, default=1.0
        Weight of the number of models, in [0, 1]; 0 is BIC.

    df : float or array-like or None, default=None
        The effective degrees of freedom of a fit with a ridge term. None is `k`.

    Returns
    -------
    float or ndarray
        The criterion, one number for each model.

    See Also
    --------
    bic : The same with ``gamma=0``.
    aic : For prediction with few features.

    References
    ----------
    .. [1] J. Chen and Z. Chen, "Extended Bayesian information criteria for model
       selection with large model spaces", Biometrika 95(3), 2008.
       https://doi.org/10.1093/biomet/asn034

    Examples
    --------
    >>> from chita_sklearn import ebic
    >>> print(round(ebic(100, 50.0, 3, n_features=1000), 3))
    -17.642
    """
    if not 0 <= gamma <= 1:
        msg = f"gamma={gamma!r}; it must be in [0, 1]. 0 is BIC, 1 the full extension."
        raise ValueError(msg)
    if not isinstance(n_features, Integral):
        msg = f"n_features={n_features!r} must be an int."
        raise ValueError(msg)
    count = _number(k, "k")
    if np.any(count > n_features):
        msg = (
            f"k={k!r} is more than n_features={n_features!r}. Pass the number of "
            "features that were chosen from, chosen ones included."
        )
        raise ValueError(msg)
    models = (
        gammaln(n_features + 1.0)
        - gammaln(count + 1.0)
        - gammaln(n_features - count + 1.0)
    )
    size = bic(n_samples, rss, count if df is None else df)
    return size + 2.0 * gamma * models


def _deviance(n_samples: float, rss: Any) -> Any:
    """n log(rss / n)."""
    if not (isinstance(n_samples, Real) and 0 < n_samples < np.inf):
        msg = f"n_samples={n_samples!r}; it must be in (0, inf)."
        raise ValueError(msg)
    with np.errstate(divide="ignore"):  # log 0 = -inf is what a perfect fit is due
        return n_samples * np.log(_number(rss, "rss") / n_samples)


def _number(value: Any, name: str) -> Any:
    """Return non-negative numbers in float64: a NumPy scalar or array."""
    numbers = np.asarray(value, dtype=np.float64)
    if not np.all(numbers >= 0):
        msg = f"{name}={value!r}; its values must be in [0, inf)."
        raise ValueError(msg)
    return numbers[()]
