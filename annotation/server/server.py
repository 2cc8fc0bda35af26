"""Start, stop and look at the server of a *home*, a folder with its database, its secrets and its log."""

import random
import re
import secrets
import shlex
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from align.errors import ConfigError, ServiceError
from annotation.server import process
from annotation.server.api import call
from annotation.server.files import data_folder, locked, make_private_folder, read_json, write_private
from annotation.server.installation import argilla_version, environment, is_installed, python_of, reason

SECRETS_FILE = "secrets.json"
SETTINGS_FILE = "server.json"
SQLITE_FILE = "argilla.db"
OWNER = "owner"
PORTS = range(20_000, 30_000)
"""Below the ports that systems hand out for outgoing connections, so that ours is not taken between two starts."""
PORT_PATIENCE = 2.0
"""Seconds for a server that was just killed to let go of its port."""
NEEDED_BYTES = 100 * 2**20


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server that answers. `started` is false where it was running already; `seconds` is what the call took."""

    home: Path
    url: str
    pid: int
    started: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in as the owner."""

    url: str
    username: str
    password: str
    api_key: str


@dataclass(frozen=True, slots=True)
class DatasetProgress:
    """`completed` of `total` records have as many submitted answers as their dataset wants."""

    workspace: str
    name: str
    total: int
    completed: int


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What is known about the server of `home`; where it does not run, only the first fields are."""

    home: Path
    running: bool
    url: str | None = None
    pid: int | None = None
    version: str | None = None
    memory_bytes: int | None = None
    datasets: tuple[DatasetProgress, ...] = ()


def default_home() -> Path:
    """One server per user: `$XDG_DATA_HOME/align/server`."""
    return data_folder() / "server"


def has_server(home: Path | None = None) -> bool:
    """Whether a server was ever started in `home`."""
    return (_absolute(home) / SECRETS_FILE).is_file()


def require_server(home: Path | None) -> None:
    """ConfigError for a `home` that somebody names and that has no server: a slip would begin a second, empty one."""
    if home is not None and not has_server(home):
        raise ConfigError(
            f"there is no annotation server in {home}",
            hint=f"check the folder; {verb_of('start', home)} makes one there",
        )


def verb_of(name: str, home: Path) -> str:
    """A verb about the server of `home`, as one types it."""
    return f"`align server {name}" + ("`" if home == _absolute(None) else f" --home {shlex.quote(str(home))}`")


def start(
    home: Path | None = None,
    port: int | None = None,
    *,
    database: str | None = None,
    hosts: Sequence[str] | None = None,
    timeout: float = 120.0,
) -> ServerInfo:
    """Have the server of `home` answer, and say where; one that runs already is left as it is.

    `port` None keeps the port that this home has (a free one is chosen the first time); 0 chooses again. `database` is
    the URL of a PostgreSQL database, kept for the next start; None keeps what this home has, at first its own SQLite
    file. `hosts` are the names of a proxy in front, to which it answers beside those of loopback; they are kept too
    (None keeps those that this home has). Raises ConfigError for another kind of URL or what is no name, and
    ServiceError where nothing is installed, the port is taken, the disk is full, the home has its data elsewhere, the
    server dies or needs more than `timeout` seconds.
    """
    begin, home = time.monotonic(), _absolute(home)
    if database is not None:
        check_database(database)
    check_hosts(hosts or ())
    folder = environment()
    if not is_installed(folder):
        raise ServiceError("Argilla's server is not installed", where=str(folder), hint="run `align server install`")
    make_private_folder(home)
    with locked(home / "server.lock", timeout=timeout, what="a start or stop of this server"):
        alive = process.running(home)
        if alive is None:
            alive = _launch(home, folder, port, database, hosts)
            fresh = True
        else:
            fresh = False
            if database not in (None, (read_json(home / SECRETS_FILE) or {}).get("database")):
                raise ServiceError(
                    "this server runs on another database", where=str(home), hint=f"run {verb_of('stop', home)} first"
                )
            if hosts is not None and sorted(set(hosts)) != _hosts(home):
                raise ServiceError(
                    f"this server answers to {', '.join(_hosts(home)) or 'the names of loopback alone'}",
                    where=str(home),
                    hint=f"run {verb_of('stop', home)} first",
                )
            if port not in (None, 0, alive.port):
                raise ServiceError(
                    f"this server runs at port {alive.port}, not at {port}",
                    where=str(home),
                    hint=f"run {verb_of('stop', home)} first",
                )
        _wait_until_ready(home, alive, begin + timeout, timeout)
    return ServerInfo(home, _url(alive.port), alive.pid, fresh, time.monotonic() - begin)


def revive(home: Path | None = None) -> bool:
    """Start the server of `home` again where it died, and say whether it runs; one that was stopped stays so."""
    home = _absolute(home)
    if not (home / process.PID_FILE).exists():
        return False
    start(home)
    return True


def stop(home: Path | None = None) -> bool:
    """End the server of `home`; false where none was running. ConfigError where `home` has none."""
    require_server(home)
    home = _absolute(home)
    if not home.is_dir():
        return False
    with locked(home / "server.lock", timeout=120.0, what="a start or stop of this server"):
        alive = process.running(home)
        if alive is not None:
            process.terminate(alive)
        (home / process.PID_FILE).unlink(missing_ok=True)
    return alive is not None


def status(home: Path | None = None) -> ServerStatus:
    """Whether the server of `home` runs, and if so how its datasets stand. ConfigError where `home` has none."""
    require_server(home)
    home = _absolute(home)
    alive = process.running(home)
    if alive is None:
        return ServerStatus(home, running=False)
    url, key = _url(alive.port), credentials(home).api_key
    version = call(url, "/api/v1/version")["version"]
    datasets = tuple(_progress(url, key, dataset) for dataset in call(url, "/api/v1/me/datasets", key=key)["items"])
    return ServerStatus(home, True, url, alive.pid, version, process.resident_bytes(alive.pid), datasets)


def logs(home: Path | None = None, lines: int = 50, *, follow: bool = False) -> Iterator[str]:
    """The last `lines` lines of the server's log; with `follow`, what is added, until the caller stops asking."""
    require_server(home)
    path = _absolute(home) / process.LOG_FILE
    if not path.exists():
        raise ServiceError(
            "there is no log: this server was never started",
            where=str(path),
            hint=f"run {verb_of('start', path.parent)}",
        )
    return _lines(path, lines, follow)


