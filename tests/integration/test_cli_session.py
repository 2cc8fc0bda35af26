"""The lead's side of labelling, through the command line and the real server: status, watch, pull, export, forget."""

import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.errors import ServiceError
from align.labelling.session import open_backend
from align.provenance.forget import wish, write_tombstones
from align.stages.sessions import open_session
from align.store import read_rows
from annotation.backend import Answer
from annotation.journal import read_journal
from tests.integration.test_cli_stages import json_of
from tests.loop import align, by_name, write_jsonl
from tests.server_fixtures import ArgillaServer, add_annotator

pytestmark = pytest.mark.slow
TASKS = 6


@pytest.fixture
def asked(tmp_path: Path, argilla_server: ArgillaServer) -> tuple[Path, dict[str, str]]:
    """A session of six pairs for two people each, and its annotators' keys by name."""
    rows = [{"prompt": f"question {n}", "text": f"{word} {n}"} for n in range(TASKS) for word in ("good", "bad")]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    folder = tmp_path / f"session-{secrets.token_hex(3)}"
    options = ("--candidates", "candidates.jsonl", "--overlap", "2", "--home", argilla_server.home)
    json_of("annotate", "push", folder.name, *options, cwd=tmp_path)
    workspace = open_session(folder).workspace
    names = [f"{name}-{secrets.token_hex(3)}" for name in ("ann", "bob")]
    return folder, {name: add_annotator(argilla_server, name, workspace)[1] for name in names}


def label(folder: Path, key: str, outcomes: list[str]) -> None:
    session = open_session(folder)
    open_backend(session).answer(key, [Answer(t.id, o) for t, o in zip(session.tasks, outcomes, strict=False)])


def test_status_says_how_each_annotator_gets_on(asked: tuple[Path, dict[str, str]]) -> None:
    folder, keys = asked
    ann, bob = keys
    empty = json_of("annotate", "status", folder, cwd=folder.parent)
    assert all(by_name(empty)[name]["submitted"] == 0 for name in keys)
    reason = "the pace of those who have something left to do is not known yet"
    assert empty["left"] == {"answers": 12, "nobody": 0, "hours": None, "people": 0, "reason": reason}
    assert "–" in align("annotate", "status", folder, cwd=folder.parent).stdout
    label(folder, keys[ann], ["a", "b", "tie", "a", "b"])
    label(folder, keys[bob], ["a", "b", "a", "skipped"])
    found = json_of("annotate", "status", folder, cwd=folder.parent)
    assert (found["answers"], found["wanted"], found["completed"], found["tasks"]) == (8, 12, 3, 6)
    people = by_name(found)
    assert {n: (people[n]["submitted"], people[n]["skipped"]) for n in keys} == {ann: (5, 0), bob: (3, 1)}
    assert people[bob]["agreement"]["value"] == pytest.approx(2 / 3)
    assert people[bob]["agreement"]["n"] == 3
    said = [t.shown[0] == "ab".index(o) for t, o in zip(open_session(folder).tasks, "abxab", strict=False) if o != "x"]
    assert people[ann]["left"]["value"] == sum(said) / 4
    assert people[ann]["gold"]["value"] is None
    assert people[ann]["consistency"]["value"] is None
    # ann answered one that bob skipped; whoever else has an account here may still be asked about it
    assert found["left"]["answers"] + found["left"]["nobody"] == 4
    [note] = found["notes"]
    assert note.startswith(
        "Only 3 tasks were judged twice or had a known answer, so how far to trust people who labelled is known but roughly"
    )
    text = align("annotate", "status", folder, cwd=folder.parent).stdout
    assert text.startswith("3 of 6 tasks are complete; 8 of 12 answers are in; ")
    assert "time left: " in text.splitlines()[0]
    assert "0.67 [" in text and note in text


