"""Ours with its defaults."""

from ._chita import fit_chita

name = "chita"
requirement = ""
ours = True


def fit(X, y, k):
    return fit_chita(X, y, k)
