"""One device, always there and never busy."""

from types import SimpleNamespace

runtime = SimpleNamespace(getDeviceCount=lambda: 1)


class Device:
    def __init__(self, device=None):
        self.id = 0 if device is None else int(device)

    __hash__ = None

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def is_available():
    return True
