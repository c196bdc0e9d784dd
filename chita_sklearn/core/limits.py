"""How much memory a solve may take beside the data: one object, passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Memory that a `LeastSquares` and its refits may take beside X.

    Attributes
    ----------
    gram_share : float
        Share of the memory of X that one Gram matrix may take, and the block of columns
        that is held while one is formed.
    gram_block, gram_least : int
        Bytes of that block at most (larger ones are no faster) and at least (a share of
        a small X would cut it into slivers).
    gram_order_least : int
        Order of a Gram matrix that may be held however small X is: 1,000 take 8 MB.
    factor_up_to : int
        Order of the largest Gram matrix that is factored: 20,000 take 3 GB. Larger
        supports, of as many rows, are refitted by coordinate descent.
    """

    gram_share: float = 1 / 16
    gram_block: int = 2**25
    gram_least: int = 2**21
    gram_order_least: int = 1000
    factor_up_to: int = 20_000


LIMITS = Limits()
