"""Improvers: each returns a solution that is no worse than the one it was given."""
