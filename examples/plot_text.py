"""
====================================================
Ten words that tell where a docstring comes from
====================================================

Text makes wide and sparse data: a column for each word, nearly all of it zeros. X stays
a scipy.sparse matrix from beginning to end. The corpus is at hand wherever this library
is installed: the docstrings of SciPy.
"""

import importlib
import inspect
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

from chita_sklearn import ChitaRegressor

# %%
# The corpus
# ----------
# The docstring of every public function and class, and the name of its package, whose
# own mention is struck out.

packages = ("linalg", "optimize", "signal", "sparse", "special", "stats")
texts, labels = [], []
for label, package in enumerate(packages):
    module = importlib.import_module(f"scipy.{package}")
    for name in sorted(module.__all__):
        doc = inspect.getdoc(getattr(module, name))
        if doc and len(doc) > 200:
            texts.append(doc.replace(f"scipy.{package}", ""))
            labels.append(label)
labels = np.array(labels)
words = TfidfVectorizer(
    sublinear_tf=True, min_df=3, token_pattern=r"[a-z]{3,}", ngram_range=(1, 2)
)
train, test = train_test_split(
    np.arange(len(texts)), test_size=0.25, random_state=0, stratify=labels
)
X = words.fit_transform([texts[i] for i in train])
X_test = words.transform([texts[i] for i in test])
share = X.nnz / (X.shape[0] * X.shape[1])
print(f"{X.shape[0]} docstrings, {X.shape[1]} words and pairs, {share:.1%} non-zero")

# %%
# One regression for each package
# -------------------------------
# The targets are 1 for docstrings of the package and 0 for the others; each target has
# k words or pairs of its own. Centring and the products with X leave the zeros alone.

Y = np.eye(len(packages))[labels[train]]
start = perf_counter()
model = ChitaRegressor(10, ridge=1e-5, n_restarts=5, random_state=0).fit(X, Y)
seconds = perf_counter() - start
accuracy = accuracy_score(labels[test], model.predict(X_test).argmax(axis=1))
ridge = RidgeClassifier(alpha=1.0).fit(X, labels[train])
everything = ridge.score(X_test, labels[test])
print(f"{accuracy:.1%} of the docstrings held out, by 10 words each ({seconds:.1f} s)")
print(f"{everything:.1%} by a ridge classifier with all {X.shape[1]}\n")

vocabulary = words.get_feature_names_out()
for package, coef in zip(packages, model.coef_, strict=True):
    top = np.argsort(-np.abs(coef))[:10]
    chosen = [("" if coef[j] > 0 else "not ") + vocabulary[j] for j in top]
    print(f"{package:9}", ", ".join(chosen))

# %%
# More words
# ----------

ks = (1, 2, 3, 5, 10, 20, 40)
scores = []
for k in ks:
    fit = ChitaRegressor(k, ridge=1e-5, n_restarts=0, random_state=0).fit(X, Y)
    scores.append(accuracy_score(labels[test], fit.predict(X_test).argmax(axis=1)))
fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.plot(ks, scores, "o-", color="#0072B2", label="ChitaRegressor")
ax.axhline(everything, color="#999999", linestyle=":", label="ridge, all words")
ax.set(xlabel="words for each package", ylabel="accuracy on docstrings held out")
ax.legend(frameon=False)
plt.show()
