"""How much memory there is to take: of the machine, a container, a limit, a device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CGROUPS = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where it cannot be told."""
    if device.type == "cuda":
        # What torch holds back of what was freed is free to torch.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "cpu":
        return min(_on_the_host(), default=None)
    return None


def _on_the_host() -> Iterator[int]:
    """What the machine has left, and what each limit on this process leaves."""
    free = _number_of(Path("/proc/meminfo"), "MemAvailable:")
    if free is not None:
        yield 1024 * free
    taken = _number_of(Path("/proc/self/status"), "VmSize:")
    if resource is not None and taken is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield max(limit - 1024 * taken, 0)
    for folder, names in _groups():
        most, used = (_number(folder / name) for name in names)
        if most is not None and used is not None:
            # Pages of files that nobody reads are given up when memory is short.
            files = _number_of(folder / "memory.stat", "inactive_file") or 0
            yield max(most - used + files, 0)


def _groups() -> Iterator[tuple[Path, tuple[str, str]]]:
    """Folders of the control groups that this process is in, and of those around."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2
            root, names = CGROUPS, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder == root or root in folder.parents:
                yield folder, names


def _number(path: Path) -> int | None:
    """The number that a file holds; None where there is none, or no limit ("max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _number_of(path: Path, name: str) -> int | None:
    """The number that follows a name in a file of several."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.split()[:1] == [name])
    return next(map(int, found), None)
