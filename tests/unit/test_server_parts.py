"""The pure parts of the embedded server: no server is started here."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from align.cli.server import server_app
from align.errors import ConfigError, ServiceError
from annotation import server
from annotation.server import files, process
from annotation.server import installation as installing
from annotation.server.api import call
from annotation.server.server import _choose_port

sys.path.insert(0, str(process.PLUGIN))  # as Argilla's interpreter finds it
from argilla_embedded import home as plugin_home
from argilla_embedded import logs, sqlite, text, throttle, vectors


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("ALIGN_SERVER_ENV", raising=False)


# the search language -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "wanted", "unwanted"),
    [
        ("lamp", [["lamp"]], []),
        ("broken lamp", [["broken"], ["lamp"]], []),
        ('"blue lamp" -late', [["blue lamp"]], ["late"]),
        ("lamp|kettle late", [["lamp", "kettle"], ["late"]], []),
        ("| lamp", [["lamp"]], []),
        ("lam*", [["lam*"]], []),
        ('"blue la"*', [["blue la*"]], []),
        ('-"blue lamp"', [], ["blue lamp"]),
        ("(+lamp) lamps~2", [["lamp"], ["lamps"]], []),
        ('say"hi', [['say"hi']], []),
        ("NOT AND", [["NOT"], ["AND"]], []),
        ("lamp lamp kettle lamp", [["lamp"], ["kettle"]], []),
        ('" - | * "', [], []),
        ("", [], []),
    ],
)
def test_queries_become_phrases(query: str, wanted: list[list[str]], unwanted: list[str]) -> None:
    def shown(phrases: list[text.Phrase]) -> list[str]:
        return [p.words + "*" * p.prefix for p in phrases]

    terms = text.parse(query)
    assert [shown(alternatives) for alternatives in terms.wanted] == wanted and shown(terms.unwanted) == unwanted


@pytest.mark.parametrize(
    ("query", "taken"),
    [
        ("w " * 200, True),
        ("w " * 201, False),
        ('"' + "w " * 201 + '"', False),
        ("-".join("w" * 201), False),
        ("x" * 4000, True),
        ("x" * 4001, False),
        ("((-" * 2000, False),
    ],
)
def test_a_query_has_at_most_two_hundred_words(query: str, taken: bool) -> None:
    if taken:
        assert len(text.parse(query).wanted) == 1
    else:
        with pytest.raises(text.TooLong, match=r"^the search takes 200 words or 4000 characters"):
            text.parse(query)


@given(st.text())
def test_every_phrase_is_one_quoted_string(query: str) -> None:
    terms = text.parse(query)
    assert bool(terms) == bool(terms.wanted or terms.unwanted)
    for phrase in [*terms.unwanted, *(p for alternatives in terms.wanted for p in alternatives)]:
        (quoted,) = sqlite.match([phrase])
        assert re.fullmatch(r'"(?:[^"\0]|"")+"\*?', quoted) and any(c.isalnum() for c in phrase.words)


@given(st.text())
def test_the_database_understands_every_query(query: str) -> None:
    import sqlite3

    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE t USING fts5 (body, tokenize = 'unicode61 remove_diacritics 2')")
    terms = text.parse(query)
    for alternatives in [*terms.wanted, terms.unwanted]:
        if alternatives:
            database.execute("SELECT * FROM t WHERE t MATCH ?", sqlite.match(alternatives)).fetchall()
    database.close()


def test_nearest_is_by_cosine() -> None:
    matrix = vectors.build([("a", "[1, 0]"), ("b", "[0, 5]"), ("c", "[-2, 0]"), ("zero", "[0, 0]")])
    vectors.keep(("s", 1), matrix)
    assert vectors.nearest(matrix, [3.0, 0.0], least=False) == [("a", 1.0), ("b", 0.5), ("zero", 0.5), ("c", 0.0)]
    assert vectors.nearest(matrix, [3.0, 0.0], least=True)[0] == ("c", 1.0)
    assert vectors.nearest(vectors.build([]), [1.0], least=False) == []
    assert vectors.cached(("s", 1)) is matrix and vectors.cached(("s", 2)) is None
    for n in range(vectors.KEPT):
        vectors.keep(("more", n), matrix)
    assert vectors.cached(("s", 1)) is None, "only so many stay in memory"


# files and processes ---------------------------------------------------------------------------------------------------


def test_private_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    path.write_text("{}")
    path.chmod(0o644)
    (path.parent / f".{path.name}.partial").write_text("left by a kill")
    files.write_private(path, {"a": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["secret.json"]
    assert files.read_json(tmp_path / "nothing.json") is None
    path.write_text("{half")
    with pytest.raises(ServiceError, match=r"secret.json: this file cannot be read"):
        files.read_json(path)


def test_a_lock_is_waited_for_and_named_when_it_is_not_given_up(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", list[str]()

    def second() -> None:
        with files.locked(path, timeout=10, what="a start"):
            order.append("second")

    with files.locked(path, timeout=1, what="a start"):
        thread = threading.Thread(target=second)
        thread.start()
        with (
            pytest.raises(ServiceError, match=r"lock: a start by another process has not ended for 0 s"),
            files.locked(path, timeout=0.1, what="a start"),
        ):
            pass
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_process_is_known_by_its_number_and_its_beginning(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    began = process.began(child.pid)
    assert began is not None and began == process.began(child.pid) and began != process.began(os.getpid())
    files.write_private(tmp_path / process.PID_FILE, {"pid": child.pid, "began": began, "port": 1})
    assert process.running(tmp_path) == process.Process(child.pid, began, 1)
    files.write_private(tmp_path / process.PID_FILE, {"pid": child.pid, "began": "another time", "port": 1})
    assert process.running(tmp_path) is None
    child.kill()
    deadline = time.monotonic() + 10
    while process.began(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.began(child.pid) is None, "dead, though nobody has waited for it yet"
    child.wait()
    process.terminate(process.Process(child.pid, began, 1))


def test_logs_rotate_and_the_oldest_goes(tmp_path: Path) -> None:
    for n in range(6):
        process.rotate_logs(tmp_path)
        (tmp_path / process.LOG_FILE).write_text(str(n))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "server.log": "5",
        "server.log.1": "4",
        "server.log.2": "3",
        "server.log.3": "2",
    }


def test_a_log_is_rotated_by_size_and_takes_the_standard_streams_along(tmp_path: Path) -> None:
    code = """
