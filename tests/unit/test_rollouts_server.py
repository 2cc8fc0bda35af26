"""The server engine without vLLM: the HTTP client, and the keeper of the server's process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.config.rollouts import Engine, Server
from align.errors import ConfigError, ServiceError, StageError
from rollouts import server_engine, server_process
from rollouts.engine import Request
from rollouts.server_client import Client
from rollouts.server_engine import ServerGenerator

ROOT = Path(__file__).parents[2]


class Fake(BaseHTTPRequestHandler):
    """Answers as vLLM does; fails as often as `failures` says."""

    seen: Counter
    failures: list[int]
    lock = threading.Lock()
    now = most = 0
    finish = "stop"

    def do_GET(self):
        self._send(200, {"data": [{"id": "m", "root": "/nowhere", "parent": None, "max_model_len": 64}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        kind = type(self)
        with kind.lock:
            kind.seen[self.path] += 1
            kind.now += 1
            kind.most = max(kind.most, kind.now)
            code = kind.failures.pop() if kind.failures else 200
        time.sleep(0.01)
        with kind.lock:
            kind.now -= 1
        if self.headers["authorization"] != "Bearer secret":
            code = 401
        choice = {"token_ids": [body.get("seed")], "finish_reason": kind.finish, "logprobs": None}
        self._send(code, {"choices": [choice]} if code == 200 else {"error": {"message": "too much of it"}})

    def _send(self, code, body):
        payload = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def fake():
    kind = type("One", (Fake,), {"seen": Counter(), "failures": [], "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    kind.url = f"http://127.0.0.1:{server.server_port}"
    yield kind
    server.shutdown()
    server.server_close()


def client(fake, key="secret", **changes):
    return Client(fake.url, key, **{"concurrency": 8, "timeout": 5, "own": True, "key_name": "THE_KEY", **changes})


def test_many_requests_in_order_and_never_more_at_once_than_allowed(fake):
    found = client(fake).complete([{"seed": n} for n in range(60)])
    assert [choice["token_ids"] for choice in found] == [[n] for n in range(60)]
    assert 1 < fake.most <= 8


def test_a_limit_of_the_servers_own_is_an_error_that_names_it(fake, tmp_path, monkeypatch):
    from tests.tiny import make_tiny_model

    monkeypatch.setenv("THE_KEY", "secret")
    server = Server(url=fake.url, api_key_env="THE_KEY")
    engine = Engine(type="server", server=server)
    model, requests = make_tiny_model(tmp_path), [Request("p", [5, 6]), Request("q", [7])]
    generator = ServerGenerator(model, [2], engine, dtype="float32", max_tokens_total=32, threads=1)
    monkeypatch.setattr(fake, "finish", "length")
    assert [c.finish for (c,) in generator.generate(requests, Sampling(max_tokens=1), samples=1, seed=0)] == [
        "length"
    ] * 2
    with pytest.raises(StageError) as error:
        generator.generate(requests, Sampling(max_tokens=9), samples=1, seed=0)
    assert error.value.what == "vLLM's server cut 2 of 2 answers after 1 tokens, and 9 were asked for"
    assert error.value.hint.startswith("its own limit is `max_new_tokens`, of the model's generation_config.json")


def test_works_inside_a_running_event_loop(fake):
    async def in_a_notebook():
        return client(fake).complete([{"seed": 3}])

    assert asyncio.run(in_a_notebook())[0]["token_ids"] == [3]


def test_a_busy_server_is_asked_again(fake):
    fake.failures[:] = [503, 429, 500]
    assert client(fake).complete([{"seed": 1}])[0]["token_ids"] == [1]
    assert fake.seen["/v1/completions"] == 4


def test_an_adapter_that_is_refused_is_not_offered_again(fake):
    fake.failures[:] = [500]
    with pytest.raises(StageError, match=r"refuses /v1/load_lora_adapter \(HTTP 500\): too much of it"):
        client(fake).load_adapter("name", "/path")
    assert fake.seen["/v1/load_lora_adapter"] == 1


def test_a_refusal_is_said_in_the_servers_words(fake):
    fake.failures[:] = [400]
    with pytest.raises(StageError, match=r"refuses /v1/completions \(HTTP 400\): too much of it"):
        client(fake).complete([{"seed": 1}])
    assert fake.seen["/v1/completions"] == 1


def test_a_wrong_key_names_the_variable_and_not_the_key(fake):
    with pytest.raises(
        ConfigError, match="does not accept our key; put it into the environment variable THE_KEY"
    ) as error:
        client(fake, key="hush-hush").complete([{"seed": 1}])
    assert "hush" not in str(error.value)


def test_a_server_that_is_gone(fake, monkeypatch):
    monkeypatch.setattr("rollouts.server_client.FIRST_PAUSE", 0.01)
    gone = Client("http://127.0.0.1:9", None, concurrency=2, timeout=1, own=True)
    with pytest.raises(ServiceError, match=r"cannot be reached .* 4 times in a row"):
        gone.complete([{"seed": 1}])
    told = Client(
        "http://127.0.0.1:9", None, concurrency=2, timeout=1, own=True, diagnose=lambda: StageError("it died")
    )
    with pytest.raises(StageError, match="it died"):
        told.complete([{"seed": 1}])


# The keeper, with a program that has a child of its own in place of vLLM.

PROGRAM = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
"""
WAITS = PROGRAM + "time.sleep(600)"


