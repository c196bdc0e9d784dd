"""Where an array can be: the libraries and devices that the claims are tested on."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

# A package named cupy, for a process of its own (tests/gpu/test_stand_in.py).
# Scripts for type checkers run nothing.
collect_ignore = ["gpu/stand_in", "typing"]
if not find_spec("torch"):
    collect_ignore += ["interruptions.py", "scaleout/rank_jobs.py"]


class Place:
    """An array library on a device: the way there, and the way back."""

    def __init__(self, library, device=None):
        self.library, self.device = library, device

    def __repr__(self):
        return f"{self.library}-{self.device}" if self.device else self.library

    def skip_unless_here(self):
        name = "array_api_strict" if self.library == "strict" else self.library
        if name == "numpy":
            return
        module = pytest.importorskip(name, reason=f"{name} is not installed")
        cuda = self.library == "cupy" or self.device == "cuda"
        if cuda and not module.cuda.is_available():
            pytest.skip(f"{name} finds no CUDA device")

    def __call__(self, x):
        if x is None:
            return None
        x = np.ascontiguousarray(x)
        if self.library == "cupy":
            return import_module("cupy").asarray(x)
        if self.library == "torch":
            return import_module("torch").asarray(x.copy(), device=self.device)
        if self.library == "strict":
            strict = import_module("array_api_strict")
            return strict.asarray(x, device=strict.Device(self.device))
        return x

    def holds(self, x):
        """Whether an array is of this library and on this device."""
        like = self(np.zeros(1))
        return type(x) is type(like) and x.device == like.device

    def back(self, x):
        """To the host, outright."""
        if self.library == "cupy":
            return x.get()
        if self.library == "torch":
            return x.cpu().numpy()
        if self.library == "strict":
            strict = import_module("array_api_strict")
            return np.array(x.to_device(strict.Device("CPU_DEVICE")))
        return np.asarray(x)


def _places(*names):
    return [pytest.param(Place(*name.split("-")), id=name) for name in names]


GPU = [
    pytest.param(*place.values, marks=pytest.mark.gpu, id=place.id)
    for place in _places("cupy", "torch-cuda")
]
HOST = _places("torch-cpu", "strict-CPU_DEVICE", "strict-device1")


@pytest.fixture(params=[*GPU, *HOST])
def place(request):
    """Each place that is not NumPy's."""
    request.param.skip_unless_here()
    return request.param


@pytest.fixture(scope="session")
def place_of():
    """`Place`, for tests that name theirs."""
    return Place
