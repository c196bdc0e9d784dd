"""The l0 solver: arrays and scalars in, a `Solution` out; no scikit-learn inside."""