def begin(home: Path, program: str = WAITS) -> server_process.Server:
    return server_process.start(home, [sys.executable, "-c", program], {}, {"model": "m"})


def child_of(home: Path) -> int:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        words = (home / server_process.LOG).read_text().split()
        if "child" in words:
            return int(words[words.index("child") + 1])
        time.sleep(0.02)
    raise AssertionError((home / server_process.LOG).read_text())


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(*pids: int, within: float = 20) -> bool:
    until = time.monotonic() + within
    while any(lives(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(lives(pid) for pid in pids)


def pids(home: Path) -> list[int]:
    return [int(word) for word in (home / server_process.KEEPER).read_text().split()]


def test_a_server_is_found_again_and_ends_with_all_its_processes():
    with server_process.new_home() as home:
        assert server_process.running(home) is None
        server = begin(home)
        processes = [*pids(home), child_of(home)]
        assert server_process.running(home) == server
        assert len(processes) == 3 and all(map(lives, processes))
        assert (
            oct((home / server_process.NOTE).stat().st_mode)[-3:]
            == "600"
            == oct((home / server_process.LOG).stat().st_mode)[-3:]
        )
    assert gone(*processes, within=1) and not home.exists()


def test_no_process_shows_the_key_and_nothing_prints_it():
    with server_process.new_home() as home:
        server = begin(home)
        child_of(home)
        listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "server_process" in listed and server.key not in listed
        assert server.key not in repr(server) and len(server.key) >= 32
        (home / server_process.LOG).write_text(f"vLLM printed {server.key}\n")
        assert server_process.last_lines(home) == "its last lines are\n  vLLM printed …"


def test_one_that_ends_by_itself_leaves_nothing_and_says_why():
    with server_process.new_home() as home:
        begin(home, PROGRAM + "sys.exit('no such model')")
        processes = [*pids(home), child_of(home)]
        assert gone(*processes)
        assert not server_process.alive(home)
        assert "no such model" in server_process.last_lines(home)


def test_one_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(server_process, "POLITE_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(15, lambda *_: None); print('deaf', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"deaf\n"
    server_process._end_group(child)
    assert child.returncode == -signal.SIGKILL


def test_a_killed_keeper_takes_the_server_with_it():
    with server_process.new_home() as home:
        begin(home)
        keeper, server = pids(home)
        os.kill(keeper, signal.SIGKILL)
        assert gone(keeper, server)


def test_a_killed_owner_takes_the_server_with_it(tmp_path):
    program = """
import time
from pathlib import Path
from rollouts import server_process
from tests.unit.test_rollouts_server import begin, child_of, pids
with server_process.kept_server():
    home = server_process.kept_home()
    begin(home)
    print(home, *pids(home), child_of(home), flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    home, *processes = owner.stdout.readline().split()
    owner.kill()
    owner.wait()
    assert len(processes) == 3 and gone(*map(int, processes))
    assert not Path(home).exists()


def test_a_folder_that_we_did_not_make_is_never_begun_in_nor_removed(tmp_path, monkeypatch):
    """A preset variable once made the keeper of vLLM's server remove an annotation server's home, database and all."""
    home = tmp_path / "annotation-server"
    home.mkdir()
    for name in ("argilla.db", "server.json", "server.log"):
        (home / name).write_text("theirs")
    with monkeypatch.context() as preset:
        preset.setenv("ALIGN_SERVER_HOME", str(home))
        with server_process.kept_server():
            assert server_process.kept_home() != home
    for told in (str(home), f"0123:{home}", f"None:{home}"):
        monkeypatch.setenv("ALIGN_VLLM_HOME", told)
        with (
            pytest.raises(
                ServiceError, match="is no home of a vLLM server that we began; the variable is ours; unset it"
            ),
            server_process.kept_server(),
        ):
            pass
    with pytest.raises(ServiceError, match="this folder was not made for vLLM's server"):
        begin(home)
    keeper = server_process.python_module("rollouts.server_process", str(home), sys.executable, "-c", WAITS)
    subprocess.run(keeper, cwd=ROOT, timeout=60, check=False, capture_output=True)  # no owner holds the lock: it ends
    assert {path.name: path.read_text() for path in home.iterdir() if not path.name.startswith("vllm-")} == {
        "argilla.db": "theirs", "server.json": "theirs", "server.log": "theirs",
    }  # fmt: skip


def test_a_folder_that_took_the_place_of_a_home_stays():
    with server_process.new_home() as home:
        home.rename(aside := home.with_name(home.name + "-moved"))
        home.mkdir()
        (home / "novel.txt").write_text("chapter 1")
    assert (home / "novel.txt").read_text() == "chapter 1"
    for folder in (home, aside):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_the_two_servers_share_no_file_name():
    from annotation.server import process, server

    theirs = {server.SECRETS_FILE, server.SETTINGS_FILE, server.SQLITE_FILE, process.PID_FILE, process.LOG_FILE}
    ours = {server_process.MARK, server_process.OWNER, server_process.KEEPER, server_process.NOTE, server_process.LOG}
    assert theirs.isdisjoint(ours)


# The engine, with a program in place of vLLM that finds its port taken the first time.

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
mark = Path({mark!r})
if not mark.exists():
    mark.touch()
    sys.exit("OSError: [Errno 98] Address already in use")
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""


def begun(tmp_path: Path, monkeypatch, program: str, **options) -> ServerGenerator:
    command = [sys.executable, "-c", program]
    monkeypatch.setattr(server_engine, "server_command", lambda checkpoint, serves: (command, {}))
    monkeypatch.setattr(server_engine, "resolve_engine", lambda type: type)
    (tmp_path / "config.json").write_text("{}")
    engine = Engine(type="server", server=Server(**options))
    return ServerGenerator(tmp_path, [2], engine, dtype="float32", max_tokens_total=50, threads=1)


def test_a_port_that_was_taken_in_the_meantime(tmp_path, monkeypatch, capfd):
    generator = begun(tmp_path, monkeypatch, SERVER.format(mark=str(tmp_path / "mark")))
    generator.close()
    assert f"rollouts server: serves {tmp_path} after" in capfd.readouterr().err


def test_a_server_that_never_answers(tmp_path, monkeypatch):
    with pytest.raises(ServiceError, match=r"did not answer within 0.5 s.*; raise rollouts.server.start_timeout"):
        begun(tmp_path, monkeypatch, "import time; time.sleep(600)", start_timeout=0.5)


def test_a_server_that_ends_says_why(tmp_path, monkeypatch):
    with pytest.raises(ServiceError, match="ended while it started; its last lines are\n  out of memory"):
        begun(tmp_path, monkeypatch, "import sys; sys.exit('out of memory')")
