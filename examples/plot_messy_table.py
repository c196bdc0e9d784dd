"""
========================================================
A messy table: from raw columns to the eight that matter
========================================================

Sixty columns of flats for rent: metres, millimetres and euros, categories, gaps. One
pipeline prepares them, says how many columns matter and which, and predicts.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LassoCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from chita_sklearn import ChitaRegressorCV

# %%
# The table
# ---------
# 1,500 flats. Eight things make the rent: area (square metres), the distance to the
# centre (in millimetres), the year, the floor, the income of the quarter (euros), two
# of the cities, and whether there is a lift. Fifty more columns tell nothing, some of
# them in large units, and some correlate with those that do.

rng = np.random.default_rng(0)
n = 1500
flats = pd.DataFrame(
    {
        "area": rng.gamma(9, 8, n),
        "distance_mm": rng.gamma(4, 1e6, n),
        "year": rng.integers(1900, 2025, n).astype(float),
        "floor": rng.integers(0, 12, n).astype(float),
        "income": rng.lognormal(10, 0.4, n),
        "city": rng.choice(["Lille", "Lyon", "Nantes", "Nice", "Paris"], n),
        "lift": rng.choice(["no", "yes"], n),
        "heating": rng.choice(["gas", "oil", "wood", "electric"], n),
        "rooms": np.nan,
        "taxes": np.nan,
    }
)
flats["rooms"] = np.round(flats["area"] / 22 + rng.normal(0, 0.8, n)).clip(1)
flats["taxes"] = 0.02 * flats["income"] + rng.normal(0, 150, n)
units = 10.0 ** rng.integers(-6, 7, 50)
for j in range(50):
    flats[f"survey_{j:02}"] = units[j] * rng.standard_normal(n)
rent = (
    9 * flats["area"]
    - 4e-5 * flats["distance_mm"]
    + 1.6 * (flats["year"] - 1900)
    + 14 * flats["floor"]
    + 0.009 * flats["income"]
    + flats["city"].map({"Paris": 320, "Nice": 150}).fillna(0)
    + 90 * (flats["lift"] == "yes")
    + rng.normal(0, 60, n)
)
for name in ("income", "year", "survey_03", "heating"):
    flats.loc[rng.random(n) < 0.06, name] = np.nan
print(flats.shape, f"{flats.isna().sum().sum()} values are missing")

# %%
# One pipeline
# ------------
# Gaps are filled, categories become columns of their own, and the rest is left to
# ``ChitaRegressorCV``. No scaler is needed, for units do not matter to it. By default
# it also finds how many features to try; the rule of one standard error takes the
# fewest that predict as well as the best.

categories = ["city", "lift", "heating"]
numbers = [name for name in flats if name not in categories]
prepare = ColumnTransformer(
    [
        ("numbers", SimpleImputer(strategy="median"), numbers),
        (
            "categories",
            OneHotEncoder(drop="if_binary", sparse_output=False),
            categories,
        ),
    ],
    verbose_feature_names_out=False,
)
model = make_pipeline(prepare, ChitaRegressorCV(selection="one_se", random_state=0))
model.set_output(transform="pandas")
X, X_test, y, y_test = train_test_split(flats, rent, test_size=0.25, random_state=0)
model.fit(X, y)
chosen = model[-1]
print(f"{chosen.k_} of {chosen.n_features_in_} columns, gap {chosen.gap_:.1%}")

# %%
# Which columns
# -------------
# The coefficients are in the units of the columns: euros a square metre, euros a
# millimetre. ``per_deviation`` makes them comparable, and ``loss_if_removed`` says how
# much the fit would lose without each.

table = chosen.summary()
print(table.round(6).to_string(index=False))

# %%
# How well it predicts
# --------------------
# Beside the lasso, which needs a scaler and keeps many more columns.

lasso = make_pipeline(prepare, StandardScaler(), LassoCV(cv=5)).fit(X, y)
for title, fitted in (("chosen columns", model), ("lasso", lasso)):
    size = np.count_nonzero(fitted[-1].coef_)
    print(
        f"{title:15} R2 on new flats {fitted.score(X_test, y_test):.3f}, {size} columns"
    )

# %%
# The picture
# -----------
# What a typical difference in each column does to the rent. Blue: more rent; orange:
# less. The share of the folds that chose the column stands beside its bar.

bars = table.iloc[table["per_deviation"].abs().argsort()]
share = pd.Series(chosen.stability_, chosen.feature_names_in_)[bars["feature"]]
colours = np.where(bars["per_deviation"] > 0, "#0072B2", "#D55E00")
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
drawn = ax.barh(bars["feature"], bars["per_deviation"], color=colours)
ax.bar_label(drawn, [f"{s:.0%} of folds" for s in share], padding=4)
ax.margins(x=0.4)
ax.axvline(0, color="grey", linewidth=0.8)
ax.set_xlabel("euros of rent for one standard deviation")
ax.set_title("What makes the rent")
plt.show()
