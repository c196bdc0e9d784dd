"""Patterns: which supports are allowed."""
