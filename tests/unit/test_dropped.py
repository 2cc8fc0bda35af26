"""Where most of what was given goes no further, or less is made than was asked for, that is said at once."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from align.cli.command_output import command_output
from align.cli.push import _settings
from align.config.recipe import Annotate
from align.data.binary import load_binary
from align.data.preferences import load_preferences
from align.data.prompts import read_prompts
from align.dropped import mostly_dropped, reasons_text
from align.labelling.folder import make_session
from align.labelling.tasks import ask
from align.pipeline.stage import Job
from align.stages import data, labels
from align.stages.stage_io import note_of
from align.store import write_table
from align.train.examples import require_rows
from align.types import Candidate, Dropped, Prompt, to_table
from tests.labelling import make_candidate, make_prompt, world


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_reasons_with_counts_and_the_way_out_of_the_most_frequent() -> None:
    long = {"longer than max_tokens (64)": 856, "the answer is empty": 1}
    assert mostly_dropped("demonstration", 172, long) == (
        "857 of 1,029 demonstrations were dropped: 856 × longer than max_tokens (64), 1 × the answer is empty; "
        "raise max_tokens, or give shorter rows"
    )
    assert mostly_dropped("demonstration", 857, long) is None
    assert mostly_dropped("answer", 1, {"the same answer as sample 0": 2}) == (
        "2 of 3 answers were dropped: 2 × the same answer as sample 0; raise the temperature, or max_resamples"
    )
    assert reasons_text({"a": 1, "b": 5, "c": 4, "d": 3, "e": 2, "f": 2}) == (
        "5 × b, 4 × c, 3 × d, 2 × e, 3 for other reasons"
    )


@pytest.mark.parametrize(
    ("load", "row", "what"),
    [
        (read_prompts, {"prompt": "a"}, "prompt"),
        (load_preferences, {"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        (load_binary, {"prompt": "a", "completion": "b", "label": True}, "binary label"),
    ],
)
def test_a_file_that_is_mostly_duplicates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, load: Any, row: Any, what: str
) -> None:
    load(write(tmp_path / "rows.jsonl", [row] * 2))
    assert said(caplog) == []
    load(write(tmp_path / "rows.jsonl", [row] * 3))
    assert said(caplog) == [
        f"rows.jsonl: 2 of 3 {what}s were dropped: 2 × duplicate; give other rows, or take the repeated ones out of the file"
    ]


def test_training_says_before_it_begins_that_most_rows_are_too_long(caplog: pytest.LogCaptureFixture) -> None:
    require_rows(
        [1], [Dropped("binary label", "t", "longer than the model's context (512 tokens)")] * 2, "binary label"
    )
    assert said(caplog) == [
        "2 of 3 binary labels were dropped: 2 × longer than the model's context (512 tokens); give shorter rows, or take a "
        "model with a longer context (dropped.parquet names each)"
    ]
    assert note_of("row", {"rows": 2, "dropped": {"the answer is empty": 2}}) == {}
    assert note_of("row", {"rows": 2, "dropped": {"the answer is empty": 3}}) == {
        "notes": [
            "3 of 5 rows were dropped: 3 × the answer is empty; docs/files.md lists the reasons "
            "(dropped.parquet of the stage names each)"
        ]
    }


def job_of(folder: Path, prompts: list[Prompt], **given: Any) -> Job:
    """A stage's job with the run's prompts among its inputs."""
    for name in ("prompts", "out"):
        (folder / name).mkdir()
    write_table(folder / "prompts" / "prompts.parquet", to_table(Prompt, prompts))
    inputs = {"prompts": folder / "prompts", **given.pop("inputs", {})}
    return Job(1, "any", inputs, given.pop("settings", {}), given, folder / "out")


@pytest.mark.parametrize("kind", ["preference", "binary label", "demonstration"])
def test_a_run_says_that_most_rows_are_held_out(tmp_path: Path, kind: str) -> None:
    row = {"chosen": "b", "rejected": "c", "completion": "b", "label": True}
    rows = write(tmp_path / "rows.jsonl", [{"prompt": text, **row} for text in ("a", "b", "c")])
    stage = {
        "preference": labels.given_preferences,
        "binary label": labels.given_binary,
        "demonstration": data.demonstrations,
    }
    held_out = [make_prompt(text, split="test") for text in ("a", "b")]
    job = job_of(tmp_path, held_out, path=str(rows), mix=[])
    assert stage[kind](job, lambda done, total: None)["notes"] == [
        f"2 of 3 {kind}s were dropped: 2 × held out; give rows about other prompts, or lower prompts.test_share "
        "(dropped.parquet of the stage names each)"
    ]


def of_48_prompts() -> tuple[list[Prompt], list[Candidate]]:
    """Two answers to each; on 32 of them they read the same."""
    prompts, _ = world(48)
    same = [(p, ("yes", "yes " if n < 32 else "no")) for n, p in enumerate(prompts)]
    return prompts, [make_candidate(p, text, k) for p, texts in same for k, text in enumerate(texts)]


def test_fewer_tasks_than_asked_for() -> None:
    note = (
        "16 pairs and not the 24 asked for: 48 prompts with answers give no more (32 × all its answers are the same); "
        "raise rollouts.prompts, rollouts.samples or rollouts.temperature, or lower annotate.tasks"
    )
    assert ask(*of_48_prompts(), Annotate(tasks=24), round=1, seed=0).notes == [note]
    assert ask(*of_48_prompts(), Annotate(tasks=16), round=1, seed=0).notes == []


def test_fewer_control_items_than_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "gold.jsonl", [{"prompt": f"g{n}", "chosen": "b", "rejected": "c"} for n in range(2)])
    for share, notes in (
        (0.2, []),
        (0.3, [f"{path}: 2 control items and not the 3 asked for; give more pairs, or lower annotate.gold.share "
               "(--gold-share)"]),
    ):  # fmt: skip
        annotate = Annotate.model_validate({"tasks": 10, "gold": {"path": str(path), "share": share}})
        assert ask(*world(10), annotate, round=1, seed=0).notes == notes


def test_a_run_tells_it_after_the_selection(tmp_path: Path) -> None:
    prompts, candidates = of_48_prompts()
    write_table(tmp_path / "candidates.parquet", to_table(Candidate, candidates))
    settings = {"asked": {"tasks": 24}, "shares": {}, "seed": 0}
    job = job_of(tmp_path, prompts, inputs={"rollouts": tmp_path}, settings=settings)
    summary = labels.tasks(job, lambda done, total: None)
    assert summary["tasks"] == 16
    assert [note[:33] for note in summary["notes"]] == ["16 pairs and not the 24 asked for"]


def test_a_session_tells_it_with_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "c.jsonl", [{"prompt": f"q{n}", "text": text} for n in range(3) for text in "ab"[: n + 1]])
    make_session(tmp_path / "session", path, Annotate(tasks=5), seed=0)
    assert said(caplog) == [
        f"{path}: 2 pairs and not the 5 asked for: 3 prompts with answers give no more (1 × it has only one answer); "
        "give more prompts or more different answers to each, or lower --tasks"
    ]


def test_a_default_is_not_what_somebody_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It said "6 pairs and not the 256 asked for" of a push without --tasks."""
    path = write(tmp_path / "c.jsonl", [{"prompt": f"q{n}", "text": text} for n in range(6) for text in "ab"])
    gold = write(tmp_path / "gold.jsonl", [{"prompt": "g", "chosen": "yes", "rejected": "no"}])
    settings = _settings({"gold": gold}, None, None)
    assert "tasks" not in settings.model_fields_set
    make_session(tmp_path / "session", path, settings, seed=0)
    new = write(tmp_path / "new.jsonl", [{"prompt": f"q{n}", "text": "same" if n else "new"} for n in range(6)])
    old = write(tmp_path / "old.jsonl", [{"prompt": f"q{n}", "text": "same" if n else "old"} for n in range(6)])
    make_session(tmp_path / "blind", new, _settings({}, None, None), seed=0, against=old)
    assert said(caplog) == []
    alike = write(tmp_path / "alike.jsonl", [{"prompt": f"q{n}", "text": t} for n in range(3) for t in "ab"[: n + 1]])
    make_session(tmp_path / "more", alike, _settings({}, None, None), seed=0)
    assert said(caplog) == [f"{alike}: 2 pairs of 3 prompts with answers (1 × it has only one answer)"]