def credentials(home: Path | None = None) -> Credentials:
    """The owner's name, password and API key; ServiceError where the server was never started."""
    require_server(home)
    home = _absolute(home)
    known, settings = read_json(home / SECRETS_FILE), read_json(home / SETTINGS_FILE)
    if known is None or settings is None:
        raise ServiceError(
            "this server was never started, so it has no owner", where=str(home), hint=f"run {verb_of('start', home)}"
        )
    return Credentials(_url(settings["port"]), known["username"], known["password"], known["api_key"])


def running_url(home: Path | None = None) -> str:
    """The address of the running server of `home`; ServiceError where it does not run."""
    require_server(home)
    home = _absolute(home)
    alive = process.running(home)
    if alive is None:
        raise ServiceError("this server does not run", where=str(home), hint=f"run {verb_of('start', home)}")
    return _url(alive.port)


def _absolute(home: Path | None) -> Path:
    return (home or default_home()).expanduser().absolute()


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def check_database(url: str) -> None:
    """ConfigError unless `url` names a PostgreSQL database. The message holds no password."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise ConfigError(
            f"a database at {parts.scheme or '?'}://{parts.hostname or ''}{parts.path} cannot be used",
            where="--database",
            hint="give postgresql://user:password@host:5432/name, or leave it out for a file in the server's home",
        )


def check_hosts(hosts: Sequence[str]) -> None:
    """Raise ConfigError for what is no host's name: an address with a scheme, a port or a path, or a pattern."""
    for host in hosts:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]", host.lower()):
            raise ConfigError(
                f"{host!r} is no host's name", where="--host", hint="give the name alone: label.example.org"
            )


