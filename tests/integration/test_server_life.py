"""Start, stop and look at the real server."""

import json
import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from align.cli.server import server_app
from align.errors import ConfigError, ServiceError
from annotation import server
from annotation.server import process
from annotation.server.installation import python_of
from tests.postgres import Postgres
from tests.server_fixtures import ArgillaServer, add_annotator, add_records, make_dataset

COMPOSE = Path(server.__file__).with_name("compose.yaml")


def test_a_running_server_is_found_and_not_started_again(argilla_server: ArgillaServer) -> None:
    again = server.start(argilla_server.home)
    assert (again.url, again.started) == (argilla_server.url, False)
    status = server.status(argilla_server.home)
    assert status.running and status.version == "2.8.0" and status.pid == again.pid
    assert status.memory_bytes is not None and 50 << 20 < status.memory_bytes < 900 << 20


def test_what_the_server_never_uses_is_not_loaded(argilla_server: ArgillaServer) -> None:
    """pandas and Arrow came with `datasets`, for imports from the Hub; such an import fails with a reason in the log."""
    alive = process.running(argilla_server.home)
    assert alive is not None
    if Path("/proc/self/maps").exists():
        assert not re.search("libarrow|pandas|opensearch", Path(f"/proc/{alive.pid}/maps").read_text())
    dataset = make_dataset(argilla_server, "from-the-hub")
    mapping = {"fields": [{"source": "a", "target": "text"}]}
    body = {"name": "some/data", "subset": "default", "split": "train", "mapping": mapping}
    job = argilla_server.call("POST", f"/datasets/{dataset}/import", body)["id"]
    while (status := argilla_server.call("GET", f"/jobs/{job}")["status"]) in ("queued", "started"):
        time.sleep(0.05)
    assert status == "failed"
    assert "datasets.load_dataset is not available" in (argilla_server.home / "server.log").read_text()


def test_asking_for_another_port_of_a_running_server_is_refused(argilla_server: ArgillaServer) -> None:
    with pytest.raises(ServiceError, match=r"runs at port .* not at 4711.*align server stop"):
        server.start(argilla_server.home, 4711)


def test_a_port_in_use_is_named_with_the_way_out(tmp_path: Path) -> None:
    server.install()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {port} is in use by another program.*--port"):
            server.start(tmp_path / "home", port)
    assert not server.status(tmp_path / "home").running


