"""
===========================================
Which pixels tell a digit from the others?
===========================================

Ten regressions at once, one for each digit: is this image a 0, a 1, ...? Every one
of them may use ``k`` of the 64 pixels, and chooses its own.
"""

from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, OrthogonalMatchingPursuit, lasso_path
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from chita_sklearn import ChitaRegressor

OUTPUT = Path("demo_output")
OUTPUT.mkdir(exist_ok=True)
K = 8

# %%
# The data
# --------
# The targets are the columns of ``Y``: 1 for images of the digit, 0 for the others.

data = load_digits()
pixels, pixels_test, label, label_test = train_test_split(
    data.data, data.target, test_size=0.25, random_state=0
)
scale = StandardScaler().fit(pixels)
X, X_test = scale.transform(pixels), scale.transform(pixels_test)
Y, Y_test = np.eye(10)[label], np.eye(10)[label_test]
names = np.array(data.feature_names)
print(f"Digits: {X.shape[0]} images, {X.shape[1]} pixels, of which k = {K} a digit\n")

# %%
# Three ways to choose k pixels for each digit
# --------------------------------------------
# Each returns the coefficients, (10, 64), and a function that predicts.


def chita(X, Y, k):
    model = ChitaRegressor(k=k, random_state=0).fit(X, Y)
    return model.coef_, model.predict


def matching_pursuit(X, Y, k):
    model = OrthogonalMatchingPursuit(n_nonzero_coefs=k).fit(X, Y)
    return model.coef_, model.predict


def lasso_then_refit(X, Y, k):
    # For each digit, the first point of the path with k pixels or more, its k
    # largest, and least squares on them.
    coef = np.zeros((Y.shape[1], X.shape[1]))
    for w, y in zip(coef, Y.T, strict=True):
        _, path, _ = lasso_path(X, y - y.mean(), eps=1e-2, alphas=100)
        point = path[:, np.argmax(np.count_nonzero(path, axis=0) >= k)]
        support = np.argsort(-np.abs(point))[:k]
        w[support] = LinearRegression().fit(X[:, support], y).coef_
    intercept = Y.mean(axis=0) - X.mean(axis=0) @ coef.T
    return coef, lambda X: X @ coef.T + intercept


METHODS = {
    "ChitaRegressor": chita,
    "OrthogonalMatchingPursuit": matching_pursuit,
    "Lasso, then refit": lasso_then_refit,
}

print(f"{'':26} train R2   test R2      time")
coefs = {}
for title, method in METHODS.items():
    start = perf_counter()
    coefs[title], predict = method(X, Y, K)
    milliseconds = 1000 * (perf_counter() - start)
    r2, r2_test = r2_score(Y, predict(X)), r2_score(Y_test, predict(X_test))
    print(f"{title:26} {r2:8.4f}  {r2_test:8.4f}  {milliseconds:5.0f} ms")

# %%
# The pixels, by name and as a picture
# ------------------------------------
# A lit pixel speaks for the digit (blue) or against it (orange). The background is
# the mean image of the digit.

print("\nPixels (row_column) chosen by ChitaRegressor")
coef = coefs["ChitaRegressor"]
for digit, w in enumerate(coef):
    print(f"  {digit}: {', '.join(n.removeprefix('pixel_') for n in names[w != 0])}")

fig, axes = plt.subplots(2, 5, figsize=(8, 3.6), layout="constrained")
for digit, (ax, w) in enumerate(zip(axes.flat, coef, strict=True)):
    ax.imshow(pixels[label == digit].mean(axis=0).reshape(8, 8), cmap="gray_r")
    for color, mask in (("#0072B2", w > 0), ("#D55E00", w < 0)):
        row, column = np.nonzero(mask.reshape(8, 8))
        ax.scatter(column, row, s=70, marker="s", color=color, edgecolor="white")
    ax.set(title=digit, xticks=[], yticks=[])
fig.savefig(OUTPUT / "digits_pixels.png", dpi=150)

# %%
# How good is the answer?
# -----------------------
# With several targets ``objective_`` and ``gap_`` hold one number for each. The gap
# bounds how far the objective may be above the best that any ``k`` pixels can reach;
# 100 % means that nothing is known.

print("\nThe certificate, by ridge")
print("     ridge   objectives, mean   gaps, largest   test R2      time")
for ridge in (1e-4, 1e-1, 1):
    start = perf_counter()
    model = ChitaRegressor(k=K, ridge=ridge, random_state=0).fit(X, Y)
    milliseconds = 1000 * (perf_counter() - start)
    gap = np.max(model.gap_)
    gap = "unknown" if np.isnan(gap) else f"{100 * gap:.2f} %"
    print(
        f"{ridge:10g}  {np.mean(model.objective_):17.5f}  {gap:>14}"
        f"  {model.score(X_test, Y_test):8.4f}  {milliseconds:5.0f} ms"
    )

# %%
# More pixels
# -----------

sizes = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20)
fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
colors = ("#0072B2", "#D55E00", "#999999")
for (title, method), color in zip(METHODS.items(), colors, strict=True):
    scores = [r2_score(Y_test, method(X, Y, k)[1](X_test)) for k in sizes]
    ax.plot(sizes, scores, "o-", color=color, label=title, markersize=4)
ax.set(
    xlabel="number of pixels k for each digit",
    ylabel="R2 on images held out, mean of the digits",
    title="Digits: one regression for each digit",
    xticks=sizes,
)
ax.legend(frameon=False)
fig.savefig(OUTPUT / "digits.png", dpi=150)
print(f"\nPicture of the pixels: {OUTPUT / 'digits_pixels.png'}")
print(f"Picture of test R2 against k: {OUTPUT / 'digits.png'}")