import logging, os, sys
from pathlib import Path
from argilla_embedded import logs
logs.SIZE = 20_000
out = os.open("server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
logs.follow(out)
logs.install(Path("server.log").absolute())
for n in range(400):
    logging.getLogger("x").error("entry %d %s", n, "y" * 300)
    os.write(2, b"a crash\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(process.PLUGIN)}, check=False
    )
    assert done.returncode == 0
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(found) == ["server.log", "server.log.1", "server.log.2", "server.log.3"]
    assert max(map(len, found.values())) < 21_000
    assert "entry 399 " in found["server.log"] and found["server.log"].endswith("a crash\n")
    assert all("a crash" in content for content in found.values())


def test_a_message_of_any_size_takes_two_hundred_lines_of_the_log() -> None:
    assert logs.bounded("one\ntwo") == "one\ntwo"
    assert logs.bounded("x" * 501) == "x" * 500 + " … (501 characters)"
    lines = logs.bounded("\n".join(map(str, range(1000)))).split("\n")
    assert len(lines) == 201 and lines[99:102] == ["99", "… (800 lines)", "900"] and lines[-1] == "999"


def test_after_some_tries_at_once_one_is_left_every_so_often() -> None:
    tries = throttle.Throttle(burst=3, every=10.0)
    for _ in range(3):
        assert tries.wait("kim", 100.0) == 0
        tries.spend("kim", 100.0)
    assert tries.wait("kim", 100.0) == 10.0 and tries.wait("lee", 100.0) == 0
    assert tries.wait("kim", 110.0) == 0
    tries.spend("kim", 110.0)
    assert tries.wait("kim", 110.0) == 10.0
    tries.give_back("kim")
    assert tries.wait("kim", 110.0) == 0
    tries.forgive("kim")
    for _ in range(3):
        tries.spend("kim", 110.0)
    assert tries.wait("kim", 110.0) == 10.0 and tries.wait("kim", 140.0) == 0


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "INFO: hello\nTraceback …\nsqlite3.DatabaseError: file is not a database\n(Background on this error at: x)\n",
            "sqlite3.DatabaseError: file is not a database",
        ),
        ("INFO: one\nsomething odd\n\n", "something odd"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_is_found_in_a_log(tmp_path: Path, log: str, reason: str) -> None:
    (tmp_path / "log").write_text(log)
    assert installing.reason(tmp_path / "log") == reason


def test_a_port_is_kept_or_chosen_or_refused(tmp_path: Path) -> None:
    first = _choose_port(tmp_path, None)
    assert first in range(20_000, 30_000)
    files.write_private(tmp_path / "server.json", {"port": first})
    assert _choose_port(tmp_path, None) == first and _choose_port(tmp_path, first + 1) == first + 1

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        with pytest.raises(
            ServiceError, match=rf"port {first}, which this server has had since it was made, is in use.*--port"
        ):
            _choose_port(tmp_path, None)
        assert _choose_port(tmp_path, 0) != first


# the environment ---------------------------------------------------------------------------------------------------------


def test_the_environment_is_named_after_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = installing.environment()
    assert before.parent == tmp_path / "data" / "align" and re.fullmatch(r"argilla-env-[0-9a-f]{12}", before.name)
    changed = tmp_path / "constraints.txt"
    changed.write_text(installing.CONSTRAINTS.read_text() + "one-more==1.0\n")
    monkeypatch.setattr(installing, "CONSTRAINTS", changed)
    assert installing.environment() != before


def test_everything_is_pinned() -> None:
    lines = installing.CONSTRAINTS.read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines) and len(lines) > 80
    assert {"argilla-server==2.8.0", "argilla==2.8.0"} <= set(lines) and any(
        line.startswith("click==8.1.") for line in lines
    )


