"""Exact search among supports on a few columns, from their Gram matrix alone."""
