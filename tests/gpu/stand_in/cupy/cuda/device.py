from cupy.cuda import Device  # noqa: F401
