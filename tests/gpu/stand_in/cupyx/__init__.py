"""Whether a factorisation that fails raises: not unless asked."""

from contextlib import contextmanager

_state = {"linalg": "ignore"}


def geterr():
    return dict(_state)


@contextmanager
def errstate(*, linalg):
    if linalg not in ("ignore", "raise"):
        raise NotImplementedError(linalg)  # as CuPy does
    before = dict(_state)
    _state["linalg"] = linalg
    try:
        yield
    finally:
        _state.update(before)
