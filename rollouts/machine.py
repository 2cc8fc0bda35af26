"""What this process may use of the machine: cores and memory, within the limits of its control groups.

A container sees the whole machine's cores and memory, and is killed for using them; so limits of control groups
(version 1 and 2) count, and the least one holds.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """How many cores this process may keep busy: those that it may run on, within its control groups' share of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [share for folder in _groups(proc, cgroups, "cpu") if (share := _cpu_share(folder)) is not None]
    return max(1, min([allowed, *map(math.ceil, shares)]))


def memory_available(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that this process could take now without swapping or being killed; None where the system does not say."""
    free = [room for folder in _groups(proc, cgroups, "memory") if (room := _memory_room(folder)) is not None]
    info = proc / "meminfo"
    if info.is_file():
        lines = [line.split() for line in info.read_text().splitlines()]
        free += [int(words[1]) << 10 for words in lines if words[0] == "MemAvailable:"]
    return max(0, min(free)) if free else None


def _groups(proc: Path, cgroups: Path, controller: str) -> Iterator[Path]:
    """The folders of this process' control group and of those around it, as far as they can be seen from here.

    In a container the path names a place outside of it, while the mounted root is the container's own group.
    """
    file = proc / "self" / "cgroup"
    for line in file.read_text().splitlines() if file.is_file() else []:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = cgroups / controller if names else cgroups
        inner = root / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root) and folder.is_dir())


def _cpu_share(group: Path) -> float | None:
    """Cores' worth of time that a group may use; None for no limit."""
    for name in ("cpu.max", "cpu.cfs_quota_us"):
        if (group / name).is_file():
            words = (group / name).read_text().split()
            period = int(words[1]) if len(words) > 1 else int((group / "cpu.cfs_period_us").read_text())
            return None if words[0] in ("max", "-1") else int(words[0]) / period
    return None


def _memory_room(group: Path) -> int | None:
    """Bytes left in a group, where cached files that can be dropped count as free; None for no limit."""
    for limit, usage, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        if (group / limit).is_file() and (most := (group / limit).read_text().strip()) != "max":
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return int(most) - int((group / usage).read_text()) + int(stat.get(inactive, 0))
    return None