def test_no_other_address_than_loopback_answers(argilla_server: ArgillaServer) -> None:
    port = int(argilla_server.url.rsplit(":", 1)[1])
    listening = subprocess.run(
        ["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=False
    ).stdout
    local = {line.split()[1] for line in listening.splitlines() if line.split()[3:4] == ["0A"]}
    assert {address for address in local if address.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}


def test_secrets_are_private_and_in_no_log(argilla_server: ArgillaServer) -> None:
    made = server.add_user(argilla_server.home, "private", password="a long password")
    token = argilla_server.client.post(
        f"{argilla_server.url}/api/v1/token", data={"username": "private", "password": "a long password"}
    )
    assert token.is_success
    secret = json.loads((argilla_server.home / "secrets.json").read_text())
    for name in ("secrets.json", "server.json", "server.pid", "server.log", "argilla.db"):
        assert stat.S_IMODE((argilla_server.home / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(argilla_server.home.stat().st_mode) == 0o700
    log = "\n".join(server.logs(argilla_server.home, 10_000))
    assert "startup complete" in log
    environ = Path(f"/proc/{server.status(argilla_server.home).pid}/environ").read_bytes().decode()
    for value in (
        secret["password"],
        secret["api_key"],
        secret["auth_secret_key"],
        made.api_key,
        "a long password",
        token.json()["access_token"],
    ):
        assert value not in log and value not in environ


def test_the_owner_can_log_in_with_the_password(argilla_server: ArgillaServer) -> None:
    form = {"username": argilla_server.username, "password": argilla_server.password}
    token = argilla_server.client.post(f"{argilla_server.url}/api/v1/token", data=form).json()["access_token"]
    me = argilla_server.client.get(
        f"{argilla_server.url}/api/v1/me", headers={"Authorization": f"Bearer {token}"}
    ).json()
    assert (me["username"], me["role"]) == ("owner", "owner")
    wrong = argilla_server.client.post(f"{argilla_server.url}/api/v1/token", data=form | {"password": "argilla1"})
    assert wrong.status_code == 401


def test_users_come_and_go(argilla_server: ArgillaServer) -> None:
    home = argilla_server.home
    dataset = make_dataset(argilla_server, "comings")
    record = add_records(argilla_server, dataset, [{"fields": {"text": "x"}}])[0]
    _, key = add_annotator(argilla_server, "kim", "comings")
    assert ("kim", "annotator") in {(u.username, u.role) for u in server.list_users(home)}
    with pytest.raises(ServiceError, match=r"there is a user 'kim' already"):
        server.add_user(home, "kim")
    argilla_server.call(
        "POST", f"/records/{record}/responses", {"values": {"choice": {"value": "a"}}, "status": "submitted"}, key=key
    )
    with pytest.raises(ServiceError, match=r"gave 1 answers, which would be deleted too.*--with-answers"):
        server.remove_user(home, "kim")
    assert server.remove_user(home, "kim", with_answers=True) == 1
    assert "kim" not in {u.username for u in server.list_users(home)}
    with pytest.raises(ConfigError, match=r"no user 'kim'"):
        server.remove_user(home, "kim")
    with pytest.raises(ConfigError, match=r"the owner stays"):
        server.remove_user(home, "owner")
    with pytest.raises(ConfigError, match=r"no workspace 'nowhere'.*comings"):
        server.add_user(home, "lee", workspace="nowhere")


def test_users_of_a_server_at_an_address(
    either_server: ArgillaServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = CliRunner()
    where = ["--server", either_server.url + "/"]
    monkeypatch.delenv("ARGILLA_API_KEY", raising=False)
    assert "set ARGILLA_API_KEY" in str(run.invoke(server_app, ["users", "list", *where]).exception)
    monkeypatch.setenv("ARGILLA_API_KEY", either_server.api_key)
    both = run.invoke(server_app, ["users", "list", *where, "--home", str(tmp_path)])
    assert isinstance(both.exception, ConfigError)
    name = f"at-{secrets.token_hex(3)}"
    made = json.loads(run.invoke(server_app, ["users", "add", name, *where, "--json"]).stdout)
    assert either_server.call("GET", "/me", key=made["api_key"])["username"] == name
    assert f"annotator  {name}" in run.invoke(server_app, ["users", "list", *where]).stdout
    assert "owner stays" in str(run.invoke(server_app, ["users", "remove", "owner", *where]).exception)
    assert run.invoke(server_app, ["users", "remove", name, *where]).stdout == f"{name} is removed\n"


@pytest.mark.slow
def test_two_starts_at_once_give_one_server(killable_server: ArgillaServer) -> None:
    server.stop(killable_server.home)
    code = "import sys; from pathlib import Path; from annotation import server; i = server.start(Path(sys.argv[1])); print(i.pid, i.started)"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(killable_server.home)],
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        for _ in range(2)
    ]
    lines = [child.communicate(timeout=120)[0].split() for child in both]
    assert lines[0][0] == lines[1][0], "one process id"
    assert sorted(line[1] for line in lines) == ["False", "True"], "one of the two began it"


@pytest.mark.slow
def test_stop_is_idempotent_and_keeps_what_is_there(killable_server: ArgillaServer) -> None:
    killable_server.call("POST", "/workspaces", {"name": "stays"})
    assert server.stop(killable_server.home) is True
    assert server.stop(killable_server.home) is False
    assert server.status(killable_server.home).running is False
    with pytest.raises(ServiceError, match=r"does not run.*align server start"):
        server.list_users(killable_server.home)
    again = server.start(killable_server.home)
    assert again.url == killable_server.url, "the port is kept"
    assert "stays" in {w["name"] for w in killable_server.call("GET", "/me/workspaces")["items"]}


@pytest.mark.slow
def test_a_pid_left_behind_is_not_taken_for_the_server(killable_server: ArgillaServer) -> None:
    alive = process.running(killable_server.home)
    assert alive is not None
    os.kill(alive.pid, signal.SIGKILL)
    _gone(alive)
    noted = json.loads((killable_server.home / "server.pid").read_text())
    (killable_server.home / "server.pid").write_text(
        json.dumps(noted | {"pid": os.getpid()})
    )  # the number now belongs to someone else
    assert server.status(killable_server.home).running is False
    assert server.stop(killable_server.home) is False
    assert server.start(killable_server.home).started is True


@pytest.mark.slow
def test_a_server_that_dies_at_its_start_says_why(tmp_path: Path) -> None:
    server.install()
    home = tmp_path / "home"
    home.mkdir()
    (home / "argilla.db").write_bytes(b"this is no database, and long enough to be taken for one" * 100)
    with pytest.raises(ServiceError, match=r"died at its start: .*file is not a database.*align server logs"):
        server.start(home)


def test_logs_can_be_followed(argilla_server: ArgillaServer) -> None:
    following, heard = server.logs(argilla_server.home, 0, follow=True), threading.Event()

    def listen() -> None:
        if next(following) == "a new line":
            heard.set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    with (argilla_server.home / "server.log").open("a") as log:
        threading.Event().wait(0.5)  # the follower opens the file first
        log.write("a new line\n")
    assert heard.wait(10)


def test_the_api_is_not_reachable_from_other_sites(argilla_server: ArgillaServer) -> None:
    answer = httpx.get(
        f"{argilla_server.url}/api/v1/version", headers={"Origin": "https://elsewhere.example"}, trust_env=False
    )
    assert "access-control-allow-origin" not in answer.headers


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(server.__file__).parents[2])}


