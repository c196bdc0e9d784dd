"""Sums and products in twice the digits of float64, on any array library.

A number is held as hi + lo with |lo| far below |hi|. Additions and products of float64
leave an error that is itself a float64, and these transformations return it (Dekker,
"A floating-point technique for extending the available precision", 1971; Ogita, Rump
and Oishi, "Accurate sum and dot product", 2005). A sum of m products is then off by
about m^2 eps^2 times the sum of their magnitudes, and by eps of itself once rounded.
"""

from __future__ import annotations

from .arrays import Array, array_namespace

SPLITTER = 2.0**27 + 1.0  # cuts the 53 bits of a float64 into two halves


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b, rounded, and what rounding has taken from it (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a b, rounded, and what rounding has taken from it (Veltkamp and Dekker)."""
    product = a * b
    a_hi, a_lo = _halves(a)
    b_hi, b_lo = _halves(b)
    return product, ((a_hi * b_hi - product) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo


def _halves(a: Array) -> tuple[Array, Array]:
    large = SPLITTER * a
    hi = large - (large - a)
    return hi, a - hi


def total(hi: Array, lo: Array | None = None) -> tuple[Array, Array]:
    """The sum of hi + lo over the first axis, in pairs; `lo` None is zero."""
    xp = array_namespace(hi)
    lo = xp.zeros_like(hi) if lo is None else lo
    if hi.shape[0] == 0:
        return xp.sum(hi, axis=0), xp.sum(lo, axis=0)
    while hi.shape[0] > 1:
        half = hi.shape[0] // 2
        first, second = slice(0, half), slice(half, 2 * half)
        summed, error = two_sum(hi[first, ...], hi[second, ...])
        left = lo[first, ...] + lo[second, ...] + error
        if hi.shape[0] % 2:  # the odd one out goes on to the next round
            last = slice(2 * half, None)
            summed = xp.concat([summed, hi[last, ...]])
            left = xp.concat([left, lo[last, ...]])
        hi, lo = summed, left
    # Where large terms cancel, lo may be as large as hi: not so afterwards.
    return two_sum(hi[0, ...], lo[0, ...])


def length_squared(x: Array) -> float:
    """The sum of the squares of x, to a few eps of itself however long x is."""
    hi, lo = total(x * x)
    return float(hi + lo)
