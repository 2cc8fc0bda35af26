"""Every verb for real, on your own files: `--json` is JSON alone, standard error is ours alone."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from align.data.preferences import load_preferences
from align.labelling.session import open_backend
from align.pipeline.receipts import current
from align.pipeline.stage import Ref
from align.stages.sessions import open_session
from align.store import checkpoint_id, folder_id, read_rows, read_table
from align.train.checkpoint import load_model
from annotation.backend import Answer
from tests.loop import align, by_name, make_loop, said, write_jsonl
from tests.server_fixtures import ArgillaServer, add_annotator
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow

OURS = re.compile(
    r"((\d/)?\w+: \d+ of \d+(; (loss|reward) [−\d.e-]+|; engine (vllm|transformers): .*)?(; about .* left)?|\d/\w+: (start|done in .*|closed, .*|\d+ of \d+ answers; label at .*)"
    r"|\S+: ignored fields: .*|(\S+: )?\d+ [a-z ]+ (and not the \d+ asked for: |of \d+ prompts? with answers ).*)"
)
ANSWERS = ("type=transformers", "max_tokens=12", "shard=8")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, prompts, demonstrations, preferences and a scoring function."""
    folder = tmp_path_factory.mktemp("ours")
    make_loop(folder, folder / "no-server")
    pairs = [{"prompt": f"Where is parcel {n}?", "chosen": "thank you", "rejected": "late late"} for n in range(12)]
    write_jsonl(folder / "pairs.jsonl", pairs)
    return folder


@pytest.fixture(scope="module")
def answers(ours: Path) -> Path:
    """Candidates of the tiny model."""
    align("rollout", "--model", "model", "--prompts", "prompts.jsonl", "--out", "answers", *ANSWERS, cwd=ours)
    return ours / "answers" / "candidates.jsonl"


def json_of(*arguments: str | Path, cwd: Path, expect: int = 0, env: dict[str, str] | None = None) -> Any:
    """What a verb prints with `--json`: nothing else on standard output, nothing of libraries on standard error."""
    done = align(*arguments, "--json", cwd=cwd, expect=expect, env=env)
    strange = [line for line in done.stderr.splitlines() if not OURS.fullmatch(line)]
    assert strange == [], strange
    return json.loads(done.stdout)


def test_train_sample_and_compare_on_files_of_ones_own(ours: Path, answers: Path) -> None:
    trained = json_of(
        "sft", "--model", "model", "--demonstrations", "demonstrations.jsonl", "--out", "sft", "--threads", "1",
        "learning_rate=3e-3", "epochs=4", cwd=ours,
    )  # fmt: skip
    assert trained["out"] == "sft"
    assert trained["rows"] == 40
    assert trained["train_loss_last"] < trained["train_loss_first"]
    preferred = json_of(
        "dpo", "--model", "sft", "--preferences", "pairs.jsonl", "--out", "dpo", "--threads", "1",
        "learning_rate=3e-3", "epochs=4", "batch_size=4", cwd=ours,
    )  # fmt: skip
    assert (preferred["rows"], preferred["dropped"]) == (12, {})
    assert preferred["step0_logp_difference"] < 1e-4
    for name in ("sft", "dpo"):
        load_model(ours / name, "float32")
        assert not [p for p in (ours / name).rglob("*") if p.suffix in (".bin", ".pt", ".pkl") or "work" in p.parts]
        assert not list(ours.glob(f"{name}.*"))
        assert "step" not in (ours / name / "logs" / "printed.log").read_text()
    assert len({checkpoint_id(ours / name) for name in ("model", "sft", "dpo")}) == 3
    sampled = json_of(
        "rollout", "--model", "dpo", "--prompts", "prompts.jsonl", "--out", "of-dpo", "--keep-all", *ANSWERS,
        "samples=1", "temperature=0", cwd=ours,
    )  # fmt: skip
    assert sampled == {"prompts": 40, "candidates": 40, "dropped": 0, "out": "of-dpo"}
    compared = json_of(
        "eval", "--candidates", "of-dpo/candidates.jsonl", "--against", answers, "--judge", "score.py:score",
        "--out", "compared", cwd=ours,
    )  # fmt: skip
    found = compared["win_rate"]
    assert found["clusters"] + found["dropped"] == 40
    assert found["n"] == len(list(read_rows(answers)))
    assert json.loads((ours / "compared" / "result.json").read_text()) | {"out": "compared"} == compared