def _gone(dead: process.Process) -> None:
    for _ in range(100):
        if process.began(dead.pid) != dead.began:
            return
        threading.Event().wait(0.05)
    raise AssertionError("the killed process lives")


# PostgreSQL -----------------------------------------------------------------------------------------------------------------


def test_a_home_on_postgresql_keeps_its_database_and_nobody_sees_the_password(
    argilla_on_postgres: ArgillaServer, tmp_path: Path
) -> None:
    assert argilla_on_postgres.database is not None
    password = argilla_on_postgres.database.split(":")[2].partition("@")[0]
    home, pid = argilla_on_postgres.home, server.status(argilla_on_postgres.home).pid
    assert server.start(home).started is False, "no need to name it again"
    assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600 and not (home / "argilla.db").exists()
    for place in (
        Path(f"/proc/{pid}/cmdline"),
        Path(f"/proc/{pid}/environ"),
        home / "server.log",
        home / "server.json",
    ):
        assert password not in place.read_text(), place
    with pytest.raises(ServiceError, match=r"runs on another database.*align server stop"):
        server.start(home, database="postgresql://x@127.0.0.1/other")
    owner = "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
    assert argilla_on_postgres.sql(owner) == "f", "no privilege is needed"


def test_a_database_has_one_server(argilla_on_postgres: ArgillaServer, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"another server is running on this PostgreSQL database; stop it first"):
        server.start(tmp_path / "second", database=argilla_on_postgres.database)


def test_data_in_a_file_do_not_come_along_in_silence(killable_server: ArgillaServer) -> None:
    server.stop(killable_server.home)
    with pytest.raises(ServiceError, match=r"keeps its data in argilla.db, and they would not come along.*--home"):
        server.start(killable_server.home, database="postgresql://x@127.0.0.1/other")
    assert server.start(killable_server.home).started


def test_a_database_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"died at its start: .*OperationalError.*Connection refused") as caught:
        server.start(tmp_path / "home", database="postgresql://x:hush-hush@127.0.0.1:9/other")
    assert "hush-hush" not in str(caught.value) and "hush-hush" not in (tmp_path / "home" / "server.log").read_text()


@pytest.mark.slow
def test_the_container_in_everything_but_the_container(postgres: Postgres, tmp_path: Path) -> None:
    """What compose.yaml starts, with the environment that it gives, here."""
    service = yaml.safe_load(COMPOSE.read_text())["services"]["argilla"]
    (command,) = re.findall(r"^CMD (\[.*\])$", service["build"]["dockerfile_inline"], re.MULTILINE)
    program, *arguments = json.loads(command)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = {"/home/align": str(tmp_path), "6900": str(port), "0.0.0.0": "127.0.0.1", "/plugin": str(process.PLUGIN)}
    given = {"OWNER_PASSWORD": "owner-password", "OWNER_API_KEY": "owner-key", "AUTH_SECRET_KEY": "f" * 64}
    environment = {
        name: here.get(value, re.sub(r"\$\{(\w+)(?::-(\w+)|:\?)\}", lambda m: given.get(m[1], m[2] or ""), value))
        for name, value in service["environment"].items()
    } | {"ARGILLA_DATABASE_URL": postgres.make_database("container") + "?sslmode=prefer"}
    python = python_of(server.environment())
    assert program == "python"
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(
            [python, *(here.get(a, a) for a in arguments)], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while not _is_owner(f"http://127.0.0.1:{port}", "owner-key"):
            assert child.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
    finally:
        child.terminate()
        assert child.wait(timeout=30) is not None
    assert "another" not in (tmp_path / "log").read_text()


def _is_owner(url: str, key: str) -> bool:
    try:
        answer = httpx.get(f"{url}/api/v1/me", headers={"X-Argilla-Api-Key": key}, trust_env=False)
    except httpx.TransportError:
        return False
    return bool(answer.json().get("role") == "owner")


IMPORT_EACH = """
import argilla_server.api.routes, argilla_server.bulk.records_bulk  # which take seconds, and know nothing of the plug-in
import importlib, os, sys, traceback
for name in sys.argv[1:]:
    if os.fork() == 0:
        try:
            importlib.import_module(f"argilla_embedded.{name}")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.wait()[1]:
        print(name)
"""


def test_every_module_of_the_plug_in_can_be_the_first_that_is_imported(tmp_path: Path) -> None:
    """Each in a process that has none of the others yet: a circle of imports shows only from some of its modules."""
    server.install()
    names = sorted(path.stem for path in (process.PLUGIN / "argilla_embedded").glob("*.py"))
    given = {"ARGILLA_HOME_PATH": str(tmp_path), "ARGILLA_SEARCH_ENGINE": "embedded", "PYTHONPATH": str(process.PLUGIN)}
    command = [python_of(server.environment()), "-c", IMPORT_EACH, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | given)
    assert {"closing", "engine", "sql"} <= set(names) and done.stdout == "", done.stderr
