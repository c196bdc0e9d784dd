"""okridge: beam search, then branch and bound for a while (p x p memory)."""

name = "okridge"
requirement = "okridge==0.1.1"  # asks for numpy<2 but runs on 2: install with --no-deps
exact = True
SECONDS = 20


def limit(n, p, k):
    return "its p x p eigenvalues take minutes" if p > 2000 else None


def fit(X, y, k):
    from okridge.tree import BNBTree

    tree = BNBTree(X=X, y=y, lambda2=1e-5, max_memory_GB=4)
    try:
        return tree.solve(k=k, gap_tol=1e-4, verbose=False, time_limit=SECONDS)[1]
    except AttributeError:
        # Its bound needs a regular X'X; the beam search has run by then.
        return tree.root.upper_beta