def test_answers_of_others_are_compared_on_shared_prompts_and_without_counts(ours: Path) -> None:
    words = ["a", "bb", "ccc", "dddd", "eeeee"]
    write_jsonl(ours / "new.jsonl", [{"prompt": f"p{n}", "text": text + "x"} for n, text in enumerate(words)])
    write_jsonl(ours / "old.jsonl", [{"prompt": f"p{n}", "text": text} for n, text in enumerate(words[:3])])
    found = json_of(
        "eval", "--candidates", "new.jsonl", "--against", "old.jsonl", "--judge", "score.py:score", "--out", "others",
        cwd=ours,
    )  # fmt: skip
    assert (found["win_rate"]["mean"], found["win_rate"]["n"], found["win_rate"]["dropped"]) == (1.0, 3, 2)
    assert "mean_tokens" not in found, "nobody counted them"
    short = (
        "eval",
        "--candidates",
        "new.jsonl",
        "--judge",
        "{type: length, high: 3, unit: characters}",
        "--out",
        "short",
    )
    assert json_of(*short, cwd=ours)["mean_score"]["mean"] == 0.4
    write_jsonl(ours / "strange.jsonl", [{"prompt": f"q{n}", "text": "a"} for n in range(3)])
    arguments = ("eval", "--candidates", "new.jsonl", "--against", "strange.jsonl", "--judge", "score.py:score")
    for _ in range(2):  # the second call meets what the first one left
        done = align(*arguments, "--out", "none-shared", cwd=ours, expect=2)
        assert done.stderr == ("align: the 5 prompts of the one policy and the 3 of the other have none in common\n")
    assert not (ours / "none-shared").exists()


