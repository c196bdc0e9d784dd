"""Sums over a memory map by processes of joblib, one of which is killed."""

import os
import signal
import sys

import numpy as np
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from chita_sklearn import moments

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
    # Of what a killed process leaves behind.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Deadly:
    """Rows some of which, once they are read in another process, kill it."""

    def __init__(self, X, deadly=False):
        self.X, self.shape, self.deadly = X, X.shape, deadly
        self.home = os.getpid()

    def __getitem__(self, key):
        rows, _ = key
        part = Deadly(self.X[rows], deadly=rows.start >= 300)
        part.home = self.home
        return part

    def __len__(self):
        return len(self.X)

    def __array__(self, dtype=None, copy=None):
        if self.deadly and os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.asarray(self.X, dtype=dtype)


def test_a_process_that_is_killed_ends_in_the_error_of_joblib():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((500, 4)), rng.standard_normal(500)
    with pytest.raises(TerminatedWorkerError):
        moments(Deadly(X), y, chunk_rows=100, n_jobs=2)
    assert moments(Deadly(X), y, chunk_rows=100).n_samples_ == 500
