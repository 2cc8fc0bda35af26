"""Bad input through the command line: one sentence with place, value and way out; the right exit code; nothing half-written."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from align.cli import app as cli
from align.pipeline.lock import run_lock
from align.pipeline.stage_worker import thread_settings
from annotation import server
from tests.loop import align, make_loop, write_jsonl
from tests.server_fixtures import ArgillaServer
from tests.tiny import make_tokenizer

Refuse = Callable[..., str]


SERVER = "no-server"
"""The embedded server's folder in the recipe; nothing here gets far enough to start it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("world")
    make_loop(folder, folder / SERVER)
    shutil.copytree(folder / "model", folder / "mute")
    (folder / "mute" / "chat_template.jinja").unlink()
    make_tokenizer(["order"], chat_template=None).save_pretrained(folder / "mute")
    write_jsonl(folder / "answers.jsonl", [{"prompt": "Hi", "text": text} for text in ("Hello!", "What?")])
    yield folder
    assert not (folder / SERVER).exists()


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with everything that a good command needs."""
    for path in world.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARGILLA_API_KEY", raising=False)
    for name in thread_settings(None):
        monkeypatch.setenv(name, "1")
    return tmp_path


@pytest.fixture
def refuse(here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Refuse]:
    """Calls the command line and returns its one sentence; afterwards no published result may be there."""

    def call(*arguments: str | Path, code: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["align", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        assert said.out == ""
        assert ended.value.code == code, said.err
        [line] = [line for line in said.err.splitlines() if not re.fullmatch(r"\d/\w+: (start|done in .*)", line)]
        assert line.startswith("align: ")
        return line.removeprefix("align: ")

    yield call
    assert not (here / "out").exists()
    assert not [p for p in here.rglob("*") if ".partial" in p.name and p.suffix in (".jsonl", ".json", ".parquet")]


SFT = ("sft", "--model", "model", "--out", "out", "--demonstrations")
DPO = ("dpo", "--model", "model", "--out", "out", "--preferences")
ROLLOUT = ("rollout", "--out", "out", "--prompts", "prompts.jsonl", "--model")
EVAL = ("eval", "--out", "out", "--judge", "score.py:score", "--candidates")
PUSH = ("annotate", "push", "out", "--candidates")
GOOD = '{"prompt": "Hi", "completion": "Hello!", "text": "Hello!"}\n'


@pytest.mark.parametrize(
    ("verb", "text", "said"),
    [
        (SFT, GOOD + '{"prompt": "Hi"', r"bad\.jsonl:2: the line is not JSON \(.*\); one JSON object a line, in UTF-8"),
        (DPO, "[1, 2]\n", r"bad\.jsonl:1: the line holds list '\[1, 2\]', not an object; one JSON object a line"),
        (EVAL, GOOD + "\n\nnothing\n", r"bad\.jsonl:4: the line is not JSON .*"),
        (PUSH, GOOD + '{"prompt": NaN}\n', r"bad\.jsonl:2: the line is not JSON \(NaN is no JSON\); .*"),
        (
            SFT, '{"prompt": "Hi", "answer": "Hello!"}\n',
            r"bad\.jsonl: 1 of 1 rows are no demonstrations, the first: bad\.jsonl:1: missing field: needs .*, "
            r"found prompt, answer; docs/files\.md lists the forms",
        ),
        (
            PUSH, GOOD + '{"prompt": "Hi", "answer": "Hello!"}\n',
            r"bad\.jsonl:2: missing field: needs `messages` \(or `prompt`\) and `text`, found prompt, answer; .*",
        ),
        (
            SFT, '{"prompt": "Hi", "completion": " "}\n',
            r"bad\.jsonl: 1 of 1 rows .*: bad\.jsonl:1: empty: `completion` .*; docs/files\.md lists the forms",
        ),
        (
            DPO, '{"prompt": "Hi", "chosen": "Yes", "rejected": "Yes"}\n',
            r"bad\.jsonl: 1 of 1 rows .*: bad\.jsonl:1: no difference: `chosen` and `rejected` are both 'Yes'; .*",
        ),
        (DPO, "", r"bad\.jsonl: the file has no rows"),
        (
            PUSH, '{"prompt": "Hi", "text": "Same"}\n{"prompt": "Hi", "text": "Same"}\n',
            r"bad\.jsonl: no prompt has two different answers, so there is nothing to compare",
        ),
    ],
)  # fmt: skip
def test_rows(refuse: Refuse, here: Path, verb: tuple[str, ...], text: str, said: str) -> None:
    (here / "bad.jsonl").write_text(text)
    assert re.fullmatch(said, refuse(*verb, "bad.jsonl"))
    assert sorted(p.name for p in here.iterdir() if not p.is_symlink()) == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SFT, "none.jsonl"), r"sft: demonstrations: there is no file .*/none\.jsonl"),
        ((*DPO, "none.jsonl"), r"there is no such file: none\.jsonl; check the path.*"),
        ((*ROLLOUT, "./none"), r"--model: there is no model folder './none'; give a local folder or .*"),
        ((*ROLLOUT, "score.py"), r"--model: there is no model folder 'score\.py'; .*"),
        ((*EVAL, "answers.jsonl", "--judge", "none.py:f"), r"none\.py:f: there is no file .*; did you mean score\.py\?"),
        ((*EVAL, "answers.jsonl", "--judge", "score.py:scor"), r".*/score\.py: 'scor' is not there; .*score.*"),
        ((*PUSH, "answers.jsonl", "--guidelines", "no.md"), r"annotate: guidelines: there is no file .*/no\.md"),
        ((*PUSH, "answers.jsonl", "--server", "argilla"), r"annotate: server\.url: must be .*, found 'argilla'"),
        ((*PUSH, "answers.jsonl", "--server", "http://a", "--home", "h"), r"--home: --home is for the embedded server, and --server .*"),
        ((*DPO, "answers.jsonl", "bta=0.2"), r"setting bta=0\.2: bta: unknown key; did you mean beta\?"),
        ((*DPO, "answers.jsonl", "beta=-1"), r"setting beta=-1: beta: must be a number above 0, found -1"),
        ((*DPO, "answers.jsonl", "replay=0.5"), r"setting replay=0\.5: replay has no use here; .*"),
        ((*ROLLOUT, "model", "prompts=3"), r"setting prompts=3: prompts has no use here; every prompt .*"),
        ((*ROLLOUT, "model", "temperature=0"), r"answers: `temperature` 0 gives the same answer every time, and 2 are asked for to each prompt; raise it, or ask for one at most"),
        (("run", "none.yaml"), r"there is no recipe none\.yaml; `align init` writes one"),
        (("run", "recipe.yaml", "dpo.betta=1"), r"override dpo\.betta=1: dpo\.betta: unknown key; did you mean beta\?"),
        (("run", "recipe.yaml", "--from", "polcy", "--dry-run"), r"--from: there is no stage 'polcy'; .* are 0/prompts, .*"),
        (("run", "recipe.yaml", "--wait", "--dry-run"), r"--dry-run does nothing that --wait could wait for; .*"),
        (("run", "recipe.yaml", "prompts.path=no.jsonl"), r"override prompts\.path=no\.jsonl: .* there is no file .*"),
        (("init", "own-modell"), r"there is no recipe 'own-modell'; the recipes are best-of-n, .*, own-model, ppo.*"),
        (("init", "own-model", "model"), r"model already exists; name another folder.*"),
        (("status", "none"), r"none: there is no run .*"),
        (("report", "none"), r"none: there is no run .*"),
        (("samples", "none"), r"there is no run in none; name a folder under runs/.*"),
        (("lineage", "none", "abc"), r"there is no run in none; .*"),
        (("clean", "none"), r"there is no run in none; .*"),
        (("annotate", "status", "none"), r"there are no tasks in none; make them with `align annotate push .*"),
    ],
)  # fmt: skip
def test_options_and_files(refuse: Refuse, here: Path, arguments: tuple[str, ...], said: str) -> None:
    before = {p.name for p in here.iterdir()}
    found = refuse(*arguments)
    assert re.fullmatch(said, found), found
    assert {p.name for p in here.iterdir()} - before <= {"out.partial", "out.work"}


def test_a_recipe_is_told_by_file_and_line(refuse: Refuse, here: Path) -> None:
    (here / "mine.yaml").write_text(
        "name: mine\nmodel: {path: ./model}\nprompts: {path: prompts.jsonl}\nanotate: {}\nannotate: {}\n"
    )
    assert refuse("run", "mine.yaml") == "mine.yaml:4: anotate: unknown key; did you mean annotate?"
    assert not (here / "runs").exists()


def test_a_result_that_is_there_is_not_touched(here: Path, capfd: pytest.CaptureFixture[str], refuse: Refuse) -> None:
    (here / "taken").mkdir()
    sentence = refuse("dpo", "--model", "model", "--out", "taken", "--preferences", write_pairs(here))
    assert sentence == "--out: taken is there already; name another folder, or remove this one"
    assert list((here / "taken").iterdir()) == []


def write_pairs(folder: Path) -> Path:
    write_jsonl(folder / "pairs.jsonl", [{"prompt": f"p{n}", "chosen": "Yes", "rejected": "No"} for n in range(4)])
    return folder / "pairs.jsonl"


@pytest.mark.slow
def test_a_model_without_a_chat_template(here: Path) -> None:
    assert one_sentence(*ROLLOUT, "mute", "type=transformers", cwd=here, code=2) == (
        "align: --chat-template: the tokenizer of 'mute' has no chat template; "
        "set --chat-template plain, chatml or a Jinja file"
    )
    assert not (here / "out").exists()


@pytest.mark.slow
def test_a_stage_in_a_process_of_its_own_says_it_in_the_same_way(refuse: Refuse, here: Path) -> None:
    sentence = refuse("run", "recipe.yaml", "model.path=./mute", "sft=null")
    assert "chat template" in sentence
    policy = here / "runs" / "loop" / "round_000" / "policy"
    assert {p.suffix for p in policy.iterdir()} == {".partial", ".work"}, "nothing is published"


def test_an_argilla_that_cannot_be_used(refuse: Refuse, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        push = ("annotate", "push", "session", "--candidates", "answers.jsonl", "--server", address)
        assert refuse(*push).startswith(
            "annotate.server.api_key_env: the environment variable ARGILLA_API_KEY is not set; "
        )
        monkeypatch.setenv("ARGILLA_API_KEY", "a secret")
        sentence = refuse(*push)
    assert re.fullmatch(
        rf"{address}: Argilla does not answer \(ConnectError\); start it .*, or check the address.*", sentence
    )
    assert "a secret" not in sentence
    assert sorted(p.name for p in (here / "session").iterdir()) == [
        "session.json",
        "suggestions.parquet",
        "tasks.parquet",
        "tasks_dropped.jsonl",
    ]


@pytest.mark.slow
def test_a_wrong_api_key(
    refuse: Refuse, here: Path, argilla_server: ArgillaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGILLA_API_KEY", "not the key")
    sentence = refuse("annotate", "push", "session", "--candidates", "answers.jsonl", "--server", argilla_server.url)
    assert sentence == f"{argilla_server.url}: Argilla refuses the API key; give the owner's key of this server"


@pytest.mark.slow
def test_a_port_in_use(refuse: Refuse, here: Path) -> None:
    server.install()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence = refuse("server", "start", "--home", "home", "--port", str(port))
    assert re.fullmatch(rf".*/home: port {port} is in use by another program; end that program, or choose .*", sentence)


def test_no_server_is_installed(refuse: Refuse, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_SERVER_ENV", str(here / "nothing"))
    sentence = refuse("annotate", "push", "session", "--candidates", "answers.jsonl")
    assert sentence == f"{here}/nothing: Argilla's server is not installed; run `align server install`"


@pytest.mark.parametrize(
    "verb",
    [
        ("annotate", "push", "session", "--candidates", "answers.jsonl"),
        ("server", "status"),
        ("server", "stop"),
        ("server", "logs"),
        ("server", "users", "list"),
        ("server", "users", "add", "kim"),
        ("server", "users", "remove", "kim"),
    ],
    ids=" ".join,
)
def test_a_home_that_has_no_server(refuse: Refuse, here: Path, verb: tuple[str, ...]) -> None:
    """A slip would begin a second, empty server, to which nobody comes."""
    made = "check the folder; `align server start --home hoem` makes one there"
    assert refuse(*verb, "--home", "hoem") == f"there is no annotation server in hoem; {made}"
    assert not (here / "hoem").exists() and not (here / "session").exists()


def test_a_run_that_another_process_works_on(refuse: Refuse, here: Path) -> None:
    folder = here / "runs" / "loop"
    folder.mkdir(parents=True)
    with run_lock(folder):
        sentence = refuse("run", "recipe.yaml")
    holder = f"process {os.getpid()} on {socket.gethostname()} since "
    assert re.fullmatch(rf"runs/loop: another process works on this run: {holder}.*; wait for it, or stop it", sentence)
    assert [p.name for p in folder.iterdir()] == ["lock"], "nothing of the run was changed"


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def one_sentence(*arguments: str | Path, cwd: Path, code: int, **options: Any) -> str:
    command = [sys.executable, "-m", "align", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, **options)
    assert done.returncode == code, done.stderr
    told = r"\d/\w+: (start|done in .*)|\S+: ignored fields: .*"
    lines = [line for line in done.stderr.splitlines() if not re.fullmatch(told, line)]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.slow
def test_a_disk_that_takes_no_large_file(here: Path) -> None:
    """The model's 400 kB do not fit: `align` says so, and the same command goes on when they do."""
    verb = (
        "rollout",
        "--model",
        "model",
        "--prompts",
        "answers.jsonl",
        "--out",
        "out",
        "type=transformers",
        "max_tokens=4",
    )
    said = one_sentence(*verb, cwd=here, code=2, preexec_fn=small_files)
    assert re.fullmatch(
        r"align: out\.work/arriving: cannot write \(File too large\); free some disk space or check the "
        r"permissions, then run the same command again", said,
    )  # fmt: skip
    assert not (here / "out").exists()
    align(*verb, cwd=here)
    assert (here / "out" / "candidates.jsonl").is_file()