def test_a_killed_rollout_goes_on_and_ends_with_the_same_answers(ours: Path, answers: Path) -> None:
    verb = ["rollout", "--model", "model", "--prompts", "prompts.jsonl", "--out", "killed", *ANSWERS]
    process = subprocess.Popen([sys.executable, "-m", "align", *verb], cwd=ours, stderr=subprocess.DEVNULL)
    shards = ours / "killed.work" / "shards"
    while process.poll() is None and not list(shards.glob("*/00001.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was to be killed in the middle"
    made = {p: p.stat().st_mtime_ns for p in shards.glob("*/0*.parquet")}
    assert 2 <= len(made) < 5
    (ours / "killed.partial" / "candidates.jsonl").write_text("of another attempt")
    align(*verb, cwd=ours)
    assert (ours / "killed" / "candidates.jsonl").read_bytes() == answers.read_bytes()
    assert not list(ours.glob("killed.*"))


def test_two_models_at_two_temperatures_in_one_call(ours: Path) -> None:
    make_tiny_model(ours / "other", seed=1)
    verb = ("rollout", "--model", "model", "--prompts", "prompts.jsonl", *ANSWERS, "samples=3")
    mixture = "mixture=[{share: 2}, {checkpoint: sft, temperature: 0.5}]"
    done = align(*verb, "--out", "mixed", mixture, cwd=ours, expect=2)
    assert "the mixture has answers of `sft`, and no such model is given; name it with --sft" in done.stderr
    told = json_of(
        *verb, "--sft", "other", "--out", "mixed", "--keep-all", mixture, "logprobs=true", "--reward", "score.py:score",
        "keep=best", cwd=ours,
    )  # fmt: skip
    kept = read_table(ours / "mixed" / "tokens.parquet").to_pylist()
    kinds = [k["checkpoint"] for k in kept]
    assert kinds == [kinds[0], kinds[0], kinds[2]] * told["prompts"]
    assert kinds[0] != kinds[2]
    assert all(len(k["logprobs"]) == len(k["token_ids"]) and max(k["logprobs"]) <= 0 for k in kept)
    best = [row for _, row in read_rows(ours / "mixed" / "candidates.jsonl")]
    assert (len(best), len({row["prompt_id"] for row in best})) == (told["candidates"], told["prompts"])
    for row in best:
        assert row["temperature"] == (1.0 if row["checkpoint"] == kinds[0] else 0.5)
    rejected = [row["reason"] for _, row in read_rows(ours / "mixed" / "dropped.jsonl")]
    assert len(rejected) == 2 * told["prompts"]
    assert all(re.fullmatch(r"sample \d has a higher score, or came first", reason) for reason in rejected)


def test_pairs_of_a_file_train_on_the_tokens_that_rollout_drew(ours: Path, answers: Path) -> None:
    by_prompt: dict[str, list[Any]] = {}
    for _, row in read_rows(answers):
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    pairs = [
        {"prompt": one["messages"], "chosen": one["text"], "rejected": other["text"]}
        for one, other in (two for two in by_prompt.values() if len(two) == 2)
    ]
    write_jsonl(ours / "drawn.jsonl", pairs)
    verb = ("dpo", "--model", "model", "--preferences", "drawn.jsonl", "--threads", "1", "batch_size=8")
    told = json_of(*verb, "--rollouts", "answers", "--out", "as-drawn", cwd=ours)
    assert told["answers"]["as_sampled"] > told["answers"]["encoded"]
    assert json_of(*verb, "--out", "as-written", cwd=ours)["answers"]["as_sampled"] == 0
    done = align(*verb, "--rollouts", "session-of-nobody", "--out", "no", cwd=ours, expect=2)
    assert "there is no tokens.parquet" in done.stderr


def label(folder: Path, key: str, outcomes: list[str]) -> None:
    """A person answers the first tasks of a folder."""
    session = open_session(folder)
    pairs = zip(session.tasks, outcomes, strict=False)
    open_backend(session).answer(key, [Answer(task.id, outcome) for task, outcome in pairs])


def test_people_label_ones_own_candidates(ours: Path, answers: Path, argilla_server: ArgillaServer) -> None:
    person, key = f"ann-{secrets.token_hex(3)}", ""
    push = ("annotate", "push", "session", "--candidates", answers, "--tasks", "6", "--home", argilla_server.home)
    first = json_of(*push, cwd=ours)
    assert (first["added"], first["present"]) == (6, 0)
    again = json_of(*push, cwd=ours)
    assert (again["added"], again["present"], again["url"]) == (0, 6, first["url"])
    other = align(*push, "--seed", "1", cwd=ours, expect=2)
    assert "was not made from these candidates with these options" in other.stderr
    session = open_session(ours / "session")
    _, key = add_annotator(argilla_server, person, session.workspace)
    label(ours / "session", key, ["a", "b", "skipped", "tie"])
    state = json_of("annotate", "status", "session", cwd=ours)
    assert (state["tasks"], state["answers"], state["closed"]) == (6, 3, None)
    assert [by_name(state)[person][what] for what in ("submitted", "skipped")] == [3, 1]
    pulled = json_of("annotate", "pull", "session", cwd=ours)
    assert (pulled["new"], pulled["judgements"]) == (4, 4)
    assert json_of("annotate", "pull", "session", cwd=ours)["new"] == 0
    preferences = [row for _, row in read_rows(ours / "session" / "preferences.jsonl")]
    assert len(preferences) == pulled["preferences"]
    texts = {task.id: task.texts for task in session.tasks}
    assert {(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in preferences} >= {
        tuple(texts[session.tasks[0].id]),
        tuple(reversed(texts[session.tasks[1].id])),
    }
    assert json_of("annotate", "close", "session", cwd=ours)["state"] == "closed"
    assert json_of("annotate", "status", "session", cwd=ours)["closed"] == "closed by `align annotate close`"
    assert json_of("annotate", "reopen", "session", cwd=ours)["state"] == "open"
    assert json_of("annotate", "status", "session", cwd=ours)["closed"] is None
    assert len(load_preferences(ours / "session" / "preferences.jsonl")[0]) == pulled["preferences"], (
        "`align dpo` takes it"
    )


WATCH = """
import os, sys
def watch(event, arguments):
    if event == "socket.connect" or event == "import" and arguments[0].split(".")[0] == "argilla":
        with open(os.environ["WATCHED"], "a") as file:
            print(event, *arguments[:2], file=file)
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def from_file(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with preferences from a file, in a world without any Argilla; returns its recipe."""
    folder = tmp_path_factory.mktemp("from-file")
    pairs = {"from": str(ours / "pairs.jsonl")}
    recipe = make_loop(folder, folder / "no-server", preferences=pairs, annotate=None, sft=None)
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    world = {
        "PYTHONPATH": f"{folder / 'watch'}:{os.environ.get('PYTHONPATH', '')}",
        "WATCHED": str(folder / "watched.log"),
        "XDG_DATA_HOME": str(folder / "data"),
        "ALIGN_SERVER_ENV": str(folder / "no-environment"),
    }
    found = json_of("run", recipe, cwd=folder, env=world)
    assert found["state"] == "finished"
    return recipe


def test_preferences_from_a_file_need_no_argilla(from_file: Path) -> None:
    folder = from_file.parent
    assert not (folder / "watched.log").exists(), (folder / "watched.log").read_text()
    assert not (folder / "data").exists()
    assert not (folder / "no-server").exists()
    data = json_of("report", "runs/loop", cwd=folder)
    assert data["labels_from"] == "file"
    assert data["rounds"][0]["preferences"] == 12
    assert data["rounds"][0]["win_rate_vs_sft"]["n"] > 0


def test_every_verb_prints_json_alone(from_file: Path, tmp_path: Path) -> None:
    folder = from_file.parent
    assert json_of("status", "runs/loop", cwd=folder)["state"] == "finished"
    assert json_of("run", from_file, cwd=folder)["report"] == "runs/loop/report.html"
    plan = json_of("run", from_file, "--dry-run", cwd=folder)
    assert [entry["stage"] for entry in plan][-3:] == ["1/preferences", "1/policy", "1/evaluation"]
    assert json_of("clean", "runs/loop", cwd=folder) == []
    policy = current(folder / "runs" / "loop", Ref(1, "policy"))
    assert policy is not None
    traced = json_of("lineage", "runs/loop", policy.summary["checkpoint"], cwd=folder)
    assert (traced["kind"], len(traced["from"]["preferences"])) == ("checkpoint", 12)
    assert json_of("init", "own-model", "mine", cwd=tmp_path) == {"recipe": "mine/recipe.yaml"}
    assert (tmp_path / "mine" / "recipe.yaml").is_file()


def test_a_stage_done_anew_and_what_clean_removes(from_file: Path) -> None:
    folder, run = from_file.parent, from_file.parent / "runs" / "loop"
    before = {name: folder_id(run / "round_001" / name / key(run, 1, name)) for name in ("policy", "evaluation")}
    plan = {
        entry["stage"]: entry["state"]
        for entry in json_of("run", from_file, "--dry-run", "--from", "1/policy", cwd=folder)
    }
    assert [stage for stage, state in plan.items() if state == "to run"] == ["1/policy", "1/evaluation"]
    done = align("run", from_file, "--from", "1/policy", cwd=folder)
    assert [line for line in done.stderr.splitlines() if line.endswith(": start")] == [
        "1/policy: start",
        "1/evaluation: start",
    ]
    after = {name: folder_id(run / "round_001" / name / key(run, 1, name)) for name in ("policy", "evaluation")}
    assert after == before, "the same inputs give the same bytes"
    archived = json_of("clean", run, cwd=folder)
    assert sorted(Path(row["path"]).parent.name for row in archived) == ["evaluation", "policy"]
    assert all(Path(folder / row["path"]).is_dir() and not row["removed"] for row in archived)
    removed = json_of("clean", run, "--yes", cwd=folder)
    assert [row["path"] for row in removed] == [row["path"] for row in archived]
    assert not [row for row in removed if Path(folder / row["path"]).exists()]
    assert align("run", from_file, cwd=folder).stdout.startswith("nothing to do")


def key(run: Path, round: int, stage: str) -> str:
    receipt = current(run, Ref(round, stage))
    assert receipt is not None
    return receipt.key


def test_waiting_for_people_closing_and_reopening(tmp_path: Path, argilla_server: ArgillaServer) -> None:
    """The run waits with 75, goes on when it is closed, and makes a new snapshot when it is reopened."""
    by = {"server": {"type": "embedded", "home": str(argilla_server.home)}, "by": "people", "tasks": 8}
    recipe = make_loop(tmp_path, argilla_server.home, name=f"people-{secrets.token_hex(3)}", annotate=by, sft=None)
    run = tmp_path / "runs" / json.loads(recipe.read_text())["name"]
    waiting = align("run", recipe, "--json", cwd=tmp_path, expect=75)
    assert json.loads(waiting.stdout)["state"] == "waiting"
    assert "waiting for labels: 0 of 8 answers are in; label at http://127.0.0.1:" in waiting.stderr
    assert align("run", recipe, cwd=tmp_path, expect=75).stdout, "and again"
    plan = {e["stage"]: e["state"] for e in json_of("run", recipe, "--dry-run", cwd=tmp_path)}
    assert (plan["1/tasks"], plan["1/labelling"], plan["1/policy"]) == ("done", "waiting for labels", "to run")
    _, person = add_annotator(argilla_server, f"ann-{secrets.token_hex(3)}", open_session(run).workspace)
    label(run, person, ["a", "b", "a"])
    with follower(recipe) as following:  # closing works while `--wait` holds the run
        assert json_of("annotate", "close", run, cwd=tmp_path)["state"] == "closed"
        following.communicate(timeout=200)
        assert following.returncode == 0
    first = current(run, Ref(1, "snapshot"))
    assert first is not None and first.summary["labels"] == 3
    align("annotate", "reopen", run, cwd=tmp_path)
    align("run", recipe, cwd=tmp_path, expect=75)
    label(run, person, ["a", "b", "a", "b", "a", "b", "a", "b"])
    done = align("run", recipe, "--from", "1/rollouts", cwd=tmp_path)
    assert "1/rollouts: start" in done.stderr
    assert "1/labelling: closed, 8 of 8 tasks have their answers" in done.stderr
    second = current(run, Ref(1, "snapshot"))
    assert second is not None and second.summary["labels"] == 8, "labels are kept when answers are sampled again"
    assert len(said(run)) == 8
    found = json_of("samples", run, cwd=tmp_path)
    assert all(set(entry) == {"round", "prompt_id", "messages", "answers", "labels"} for entry in found)


class follower:  # noqa: N801 - used as a statement
    """`align run --wait`, from the moment it follows the labelling."""

    def __init__(self, recipe: Path) -> None:
        command = [sys.executable, "-m", "align", "run", str(recipe), "--wait"]
        self.process = subprocess.Popen(
            command, cwd=recipe.parent, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> subprocess.Popen[str]:
        assert self.process.stderr is not None
        while "answers; label at" not in self.process.stderr.readline():
            assert self.process.poll() is None
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