def _keep_secrets(home: Path, database: str | None) -> None:
    """Make the secrets where there are none, and note a database that is named for the first time or again."""
    known = read_json(home / SECRETS_FILE)
    if known is not None and database in (None, known.get("database")):
        return
    if database is not None and (home / SQLITE_FILE).exists():
        raise ServiceError(
            f"this home keeps its data in {SQLITE_FILE}, and they would not come along",
            where=str(home),
            hint="choose another folder with --home",
        )
    tokens = {
        "username": OWNER,
        "password": secrets.token_urlsafe(18),
        "api_key": secrets.token_urlsafe(48),
        "auth_secret_key": secrets.token_hex(32),
    }
    write_private(home / SECRETS_FILE, (known or tokens) | ({"database": database} if database else {}))


def _launch(
    home: Path, folder: Path, port: int | None, database: str | None, hosts: Sequence[str] | None
) -> process.Process:
    if shutil.disk_usage(home).free < NEEDED_BYTES:
        raise ServiceError(
            f"the disk has less than {NEEDED_BYTES >> 20} MB free",
            where=str(home),
            hint="free some, or choose another folder with --home",
        )
    _keep_secrets(home, database)
    chosen = _choose_port(home, port)
    names = _hosts(home) if hosts is None else sorted(set(hosts))
    write_private(home / SETTINGS_FILE, {"port": chosen, "argilla": argilla_version(), "hosts": names})
    return process.launch(home, python_of(folder), chosen, names)


def _hosts(home: Path) -> list[str]:
    """The names that this home has beside those of loopback."""
    return list((read_json(home / SETTINGS_FILE) or {}).get("hosts", []))


def _choose_port(home: Path, port: int | None) -> int:
    """The given port, else the one this home has had, else a free one."""
    kept = (read_json(home / SETTINGS_FILE) or {}).get("port")
    wanted = port if port is not None else kept
    if not wanted:
        return next(p for p in random.SystemRandom().sample(PORTS, 1000) if process.port_is_free(p))
    if not process.port_is_free(wanted, patience=PORT_PATIENCE):
        whose = "" if port else ", which this server has had since it was made,"
        raise ServiceError(
            f"port {wanted}{whose} is in use by another program",
            where=str(home),
            hint="end that program, or choose another port with --port (0: any free one)",
        )
    return int(wanted)


def _wait_until_ready(home: Path, alive: process.Process, deadline: float, timeout: float) -> None:
    """Until *this* process answers, not merely anything at its port."""
    while True:
        if _answers(alive):
            return
        if process.began(alive.pid) != alive.began:
            log = home / process.LOG_FILE
            raise ServiceError(
                f"Argilla's server died at its start: {reason(log)}",
                where=str(log),
                hint=f"run {verb_of('logs', home)} for the rest",
            )
        if time.monotonic() > deadline:
            process.terminate(alive)
            raise ServiceError(
                f"Argilla's server did not answer within {timeout:.0f} s and was ended",
                where=str(home),
                hint=f"run {verb_of('logs', home)}; on a slow machine give it more time (--timeout)",
            )
        time.sleep(0.1)


def _answers(alive: process.Process) -> bool:
    try:
        found: dict[str, Any] = call(_url(alive.port), "/api/v1/status", timeout=5.0, patience=0.0)
    except ServiceError:  # not yet; whether it is too late is the caller's question
        return False
    return bool(found["search_engine"].get("pid") == alive.pid)


def _progress(url: str, key: str, dataset: dict[str, Any]) -> DatasetProgress:
    counts = call(url, f"/api/v1/datasets/{dataset['id']}/progress", key=key)
    workspace = call(url, f"/api/v1/workspaces/{dataset['workspace_id']}", key=key)["name"]
    return DatasetProgress(workspace, dataset["name"], counts["total"], counts["completed"])


def _lines(path: Path, lines: int, follow: bool) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from (line.rstrip("\n") for line in deque(file, maxlen=lines))
        while follow:
            line = file.readline()
            if line:
                yield line.rstrip("\n")
            elif _rotated(path, file.fileno()):
                yield from _lines(path, lines, follow)
                return
            else:
                time.sleep(0.2)


def _rotated(path: Path, handle: int) -> bool:
    import os

    try:
        return path.stat().st_ino != os.fstat(handle).st_ino
    except FileNotFoundError:  # between the rename and the new file
        return False
