"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, on loopback, ended with the tests."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSWORD = "tests-only"


@dataclass(frozen=True)
class Postgres:
    """A running cluster, with the programs that belong to it."""

    programs: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://align:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def make_database(self, name: str) -> str:
        """A new database that belongs to a user without any privilege besides; returns its URL."""
        self.as_superuser(f"CREATE DATABASE {name} OWNER align")
        return self.url(name)

    def as_superuser(self, statement: str) -> str:
        return psql(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres", statement)


def psql(url: str, statement: str) -> str:
    """What PostgreSQL answers: one line a row, columns separated by `|`."""
    programs = find_programs()
    assert programs is not None
    command = [programs / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def find_programs() -> Path | None:
    """Where initdb and postgres are: Debian keeps the server's off the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    return next(
        (f for f in [*folders, *([Path(on_path).resolve().parent] if on_path else [])] if (f / "initdb").exists()), None
    )


@contextmanager
def running(programs: Path) -> Iterator[Postgres]:
    """A cluster from here on, as this user; as root, which PostgreSQL refuses, by the user of Debian's package or nobody."""
    folder = Path(tempfile.mkdtemp(prefix="align-pg-", dir="/tmp"))  # a socket's path must be short
    who: dict[str, Any] = {}
    if os.getuid() == 0:
        account = _unprivileged()
        os.chown(folder, account.pw_uid, account.pw_gid)
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    data = folder / "data"
    common: dict[str, Any] = {"cwd": folder, "check": True, "capture_output": True, "text": True, **who}
    how = ["--username=postgres", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256"]
    subprocess.run([programs / "initdb", "-D", data, *how, "--encoding=UTF8", "--locale=C", "--no-sync"], **common)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
    control = [programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run(
        [*control, "-o", options, "-l", folder / "log", "start"],
        **(common | {"capture_output": False, "stdout": subprocess.DEVNULL}),
    )
    try:
        made = Postgres(programs, port)
        made.as_superuser(f"CREATE ROLE align LOGIN PASSWORD '{PASSWORD}'")
        yield made
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run([*control, "-m", "immediate", "stop"], **common)
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
