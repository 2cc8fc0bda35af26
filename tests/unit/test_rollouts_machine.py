"""Cores and memory, within control groups of both versions, from files as Linux writes them."""

import os
from pathlib import Path

from rollouts.machine import cores, memory_available

GIB = 1 << 30


def machine(folder: Path, cgroup: str, files: dict[str, str]) -> dict[str, Path]:
    """A /proc with 8 GiB available and a tree of control groups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text("MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
    (folder / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        path = folder / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"proc": folder / "proc", "cgroups": folder / "cgroups"}


def test_no_limits(tmp_path: Path):
    free = machine(tmp_path, "0::/\n", {"memory.stat": "inactive_file 5\n", "cpu.max": "max 100000\n"})
    assert memory_available(**free) == 8 * GIB
    assert cores(**free) == len(os.sched_getaffinity(0))


def test_the_least_limit_of_the_groups_around_holds(tmp_path: Path):
    limited = machine(
        tmp_path,
        "0::/user/job\n",
        {
            "user/memory.max": f"{4 * GIB}\n", "user/memory.current": f"{3 * GIB}\n",
            "user/memory.stat": f"anon 7\ninactive_file {GIB}\n", "user/cpu.max": "50000 100000\n",
            "user/job/memory.max": "max\n", "user/job/memory.current": f"{GIB}\n", "user/job/cpu.max": "400000 100000\n",
        },
    )  # fmt: skip
    assert memory_available(**limited) == 2 * GIB
    assert cores(**limited) == 1


def test_in_a_container_the_mounted_root_is_its_own_group(tmp_path: Path):
    files = {"memory.max": f"{GIB}\n", "memory.current": "100\n", "memory.stat": "inactive_file 30\n"}
    limited = machine(tmp_path, "0::/docker/4f2a\n", {**files, "cpu.max": "100000 100000"})
    assert memory_available(**limited) == GIB - 70
    assert cores(**limited) == 1


def test_version_1(tmp_path: Path):
    limited = machine(
        tmp_path,
        "5:cpu,cpuacct:/a\n4:memory:/a\n1:name=systemd:/a\n",
        {
            "memory/a/memory.limit_in_bytes": f"{2 * GIB}\n", "memory/a/memory.usage_in_bytes": f"{GIB}\n",
            "memory/a/memory.stat": "total_inactive_file 0\n",
            "cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n",
        },
    )  # fmt: skip
    assert memory_available(**limited) == GIB
    assert cores(**limited) == 1


def test_a_system_that_does_not_say(tmp_path: Path):
    assert memory_available(tmp_path, tmp_path) is None
    assert cores(tmp_path, tmp_path) >= 1
