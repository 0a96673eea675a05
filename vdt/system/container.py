"""Limits that a container or a cluster job puts on this process: cores and memory of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")  # lines "number:controllers:path"; version 2 is "0::path"
NO_LIMIT = 2**60  # bytes; version 1 writes "no limit" as a number about as large as the address space


def read_cpu_limit(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Return the cores that the control groups allow, the least of all levels; none without a limit."""
    limits = [
        float(quota) / float(period)
        for folder in _find_folders("cpu", groups, membership)
        for quota, period in _read_quotas(folder)
        if quota not in ("max", "-1") and float(period) > 0
    ]
    return min(limits, default=None)


def read_memory_limit(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """Return the bytes of memory that the control groups allow, the least of all levels; none without a limit."""
    words = [
        word
        for folder in _find_folders("memory", groups, membership)
        for name in ("memory.max", "memory.limit_in_bytes")
        for word in _read_words(folder / name)[:1]
    ]
    return min((int(word) for word in words if word != "max" and int(word) < NO_LIMIT), default=None)


def _read_quotas(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield quota and period in microseconds: version 2 keeps both in one file, version 1 in two."""
    together = _read_words(folder / "cpu.max")
    apart = [*_read_words(folder / "cpu.cfs_quota_us"), *_read_words(folder / "cpu.cfs_period_us")]
    yield from ((words[0], words[1]) for words in (together, apart) if len(words) == 2)


def _find_folders(controller: str, groups: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and of those above it, for one controller."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and controller not in names:
            continue
        for root in (groups / controllers, groups / controller, groups, groups / "unified"):
            own = root / path.lstrip("/")
            if own.is_dir():
                yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
