"""Refits: the best coefficients on a given support."""
