"""Benchmarks of chita-sklearn beside other sparse regression tools.

Run from the project's root, for instance
``python -m benchmarks.regression --suite small``.
Importing this package pins every BLAS and OpenMP pool to one thread; it must
happen before NumPy is loaded. ``CHITA_BENCH_THREADS`` chooses another number.
"""

import os

THREADS = int(os.environ.get("CHITA_BENCH_THREADS", "1"))
for _pool in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM"):
    os.environ[f"{_pool}_NUM_THREADS"] = str(THREADS)
