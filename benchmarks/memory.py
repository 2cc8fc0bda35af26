"""How much memory a benchmark's process has taken, for those that measure each side in a process of its own. Linux."""

from pathlib import Path


def peak_bytes() -> int:
    """The peak of this process's resident memory so far.

    Not getrusage's maximum: that starts from the memory of the process which started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(kib)