@pytest.mark.slow
def test_a_disk_that_fills_in_training(here: Path) -> None:
    """The worker's own files fit, a trainer's checkpoint or the published weights do not."""
    verb = ("dpo", "--model", "model", "--out", "out", "--preferences", write_pairs(here))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (409_103, 409_103))  # one byte less than the weights

    said = one_sentence(*verb, cwd=here, code=2, preexec_fn=limit)
    assert "cannot write (File too large)" in said


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 400 kB, too small for the tiny model's weights."""
    disk = tmp_path_factory.mktemp("disk")
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk]).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # what a stage has started may need a moment to leave


@pytest.mark.slow
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(here: Path, small_disk: Path) -> None:
    pairs = json.dumps({"from": str(write_pairs(here))})
    run = ("run", "recipe.yaml", "sft=null", "annotate=null", f"preferences={pairs}", "--runs", small_disk)
    said = one_sentence(*run, cwd=here, code=2)
    assert "cannot write (No space left on device); free some disk space" in said
    published = [p for p in small_disk.glob("loop/round_*/*/*") if p.is_dir() and not p.suffix]
    assert all((folder / "receipt.json").is_file() for folder in published)
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert stopped_at("0/policy: done", *run, cwd=here)[0] == 130


def test_full_in_the_middle_of_an_export(here: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse) -> None:
    """ENOSPC from the system call itself, wherever it strikes in `init`."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refuse("init", "own-model", "out").startswith("out: cannot write (No space left on device); free some")


def test_a_defect_is_ours_and_shows_its_trace_only_when_asked(
    refuse: Refuse, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("align.report.data.report_data", broken)
    sentence = refuse("status", "runs/loop", code=1)
    assert sentence == "this is a bug in align: RuntimeError: broken; run it again with --debug for the full traceback"
    monkeypatch.setattr(sys, "argv", ["align", "status", "runs/loop", "--debug"])
    with pytest.raises(RuntimeError, match="broken"):
        cli.main()


def test_debug_shows_the_trace_of_a_user_s_mistake_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "align", "status", "none"]
    plain = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (plain.returncode, "Traceback" in plain.stderr) == (2, False)
    debug = subprocess.run([*command, "--debug"], cwd=tmp_path, capture_output=True, text=True)
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "ConfigError: none: there is no run" in debug.stderr


def test_wrong_words_are_the_user_s(tmp_path: Path) -> None:
    for arguments in (["rn"], ["run"], ["run", "a", "--form", "x"], ["server", "start", "--port", "99999"]):
        done = align(*arguments, cwd=tmp_path, expect=2)
        assert done.stdout == ""
        assert "Error: " in done.stderr


def stopped_at(line: str, *arguments: str | Path, cwd: Path) -> tuple[int, str, str]:
    """Start `align`, press Ctrl-C when it prints `line`; returns exit code, output and what it said after the line."""
    command = [sys.executable, "-m", "align", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not (found := process.stderr.readline()).startswith(line):
        assert found, f"it ended without {line!r}"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def test_ctrl_c_says_that_the_same_command_goes_on(here: Path) -> None:
    assert stopped_at("0/policy: start", "run", "recipe.yaml", "sft=null", cwd=here) == (
        130,
        "",
        "align: stopped; run the same command again to continue\n",
    )


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "align", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == ("", 0)
