"""One server process: which one it is, whether it lives, how to begin and end it."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from align.errors import ServiceError
from annotation.server.files import read_json, write_private

PLUGIN = Path(__file__).with_name("plugin")
PID_FILE = "server.pid"
LOG_FILE = "server.log"
LOGS_KEPT = 3


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started: `began` tells it from a later one that got the same number."""

    pid: int
    began: str
    port: int


def began(pid: int) -> str | None:
    """When process `pid` began, in whatever words the system has for it; None where no such process lives."""
    try:
        state, started = _linux_stat(pid) if Path("/proc/self/stat").exists() else _ps_stat(pid)
    except (OSError, ValueError, subprocess.CalledProcessError):  # it has just gone, or never was
        return None
    return None if state in "ZX" else started


def _linux_stat(pid: int) -> tuple[str, str]:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    threads = int(fields[17])  # a killed process is a zombie while its other threads still end, and hold its port
    state = "D" if fields[0] == "Z" and threads > 1 else fields[0]
    return state, f"{boot}/{fields[19]}"


def _ps_stat(pid: int) -> tuple[str, str]:
    line = subprocess.run(
        ["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=True
    ).stdout
    state, started = line.split(maxsplit=1)
    return state[0], started.strip()


def running(home: Path) -> Process | None:
    """The server of `home`, if it lives; a process id left behind by a dead one is not taken for it."""
    noted = read_json(home / PID_FILE)
    if noted is None:
        return None
    process = Process(**noted)
    return process if began(process.pid) == process.began else None


def launch(home: Path, python: Path, port: int, hosts: Sequence[str] = ()) -> Process:
    """Begin a server of `home` in a session of its own, note it in the pid file and return without waiting for it.

    `hosts` are the names that it answers to, beside those of loopback.
    """
    rotate_logs(home)
    command = [str(python), "-m", "argilla_embedded", str(home), str(port)]
    done = subprocess.run(
        command,
        cwd=home,
        env=_environment(home, hosts),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout.strip().isdigit():
        raise ServiceError(
            f"Argilla's server could not be begun: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}",
            where=str(python),
        )
    pid = int(done.stdout)
    process = Process(pid, began(pid) or "gone", port)
    write_private(home / PID_FILE, asdict(process))
    return process


def _environment(home: Path, hosts: Sequence[str] = ()) -> dict[str, str]:
    """Ours without what would leak into Argilla's interpreter or settings, and with the settings we decide."""
    dropped = (
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "OAUTH2_HUGGINGFACE_CLIENT_ID",
        "OAUTH2_HUGGINGFACE_CLIENT_SECRET",
    )
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("ARGILLA_")}
    return kept | {
        "PYTHONPATH": str(PLUGIN),
        "PYTHONUNBUFFERED": "1",
        "ALIGN_HOSTS": ",".join(hosts),
        "ARGILLA_HOME_PATH": str(home),
        "ARGILLA_SEARCH_ENGINE": "embedded",
        "ARGILLA_DATABASE_SQLITE_TIMEOUT": "30",
        "ARGILLA_CORS_ORIGINS": "[]",
        "ARGILLA_SHOW_HUGGINGFACE_SPACE_PERSISTENT_STORAGE_WARNING": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",  # these two also turn off Argilla's own telemetry
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def terminate(process: Process, *, patience: float = 10.0) -> None:
    """End the process: politely, then by force after `patience` seconds. One that is gone is fine."""
    for sent, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        if began(process.pid) != process.began:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sent)
        deadline = time.monotonic() + wait
        while began(process.pid) == process.began and time.monotonic() < deadline:
            time.sleep(0.05)
    if began(process.pid) == process.began:
        raise ServiceError(
            f"process {process.pid} does not end, even by force", hint="look at it with ps; its disk may hang"
        )


def resident_bytes(pid: int) -> int | None:
    """Memory that the process holds; None where the system does not tell."""
    try:
        output = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
        return int(output) * 1024
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def port_is_free(port: int, *, patience: float = 0.0) -> bool:
    """Whether a server could listen there; asked again for `patience` seconds before the answer is no."""
    deadline = time.monotonic() + patience
    while not _can_bind(port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def rotate_logs(home: Path) -> None:
    """server.log becomes server.log.1, and so on; the oldest goes. The server does the same when the file is large."""
    names = [home / LOG_FILE, *(home / f"{LOG_FILE}.{n}" for n in range(1, LOGS_KEPT + 1))]
    for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
        with contextlib.suppress(FileNotFoundError):
            newer.replace(older)
