"""Random small problems against every support in 80 digits.

    python -m tests.fuzz --seconds 60            # prints the seed of what fails
    python -m tests.fuzz --seed 123              # one problem again

For each problem the optimum is found by solving every support in 80-digit arithmetic,
from the data as given. Then, for single fits by several plans and for a path:

- no lower bound is above the optimum, and a gap of 0 means that the objective is it;
- the objective reported is that of the coefficients, and not below the optimum;
- nothing but a warning is raised;
- the answer keeps its promises when rows or columns change places, the format is
  sparse, integer weights become repeated rows, rows of weight 0 are added, or columns
  and target are multiplied by powers of two.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings

import mpmath
import numpy as np
import scipy.sparse

from chita_sklearn import ChitaRegressor, Moments, chita_path

DIGITS = 80
EPS = {name: float(np.finfo(name).eps) for name in ("float32", "float64")}
# What a bound may exceed the optimum by, relative: a solution counts as optimal where
# its objective is within 1e-13 of its bound (docs, what is promised).
TOLERANCE = 3e-13
KINDS = (
    "plain",
    "means",
    "huge means",
    "near duplicates",
    "duplicates",
    "scales",
    "float32",
    "integers",
    "correlated",
    "offset y",
    "tall",
    "constants",
    "nothing but constants",
    "dwarfed",
    "sparse",
    "uneven weights",
)


def generate(seed):
    """X, y, weights, options of a random problem, and its kind."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    n, p = int(rng.integers(3, 40)), int(rng.integers(2, 9))
    k = int(rng.integers(1, p + 1))
    X = rng.standard_normal((n, p))
    ridge = float(rng.choice([0.0, 1e-10, 1e-4, 1e-2, 1.0]))
    intercept = bool(rng.integers(2))
    if kind == "means":
        X = X + 10 ** rng.uniform(3, 7.5, p)
    if kind == "huge means":
        X = X + 10 ** rng.uniform(7, 10, p)
    if kind == "near duplicates":
        z, d = rng.standard_normal(n), 10 ** rng.uniform(-12, -4)
        X[:, 1] = X[:, 0] + d * z
        ridge = float(rng.choice([0.0, 0.0, 1e-10]))
    if kind == "duplicates":
        X[:, rng.integers(p)] = X[:, 0]
        X[:, rng.integers(p)] = 2.0 * X[:, 0]
    if kind == "scales":
        X = X * 10 ** rng.uniform(-9, 4, p)
    if kind == "correlated":
        X = rng.standard_normal((n, 1)) + 0.1 * X
    if kind == "integers":
        X = rng.integers(-3, 4, (n, p)).astype(float)
    y = X @ (rng.standard_normal(p) * (rng.random(p) < 0.5))
    y = y + 10 ** rng.uniform(-8, 1) * np.std(y) * rng.standard_normal(n)
    if kind == "near duplicates":
        y = z + 0.1 * rng.standard_normal(n)
    if kind == "offset y":
        y = 10 ** rng.uniform(8, 15) + rng.integers(0, 7, n)
    if kind == "tall":  # reduced to a triangular factor
        n, p = int(rng.integers(2000, 4000)), int(rng.integers(2, 4))
        k = int(rng.integers(1, p + 1))
        X = rng.standard_normal((n, p)) + rng.choice([0.0, 1e3, 1e8])
        y = X @ rng.standard_normal(p) + rng.standard_normal(n)
    if kind == "constants":
        X[:, rng.integers(p)] = rng.choice([0.0, 1.0, 0.1, 1e9])
        if rng.random() < 0.3:
            y = np.full(n, 0.1 * rng.integers(1, 9))
    if kind == "float32":
        X = X.astype(np.float32)
    if kind == "nothing but constants":
        X = np.full((n, p), rng.choice([1.0, 0.1, 1e9, 3e-5]))
    if kind == "dwarfed":  # by columns that leave nothing of the others in a sum
        n = min(n, p + 1)
        k = int(rng.integers((p + 1) // 2, p + 1))
        X, y = X[:n] * np.where(rng.random(p) < 0.4, 1e8, 1.0), y[:n]
    if kind == "sparse":
        X = X * (rng.random((n, p)) < 0.2) * 10 ** rng.uniform(-3, 3, p)
    weights = None
    if kind in ("nothing but constants", "uneven weights"):
        weights = 10 ** rng.uniform(-rng.integers(1, 7), 0, n)
        weights[rng.random(n) < 0.1] = 0.0
        weights[rng.integers(n)] = 1.0
    elif rng.random() < 0.3:
        weights = rng.integers(0, 4, n).astype(float)
        weights[rng.integers(n)] = 1.0
    options = {"k": k, "ridge": ridge, "fit_intercept": intercept}
    options["standardize"] = bool(seed // len(KINDS) % 2)
    return kind, X, y, weights, options


class Exact:
    """F of a problem in 80 digits, from X, y and the weights as they are given."""

    def __init__(self, X, y, weights, *, k, ridge, fit_intercept, standardize=False):
        with mpmath.workdps(DIGITS):
            self.k, p = k, X.shape[1]
            s = np.ones(len(y)) if weights is None else weights
            mp = np.vectorize(lambda value: mpmath.mpf(float(value)), otypes=[object])
            M, s = mp(np.column_stack([X, y])), mp(s)
            self.n = sum(s)
            G = M.T @ (s[:, None] * M)  # of [X, y], weighted
            if fit_intercept:
                total = s @ M
                G = G - np.outer(total, total) / self.n
            self.g, self.b2 = G[:p, p], G[p, p]
            self.G = G[:p, :p].copy()
            for j in range(p):
                # n ridge s_j^2, with s_j the standard deviation, or 1.
                own = G[j, j] if standardize else self.n
                self.G[j, j] += mpmath.mpf(ridge) * own
            self.at_zero = float(self.b2 / self.n / 2)
            own = [self.G[j, j] / self.n for j in range(p)]
            self.lengths = np.sqrt(np.maximum(np.asarray(own, dtype=float), 0.0))

    def value(self, coef):
        """F(coef)."""
        with mpmath.workdps(DIGITS):
            w = np.asarray([mpmath.mpf(float(value)) for value in coef], dtype=object)
            return (self.b2 - 2 * (self.g @ w) + w @ self.G @ w) / self.n / 2

    def optimum(self, k=None):
        """The least F over all supports of at most k columns."""
        k = self.k if k is None else k
        with mpmath.workdps(DIGITS):
            supports = itertools.combinations(range(len(self.g)), k)
            most = max(self._explained(S) for S in supports)
            return (self.b2 - most) / self.n / 2

    def _explained(self, S):
        """g_S' H_SS^-1 g_S by elimination; columns that depend on others drop out."""
        S = list(S)
        H, g, explained = self.G[np.ix_(S, S)].copy(), self.g[S].copy(), mpmath.mpf(0)
        scale = [H[i, i] for i in range(len(S))]
        for i in range(len(S)):
            if H[i, i] <= scale[i] * mpmath.mpf(10) ** (-DIGITS // 2):
                continue
            explained += g[i] ** 2 / H[i, i]
            share = H[i + 1 :, i] / H[i, i]
            g[i + 1 :] = g[i + 1 :] - share * g[i]
            H[i + 1 :, i + 1 :] = H[i + 1 :, i + 1 :] - np.outer(share, H[i, i + 1 :])
        return explained


def claims(seed):
    """What a problem shows to be false; nothing if all is well."""
    kind, X, y, weights, options = generate(seed)
    exact = Exact(X, y, weights, **options)
    best, zero = float(exact.optimum()), exact.at_zero
    rng = np.random.default_rng(seed)
    faults = []

    def check(what, found, bound, gap, coef, k=options["k"], best=best):
        room = TOLERANCE * best + 1e-27 * zero
        true = float(exact.value(coef))
        # What 16 digits of the coefficients can tell of F, which may be rounding.
        digits = 1e-6 if X.dtype == np.float32 else 1e-9
        if np.count_nonzero(coef) > k:
            faults.append(f"{what}: {np.count_nonzero(coef)} features")
        if bound == bound and bound > best + room:
            faults.append(f"{what}: bound {bound!r} above the optimum {best!r}")
        if gap == 0 and found > best + room:
            faults.append(f"{what}: gap 0 at {found!r}, the optimum is {best!r}")
        # And of coefficients that are large beside what they explain.
        lost = EPS[X.dtype.name] * float(np.abs(coef) @ exact.lengths)
        if abs(found - true) > digits * true + 1e-20 * zero + 4 * lost**2:
            faults.append(f"{what}: objective {found!r}, of its coefficients {true!r}")

    def check_model(what, model):
        check(what, model.objective_, model.lower_bound_, model.gap_, model.coef_)

    def fitted(what, X, y, weights, **more):
        model = ChitaRegressor(**options, random_state=0, n_restarts=2, **more)
        model.fit(X, y, sample_weight=weights)
        check_model(what, model)

    fitted("fit", X, y, weights)
    for solver in ("swap", "exact") + (("dual",) if options["ridge"] else ()):
        fitted(solver, X, y, weights, solver=solver)
    if kind in ("dwarfed", "near duplicates"):
        for solver in ("iht", "dense"):
            fitted(solver, X, y, weights, solver=solver)
    sparse = scipy.sparse.csc_array if rng.random() < 0.5 else scipy.sparse.csr_array
    fitted("sparse", sparse(X), y, weights)
    more = {name: options[name] for name in options if name != "k"}
    path = chita_path(
        X, y, options["k"], sample_weight=weights, random_state=0, n_restarts=2, **more
    )
    for k in {options["k"], int(rng.integers(1, options["k"] + 1))}:
        check(
            f"path, k = {k}",
            path.objectives[k - 1],
            path.lower_bounds[k - 1],
            path.gaps[k - 1],
            path.coefs[:, k - 1],
            k,
            float(exact.optimum(k)),
        )
    seen = Moments()
    for rows in np.split(np.arange(len(y)), np.sort(rng.integers(0, len(y) + 1, 3))):
        seen.update(X[rows], y[rows], None if weights is None else weights[rows])
    for solver in ("auto", "exact") + (("dual",) if options["ridge"] else ()):
        # What is left of rows knows F to rounding alone: its objective is near F.
        model = ChitaRegressor(**options, random_state=0, solver=solver)
        model.fit_moments(seen)
        near = float(exact.value(model.coef_))
        check(f"moments, {solver}", near, model.lower_bound_, model.gap_, model.coef_)
    whole = weights is not None and np.all(weights == np.round(weights))
    if whole and kind != "tall":
        counts = weights.astype(int)
        model = ChitaRegressor(**options, random_state=0)
        model.fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
        check(
            "repeated rows",
            model.objective_,
            model.lower_bound_,
            model.gap_,
            model.coef_,
        )
    elif weights is None:
        far = np.concatenate([X, rng.standard_normal((2, X.shape[1])).astype(X.dtype)])
        ones = np.concatenate([np.ones(len(y)), [0.0, 0.0]])
        model = ChitaRegressor(**options, random_state=0)
        model.fit(far, np.concatenate([y, [5.0, -7.0]]), sample_weight=ones)
        check(
            "zero weights",
            model.objective_,
            model.lower_bound_,
            model.gap_,
            model.coef_,
        )
    rows, columns = rng.permutation(len(y)), rng.permutation(X.shape[1])
    model = ChitaRegressor(**options, random_state=0)
    model.fit(X[rows][:, columns], y[rows], None if weights is None else weights[rows])
    coef = np.empty_like(model.coef_)
    coef[columns] = model.coef_
    check("permuted", model.objective_, model.lower_bound_, model.gap_, coef)
    unit = 2.0 ** int(rng.integers(-20, 20))
    model = ChitaRegressor(**options, random_state=0).fit(X, unit * y, weights)
    check(
        "unit of y",
        model.objective_ / unit**2,
        model.lower_bound_ / unit**2,
        model.gap_,
        model.coef_ / unit,
    )
    return [f"seed {seed} ({kind}, {X.shape}, {options}): {fault}" for fault in faults]


def main(argv=None, prog="python -m tests.fuzz", claims=claims):
    """Run for a time, or one seed; the exit status is 1 if anything was false."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this seed alone")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    end, failed, done = time.monotonic() + args.seconds, 0, 0
    seeds = itertools.count(args.first) if args.seed is None else [args.seed]
    for seed in seeds:
        if time.monotonic() > end:
            break
        done += 1
        try:
            faults = claims(seed)
        except Exception as error:  # a fault like the others: the next seed's turn
            faults = [f"seed {seed}: {type(error).__name__}: {error}"]
        for fault in faults:
            failed += 1
            print(fault, flush=True)
    print(f"{done} problems from seed {args.first}, {failed} claims false")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
