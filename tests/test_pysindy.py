"""PySINDy with this library as its optimizer: the exact terms of the Lorenz system."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from chita_sklearn import ChitaRegressor

pysindy = pytest.importorskip("pysindy")


@pytest.mark.filterwarnings("ignore")  # pysindy's own
@pytest.mark.parametrize(
    "optimizer",
    [
        ChitaRegressor(3, ridge=1e-8, fit_intercept=False),
        ChitaRegressor(7, ridge=1e-8, fit_intercept=False, target_support="pooled"),
    ],
    ids=["three terms an equation", "seven terms in all"],
)
def test_the_lorenz_system_is_found(optimizer):
    def lorenz(_, s):
        return 10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]

    t = np.arange(0, 10, 0.002)
    x = solve_ivp(lorenz, (0, 10), [-8, 8, 27], t_eval=t, rtol=1e-10, atol=1e-10).y.T
    model = pysindy.SINDy(optimizer=optimizer)
    model.fit(x, t=t)
    expected = np.zeros((3, 10))  # 1, x, y, z, xx, xy, xz, yy, yz, zz
    expected[0, [1, 2]] = -10, 10
    expected[1, [1, 2, 6]] = 28, -1, -1
    expected[2, [3, 5]] = -8 / 3, 1
    np.testing.assert_allclose(model.coefficients(), expected, atol=0.02)
