"""Ours with no restarts."""

from ._chita import fit_chita

name = "chita-0"
requirement = ""
ours = True


def fit(X, y, k):
    return fit_chita(X, y, k, n_restarts=0)