def test_an_unfinished_environment_is_made_again_and_a_finished_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[list[str]]()

    def run(command: list[str], log: Path) -> None:
        made.append(command)
        installing.environment().mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(installing, "_run", run)
    half = installing.environment()
    half.mkdir(parents=True)
    (half / "left over").touch()
    said = list[str]()
    assert installing.install(say=said.append) == half
    assert not (half / "left over").exists() and "removing an unfinished" in said[0]
    assert [c[-1] for c in made][:2] == [str(half), str(installing.CONSTRAINTS)] and "--no-deps" in made[1]
    assert installing.install() == half and len(made) == 3


def test_a_failed_installation_names_its_log_and_leaves_nothing_that_looks_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installing.sys, "executable", "/bin/false")
    with pytest.raises(ServiceError, match=r"\.log: making Argilla's environment failed: `/bin/false -m venv"):
        installing.install()
    assert not installing.is_installed(installing.environment())


def test_a_given_environment_is_used_as_it_is_and_never_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_env = tmp_path / "given"
    given_env.mkdir()
    monkeypatch.setenv("ALIGN_SERVER_ENV", str(given_env))
    with pytest.raises(
        ServiceError, match=r"ALIGN_SERVER_ENV=.*no environment with argilla-server 2.8.0.*unset the variable"
    ):
        installing.install()
    assert list(given_env.iterdir()) == []


def test_uv_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing.shutil, "which", lambda name: None)
    with pytest.raises(ServiceError, match=r"no program `uv`"):
        installing.install(uv=True)


# what people are told ------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_installed_started_or_running_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(ServiceError, match=r"not installed; run `align server install`"):
        server.start(home)
    for ask in (server.status, server.stop, server.credentials, server.logs, server.list_users):
        with pytest.raises(ConfigError) as caught:
            ask(home)
        made = f"check the folder; `align server start --home {home}` makes one there"
        assert str(caught.value) == f"there is no annotation server in {home}; {made}"
    assert not home.exists()


def test_a_home_that_stands_still_and_the_users_own_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    files.write_private(home / "secrets.json", {"username": "o", "password": "p", "api_key": "k"})
    assert server.status(home) == server.ServerStatus(home, running=False) and server.stop(home) is False
    with pytest.raises(ServiceError, match=r"does not run; run `align server start --home .*`"):
        server.list_users(home)
    with pytest.raises(ServiceError, match=r"there is no log: this server was never started"):
        server.logs(home)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert server.status().running is False and server.stop() is False
    with pytest.raises(ServiceError, match=r"never started, so it has no owner; run `align server start`"):
        server.credentials()


@pytest.mark.parametrize(
    ("role", "password", "said"),
    [("boss", None, "no role 'boss'"), ("annotator", "short", "has 5 characters"), ("annotator", "x" * 101, "101")],
)
def test_users_that_cannot_be_are_refused_before_anything_is_asked(
    tmp_path: Path, role: str, password: str | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        server.add_user(tmp_path, "kim", role, password=password)


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match=r"file/home: cannot write"):
        files.make_private_folder(tmp_path / "file" / "home")


def test_a_disk_without_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from annotation.server import server as module

    full = type("Usage", (), {"free": 5})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: full)
    with pytest.raises(ServiceError, match=r"less than 100 MB free.*--home"):
        module._launch(tmp_path, tmp_path, None, None, None)
    assert list(tmp_path.iterdir()) == [], "no secrets were made"


def test_nobody_at_the_other_end_is_said() -> None:
    with pytest.raises(ServiceError, match=r"http://127.0.0.1:9: Argilla does not answer .*align server status"):
        call("http://127.0.0.1:9", "/api/v1/version")