def test_watch_follows_until_it_is_closed(asked: tuple[Path, dict[str, str]]) -> None:
    folder, keys = asked
    command = [sys.executable, "-m", "align", "annotate", "watch", str(folder), "--every", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("0 of 6 tasks are complete; 0 of 12 answers are in; time left: unk")
        for number, key in enumerate(keys.values(), 1):
            label(folder, key, ["a"] * TASKS)
            line = process.stdout.readline()
            while f"{TASKS * number} of 12" not in line:  # a look in the middle of the six
                assert line.startswith("0 of 6") or " answers are in" in line, line
                line = process.stdout.readline()
        assert process.stdout.read() == f"no task is open; `align annotate pull {folder}` fetches the judgements\n"
        assert process.wait(timeout=30) == 0
    align("annotate", "close", folder, cwd=folder.parent)
    done = align("annotate", "watch", folder, cwd=folder.parent)
    assert done.stdout.splitlines()[-1] == "closed: closed by `align annotate close`"


def test_pull_export_and_forget(asked: tuple[Path, dict[str, str]]) -> None:
    folder, keys = asked
    (ann, first), (bob, second) = keys.items()
    label(folder, first, ["a"] * TASKS)
    label(folder, second, ["a"] * 5)
    pulled = json_of("annotate", "pull", folder, cwd=folder.parent)
    assert (pulled["new"], pulled["judgements"], pulled["preferences"]) == (11, 11, 6)
    assert pulled["notes"][0].startswith("Only 5 tasks were judged twice")
    files = {p.name for p in folder.glob("*.jsonl")} - {"tasks_dropped.jsonl", "journal.jsonl"}
    assert files == {f"{n}.jsonl" for n in ("judgements", "preferences", "binary", "demonstrations", "dropped")}
    made = json_of("annotate", "export", folder, "--out", "shared", cwd=folder.parent)
    assert made == {"judgements": 11, "preferences": 6, "out": "shared"} | {
        k: v for k, v in made.items() if k == "binary"
    }
    assert ann not in "".join(p.read_text(errors="replace") for p in (folder.parent / "shared").rglob("*.md"))

    would = json_of("forget", folder, "--annotator", bob, cwd=folder.parent)
    assert (would["name"], would["forgotten"], len(would["judgements"])) == (bob, False, 5)
    assert not read_journal(folder / "journal.jsonl").forgotten
    assert "add --yes to forget" in align("forget", folder, "--annotator", bob, cwd=folder.parent).stdout
    done = json_of("forget", folder, "--annotator", bob, "--yes", cwd=folder.parent)
    assert (done["forgotten"], done["judgements"]) == (True, would["judgements"])
    assert {row["name"] for _, row in read_rows(folder / "judgements.jsonl")} == {ann}
    assert done["withdrawn"] == 5
    with pytest.raises(ServiceError, match="refused an answer"):
        label(folder, second, ["b"])
    assert json_of("annotate", "push", folder, cwd=folder.parent)["present"] == TASKS
    state = json_of("annotate", "status", folder, cwd=folder.parent)
    assert state["answers"] == TASKS, "others are asked again"
    assert by_name(state)[ann]["submitted"] == TASKS
    assert bob not in by_name(state)
    mistake = align("forget", folder, "--annotator", "nobody-here", "--yes", cwd=folder.parent, expect=2)
    assert "'nobody-here' has said nothing here" in mistake.stderr

    prompt = open_session(folder).tasks[0].prompt_id
    gone = json_of("forget", folder, "--prompt", prompt[:10], "--yes", cwd=folder.parent)
    assert (gone["prompt"], len(gone["judgements"]), gone["withdrawn"]) == (prompt, 1, 1)
    assert json_of("annotate", "push", folder, cwd=folder.parent)["present"] == TASKS - 1, "it is not asked again"
    assert json_of("annotate", "pull", folder, cwd=folder.parent)["judgements"] == TASKS - 1


def test_answers_that_stay_on_the_server_do_not_come_back(asked: tuple[Path, dict[str, str]]) -> None:
    """Forgotten where the server was not asked: what it still has, changed or not, is not taken in again."""
    folder, keys = asked
    bob, key = list(keys.items())[1]
    label(folder, key, ["a"] * 5)
    assert json_of("annotate", "pull", folder, cwd=folder.parent)["judgements"] == 5
    write_tombstones(wish(folder, annotator=bob))
    label(folder, key, ["b"] * TASKS)
    found = json_of("annotate", "pull", folder, cwd=folder.parent)
    assert (found["new"], found["judgements"]) == (0, 0)


def test_two_files_are_compared_blind(tmp_path: Path, argilla_server: ArgillaServer) -> None:
    for name, word in (("new", "good"), ("old", "bad")):
        rows = [{"prompt": f"question {n}", "text": f"{word} {n}" if n else "the same"} for n in range(TASKS)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    folder = tmp_path / f"blind-{secrets.token_hex(3)}"
    files = ("--candidates", "new.jsonl", "--against", "old.jsonl", "--home", argilla_server.home)
    assert json_of("annotate", "push", folder.name, *files, cwd=tmp_path)["added"] == TASKS - 1
    session = open_session(folder)
    _, key = add_annotator(argilla_server, f"ann-{secrets.token_hex(3)}", session.workspace)
    better = ["ab"[t.texts.index(next(x for x in t.texts if x.startswith("good")))] for t in session.tasks]
    worse = "ab"["ba".index(better[3])]
    label(folder, key, [*better[:3], worse, "both_bad"])
    won = json_of("annotate", "status", folder, cwd=tmp_path)["win_rate"]
    assert (won["mean"], won["wins"], won["ties"], won["losses"]) == (pytest.approx((3 + 0.5 + 0.5) / 6), 3, 2, 1)
    assert (won["same"], won["both_bad"], won["clusters"]) == (1, 1, 6)
    said = align("annotate", "pull", folder, cwd=tmp_path).stdout
    assert "0 preferences" in said, "what tests a model is not trained on"
    assert f"win rate of --candidates over --against: 0.67 [{won['low']:.2f}, {won['high']:.2f}]" in said


@pytest.mark.parametrize(
    ("options", "answer", "kept"),
    [
        (("--kind", "rank", "--rank-of", "3"), {"outcome": "ranked", "ranking": [2, 1, 3]}, "preferences"),
        (("--kind", "rating", "--criteria", "helpful,correct"), {"outcome": "rated"}, "binary"),
        (("--kind", "single", "--ask", "nothing", "--repeats", "0.5"), {"outcome": "good"}, "binary"),
    ],
)
def test_other_kinds_from_a_file(
    tmp_path: Path, argilla_server: ArgillaServer, options: tuple[str, ...], answer: dict[str, Any], kept: str
) -> None:
    rows = [{"prompt": f"question {n}", "text": f"{word} {n}"} for n in range(4) for word in ("good", "fair", "bad")]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    folder = tmp_path / f"kind-{secrets.token_hex(3)}"
    files = ("--candidates", "candidates.jsonl", "--home", argilla_server.home)
    added = json_of("annotate", "push", folder.name, *files, *options, cwd=tmp_path)["added"]
    session = open_session(folder)
    assert added == len(session.tasks) == {"rank": 4, "rating": 12, "single": 18}[options[1]]
    _, key = add_annotator(argilla_server, f"ann-{secrets.token_hex(3)}", session.workspace)
    if answer["outcome"] == "rated":
        answer["ratings"] = [{"criterion": name, "score": 5} for name in ("helpful", "correct")]
    open_backend(session).answer(key, [Answer(t.id, **answer) for t in session.tasks])
    pulled = json_of("annotate", "pull", folder, cwd=tmp_path)
    assert pulled["judgements"] == added
    assert pulled[kept] > 0
