"""10,000 comparisons into the embedded server and into stock Argilla, through the same backend, in turns.

    python benchmarks/bulk_logging.py [--short]

Stock is argilla-server's own code and its own SQLite settings in the same environment, one process like ours. It needs
a search engine and Redis; here its engine does nothing and its jobs run as ours do, which is more than it would get:
the real one also sends every record to Elasticsearch. Each pair logs the same new tasks to both, each first in turn.
"""

import argparse
import json
import os
import random
import secrets
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align.types import Candidate, Message, Prompt, Task, candidate_id, prompt_id
from annotation import server
from annotation.argilla_backend import open_argilla
from annotation.server import process
from annotation.server.api import call
from annotation.server.installation import python_of
from annotation.tasks import make_tasks

GOAL = 1 / 3

STOCK = """
import contextlib, os, sys
import uvicorn
from pathlib import Path
from alembic import command
from alembic.config import Config
import argilla_server
from argilla_server.search_engine.base import SearchEngine, SearchResponses

@SearchEngine.register(engine_name="nothing")
class Nothing(SearchEngine):
    @classmethod
    async def new_instance(cls): return cls()
    async def ping(self): return True
    async def info(self): return {"name": "nothing", "pid": os.getpid()}
    async def search(self, *args, **kwargs): return SearchResponses(items=[])
    async def get_dataset_progress(self, dataset): return {}

async def nothing(self, *args, **kwargs): ...
for name in Nothing.__abstractmethods__:
    setattr(Nothing, name, nothing)
Nothing.__abstractmethods__ = frozenset()

config = Config()
config.set_main_option("script_location", str(Path(argilla_server.__file__).parent / "alembic"))
command.upgrade(config, "head")
from argilla_server import app
from argilla_embedded import jobs, owner
jobs.install()
lifespan = app.router.lifespan_context

@contextlib.asynccontextmanager
async def with_owner(app):
    await owner.ensure()
    async with lifespan(app):
        yield

app.router.lifespan_context = with_owner
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
"""


@contextmanager
def embedded(home: Path) -> Iterator[tuple[str, str]]:
    """Our server; its address and the owner's key."""
    server.start(home)
    known = server.credentials(home)
    try:
        yield known.url, known.api_key
    finally:
        server.stop(home)


@contextmanager
def stock(home: Path) -> Iterator[tuple[str, str]]:
    """Argilla's own server."""
    home.mkdir()
    known = {"username": "owner", "password": "x" * 12, "api_key": secrets.token_hex(16), "auth_secret_key": "x" * 32}
    (home / "secrets.json").write_text(json.dumps(known))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = process._environment(home) | {"ARGILLA_SEARCH_ENGINE": "nothing", "TMPDIR": str(home)}
    log = (home / "log").open("wb")
    child = subprocess.Popen(
        [python_of(server.environment()), "-c", STOCK, str(port)], env=environment, cwd=home, stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _answers(url):
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((home / "log").read_text()[-2000:])
            time.sleep(0.2)
        yield url, known["api_key"]
    finally:
        child.terminate()
        child.wait()


def _answers(url: str) -> bool:
    from align.errors import ServiceError

    try:
        return bool(call(url, "/api/v1/version", timeout=2.0))
    except ServiceError:
        return False


def comparisons(count: int, seed: int) -> list[Task]:
    """Tasks with prompts of about 30 and answers of about 80 words."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length)) + f" {draw.random()}."

    prompts, answers = [], []
    for n in range(count):
        messages: list[Message] = [{"role": "user", "content": text(30)}]
        prompt = Prompt(prompt_id(messages), messages, "train", f"made:{n}")
        prompts.append(prompt)
        for sample in range(2):
            given = text(80)
            answers.append(Candidate(candidate_id(prompt.id, given, "ck"), prompt.id, given, "ck", sample, 80, "stop"))
    return make_tasks(prompts, answers, round=1, count=count, overlap=1, seed=seed)[0]


def seconds(where: tuple[str, str], name: str, tasks: list[Task]) -> float:
    """To log `tasks` as a new dataset in a new workspace."""
    url, key = where
    backend = open_argilla(url, key, workspace=name, dataset="round-001", guidelines=None, overlap=1)
    begin = time.perf_counter()
    assert backend.submit(tasks).added == len(tasks)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="1,000 comparisons instead of 10,000")
    count = 1_000 if parser.parse_args().short else 10_000
    pairs = 3
    ours, theirs = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded(Path(folder) / "ours") as a,
        stock(Path(folder) / "stock") as b,
    ):
        for where in (a, b):
            seconds(where, "warm-up", comparisons(100, seed=99))
        for turn in range(pairs):
            tasks = comparisons(count, seed=turn)
            for who in ("ours", "stock") if turn % 2 else ("stock", "ours"):
                if who == "ours":
                    ours.append(seconds(a, f"run-{turn}", tasks))
                else:
                    theirs.append(seconds(b, f"run-{turn}", tasks))
            print(
                f"pair {turn + 1}: ours {ours[-1]:.1f} s, stock {theirs[-1]:.1f} s, ratio {ours[-1] / theirs[-1]:.3f}",
                flush=True,
            )
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"ratios {min(ratios):.3f} to {max(ratios):.3f} over {pairs} pairs of {count} comparisons, {os.cpu_count()} CPU cores"
    )
    print(
        json.dumps(
            {
                "name": f"bulk logging of {count} comparisons",
                "value": round(statistics.median(ours), 2),
                "baseline": round(statistics.median(theirs), 2),
                "ratio": round(ratio, 3),
                "goal": round(GOAL, 3),
                "ok": ratio <= GOAL,
            }
        )
    )


if __name__ == "__main__":
    main()