def test_blind_comparisons_that_are_ties_are_not_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    new = write(tmp_path / "new.jsonl", [{"prompt": f"q{n}", "text": "same" if n < 2 else "new"} for n in range(6)])
    old = write(tmp_path / "old.jsonl", [{"prompt": f"q{n}", "text": "same" if n < 2 else "old"} for n in range(6)])
    make_session(tmp_path / "six", new, Annotate(tasks=6), seed=0, against=old)
    assert said(caplog) == []
    make_session(tmp_path / "nine", new, Annotate(tasks=9), seed=0, against=old)
    assert said(caplog) == [
        "4 blind comparisons and not the 9 asked for: 6 prompts with answers give no more "
        "(2 × both answers are the same, a tie); give more prompts that both files answer, or lower --tasks"
    ]


def test_a_verb_says_what_we_warn_of_at_once_and_keeps_it_in_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with command_output(tmp_path / "out", 1):
        logging.getLogger("align.train.examples").warning("8 of 12 preferences were dropped: \x1b[31m")
        logging.getLogger("transformers").warning("for the log")
        assert capfd.readouterr().err == "8 of 12 preferences were dropped: \\x1b[31m\n"
    assert "8 of 12 preferences" in (tmp_path / "out" / "logs" / "printed.log").read_text()
    logging.getLogger("align.train.examples").warning("afterwards as ever")
    assert "12 preferences" not in capfd.readouterr().err
