"""Dense oracles for the core: the explicit A and b, refits, all supports in turn."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import settings

# Fast by default, and the same examples every time.
settings.register_profile("core", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("core")


@dataclass(frozen=True)
class Case:
    """A least-squares problem written out, in extended precision where it matters."""

    X: np.ndarray
    y: np.ndarray
    ridge: float = 0.0
    prior: np.ndarray | None = None
    weights: np.ndarray | None = None
    intercept: bool = False

    def but(self, **changes):
        return replace(self, **changes)

    def problem(self, to=lambda x: x, **options):
        """The same as the library's LeastSquares, each array passed through `to`."""
        from chita_sklearn.core import LeastSquares

        prior = None if self.prior is None else to(self.prior)
        weights = None if self.weights is None else to(self.weights)
        return LeastSquares(
            to(self.X),
            to(self.y),
            ridge=self.ridge,
            prior=prior,
            sample_weight=weights,
            fit_intercept=self.intercept,
            **options,
        )

    @property
    def s(self):
        ones = np.ones(len(self.y), dtype=np.longdouble)
        return ones if self.weights is None else self.weights.astype(np.longdouble)

    @property
    def n(self):
        return self.s.sum()

    @property
    def mu(self):
        return self.n * np.longdouble(self.ridge)

    @property
    def w_bar(self):
        p = self.X.shape[1]
        zero = np.zeros(p, dtype=np.longdouble)
        return zero if self.prior is None else self.prior.astype(np.longdouble)

    def _centred(self, v):
        v = v.astype(np.longdouble)
        if self.intercept:
            v = v - self.s @ v / self.n
        return (np.sqrt(self.s) * v.T).T

    @property
    def A(self):
        return self._centred(self.X)

    @property
    def b(self):
        return self._centred(self.y)

    def objective(self, w):
        """n F(w), in extended precision."""
        w = np.asarray(w).astype(np.longdouble)
        r, shift = self.b - self.A @ w, w - self.w_bar
        return float(0.5 * (r @ r) + 0.5 * self.mu * (shift @ shift))

    def gradient(self, w):
        w = np.asarray(w).astype(np.longdouble)
        return -self.A.T @ (self.b - self.A @ w) + self.mu * (w - self.w_bar)

    def refit(self, support):
        """The minimiser on a support: lstsq, then one step of refinement."""
        support = np.asarray(support)
        S = np.flatnonzero(support) if support.dtype == bool else support
        A, root = self.A[:, S], np.sqrt(self.mu)
        rows = np.vstack([A, root * np.eye(len(S))]).astype(float)
        target = np.concatenate([self.b, root * self.w_bar[S]]).astype(float)
        w = np.zeros(self.X.shape[1], dtype=np.longdouble)
        w[S] = np.linalg.lstsq(rows, target, rcond=None)[0]
        lost = np.concatenate([self.b - A @ w[S], root * (self.w_bar - w)[S]])
        w[S] += np.linalg.lstsq(rows, lost.astype(float), rcond=None)[0]
        return w

    def optimum(self, supports):
        """The smallest n F over some supports."""
        return min(self.objective(self.refit(list(S))) for S in supports)


def counts(pattern, S):
    """How many of S are in each block of a pattern."""
    sizes = pattern.floors if hasattr(pattern, "floors") else pattern.sizes
    return np.bincount(np.asarray(pattern.labels)[list(S)], minlength=len(sizes))


class Oracle:
    """What the tests ask for; a fixture, so that every file can."""

    Case = Case

    @staticmethod
    def case(seed, n=None, p=None, **fixed):
        """A random problem with everything on or off; shapes small by default."""
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 20)) if n is None else n
        p = int(rng.integers(2, 12)) if p is None else p
        rho = rng.choice([0.0, 0.9])
        shared = rng.standard_normal((n, 1))
        X = np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.standard_normal((n, p))
        X *= 10.0 ** rng.uniform(-1, 1, p)
        X += rng.choice([0.0, 3.0])
        y = X @ (rng.standard_normal(p) * (rng.random(p) < 0.5))
        y += rng.standard_normal(n) * rng.choice([0.01, 1.0])
        prior = rng.standard_normal(p) if rng.random() < 0.5 else None
        weights = rng.uniform(0.1, 2.0, n) if rng.random() < 0.5 else None
        ridge = float(10.0 ** rng.integers(-4, 2))
        made = Case(X, y, ridge, prior, weights, bool(rng.random() < 0.5))
        return made.but(**fixed)

    @staticmethod
    def supports(pattern, p):
        """Every allowed support of full size, by the definition of each pattern."""
        kind = type(pattern).__name__
        for S in itertools.combinations(range(p), pattern.size):
            if kind == "Cardinality":
                yield S
            elif kind == "Including":
                if set(pattern.required.tolist()) <= set(S):
                    yield S
            elif kind == "WithFloor":
                if np.all(counts(pattern, S) >= pattern.floors):
                    yield S
            elif np.all(counts(pattern, S) == pattern.sizes):
                yield S

    @staticmethod
    def patterns(p, seed=0):
        """One of each kind over p coordinates."""
        from chita_sklearn.core import Cardinality, Including, NOfM, PerBlock, WithFloor

        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3, p)
        sizes = rng.integers(0, 3, 3)
        sizes[labels[0]] = max(sizes[labels[0]], 1)
        k = int(rng.integers(1, p + 1))
        lengths = np.bincount(labels, minlength=3)
        floors = np.minimum(rng.integers(0, 3, 3), lengths)
        return {
            "cardinality": Cardinality(k),
            "per block": PerBlock(labels, sizes),
            "n of m": NOfM(2, 4, p),
            "including": Including(max(k, 1), rng.permutation(p)[: k // 2]),
            "floor": WithFloor(min(p, max(k, int(floors.sum()), 1)), labels, floors),
        }

    @staticmethod
    def allows(pattern, support):
        """Whether a support is inside an allowed one, by the pattern's definition."""
        support = np.asarray(support)
        kind, size = type(pattern).__name__, int(support.sum())
        if kind == "Cardinality":
            return size <= pattern.size
        if kind == "Including":
            return size + np.sum(~support[pattern.required]) <= pattern.size
        there = counts(pattern, np.flatnonzero(support))
        if kind == "WithFloor":
            return size + np.maximum(pattern.floors - there, 0).sum() <= pattern.size
        return bool(np.all(there <= pattern.sizes))


@pytest.fixture(scope="session")
def oracle():
    return Oracle


@dataclass(frozen=True)
class Backend:
    """A place for arrays and a type, and the ways in and out."""

    place: object
    dtype: str

    def to(self, x):
        return self.place(np.asarray(x, dtype=self.dtype))

    def back(self, x):
        return self.place.back(x)


HOST = [
    *("numpy float64", "numpy float32", "torch-cpu float64", "torch-cpu float32"),
    *("strict-CPU_DEVICE float64", "strict-device1 float32"),
]
GPU = [
    *("cupy float64", "cupy float32", "torch-cuda float64", "torch-cuda float32"),
]


@pytest.fixture(
    params=[*HOST, *(pytest.param(name, marks=pytest.mark.gpu) for name in GPU)],
    scope="session",
)
def backend(request, place_of):
    name, dtype = request.param.split()
    place = place_of(*name.split("-"))
    place.skip_unless_here()
    return Backend(place, dtype)