def test_the_server_gets_none_of_our_python_and_no_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("ARGILLA_DATABASE_URL", "postgresql://elsewhere")
    seen = process._environment(tmp_path)
    assert seen["PYTHONPATH"] == str(process.PLUGIN) and "ARGILLA_DATABASE_URL" not in seen
    assert seen["HF_HUB_OFFLINE"] == seen["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_the_compose_file_is_valid_and_gives_the_server_the_settings_that_we_give_it(tmp_path: Path) -> None:
    compose = yaml.safe_load(process.PLUGIN.with_name("compose.yaml").read_text())
    assert set(compose["services"]) == {"database", "argilla"} and set(compose["volumes"]) == {"database"}
    argilla = compose["services"]["argilla"]
    assert argilla["ports"] == ["${LISTEN:-127.0.0.1}:${PORT:-6900}:6900"], "loopback unless it is said otherwise"
    assert "ports" not in compose["services"]["database"]
    ours = process._environment(tmp_path)
    for name, value in argilla["environment"].items():
        if name.startswith(("HF_", "OMP_", "PYTHONUN")) or name in ("ARGILLA_SEARCH_ENGINE", "ARGILLA_CORS_ORIGINS"):
            assert ours[name] == value
    assert {n for n in ours if n.startswith("ARGILLA_")} - argilla["environment"].keys() == {
        "ARGILLA_DATABASE_SQLITE_TIMEOUT"
    }
    secret = [v for n, v in argilla["environment"].items() if re.search(r"PASSWORD|KEY|DATABASE_URL", n)]
    assert len(secret) == 4 and all(":?}" in value for value in secret), "no secret has a default"


@pytest.mark.parametrize(
    "url", ["mysql://u:hush@h/db", "argilla.db", "postgresql://u:hush@h", "postgresql://u:hush@h/", ""]
)
def test_a_database_that_cannot_be_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"--database.*postgresql://user:password@host:5432/name") as caught:
        server.start(tmp_path / "home", database=url)
    assert "hush" not in str(caught.value) and not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("url", "bare", "options"),
    [
        ("postgresql://u:p%40ss@h:5/db", "postgresql+asyncpg://u:p%40ss@h:5/db", {}),
        ("postgres://h/db?sslmode=require", "postgresql+asyncpg://h/db", {"PGSSLMODE": "require"}),
        (
            "postgresql+psycopg2://h/db?sslmode=verify-full&sslrootcert=/ca.pem&command_timeout=5",
            "postgresql+asyncpg://h/db?command_timeout=5",
            {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/ca.pem"},
        ),
    ],
)
def test_options_for_tls_go_where_both_drivers_find_them(url: str, bare: str, options: dict[str, str]) -> None:
    assert plugin_home.split_options(url) == (bare, options)


def test_secrets_come_from_the_home_or_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"username": "o", "password": "p", "api_key": "k", "auth_secret_key": "s"}
    with pytest.raises(RuntimeError, match=r"not set: ALIGN_OWNER, ALIGN_OWNER_API_KEY, ALIGN_OWNER_PASSWORD, ARGILLA"):
        plugin_home.secrets_of(tmp_path)
    for name, value in given.items():
        monkeypatch.setenv(plugin_home.NAMES[name], value)
    assert plugin_home.secrets_of(tmp_path) == given
    files.write_private(tmp_path / "secrets.json", given | {"password": "from the home"})
    assert plugin_home.secrets_of(tmp_path)["password"] == "from the home"


# the command line --------------------------------------------------------------------------------------------------------------


def test_the_commands_print_json_and_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    run = CliRunner()
    assert json.loads(run.invoke(server_app, ["status", "--json"]).stdout)["running"] is False
    assert "not running" in run.invoke(server_app, ["status"]).stdout
    assert json.loads(run.invoke(server_app, ["stop", "--json"]).stdout) == {"stopped": False}
    failed = run.invoke(server_app, ["users", "add", "kim", "--role", "boss"])
    assert isinstance(failed.exception, ConfigError)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, align.cli.server; print([m for m in ('torch', 'argilla', 'pyarrow', 'numpy', 'httpx', 'annotation.server') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(server.__file__).parents[2])},
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_plugin_imports_nothing_of_ours() -> None:
    for path in process.PLUGIN.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) (align|annotation|reward|rollouts)\b", path.read_text(), re.M), path


def test_a_port_that_is_being_let_go_is_waited_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not process.port_is_free(port)
        threading.Timer(0.3, taken.close).start()
        assert process.port_is_free(port, patience=10)


def test_client_and_plug_in_close_a_data_set_by_the_same_words() -> None:
    """The plug-in runs in Argilla's environment and cannot import ours."""
    from annotation.argilla_dataset import CLOSED, DONE

    text = (Path(server.__file__).parent / "plugin" / "argilla_embedded" / "closing.py").read_text(encoding="utf-8")
    assert f'CLOSED = "{CLOSED}"\n' in text and f'DONE = "{DONE}"\n' in text
