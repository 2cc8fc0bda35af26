"""Lineage over what is compiled from other kinds of tasks than pairs."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from align.ids import content_id, with_check
from align.pipeline.receipts import Receipt, current, partial_folder, point_to, publish_stage, stage_folder
from align.pipeline.stage import Declaration, Ref, Stage
from align.provenance.lineage import trace
from align.store import read_json, write_json, write_table
from align.types import Judgement, Prompt, Task, to_table
from annotation.compile import compile_labels
from tests.labelling import judge, make_task


def publish(run: Path, round: int, stage: str, **tables: pa.Table) -> None:
    """A published stage of these files."""
    for name, table in tables.items():
        write_table(partial_folder(run, Ref(round, stage), content_id(stage)) / f"{name}.parquet", table)
    publish_stage(
        run,
        Stage(Ref(round, stage), Declaration(stage, "")),
        content_id(stage),
        {},
        {},
        "2026-11-02",
        "2026-11-02",
        0.1,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One single task with a binary label, one blind comparison; ann corrects an answer."""
    write_json(tmp_path / "run.json", {"id": "r"})
    single = replace(make_task("t1", prompt="p1"), kind="single", candidates=["c1"], texts=["one"], shown=[0])
    blind = replace(make_task("t2", prompt="p2", purpose="eval", candidates=("c2", "c3")), kind="blind_ab")
    said = [
        replace(judge("t1", "ann", "bad"), kind="single", edit="better"),
        replace(judge("t1", "bob", "good"), kind="single"),
    ]
    compared = [replace(judge("t2", "ann", "a"), kind="blind_ab")]
    compiled = compile_labels(to_table(Task, [single]), to_table(Judgement, said))
    assert compiled.binary.num_rows == compiled.edits.num_rows == 1
    publish(tmp_path, 1, "tasks", tasks=to_table(Task, [single]))
    publish(tmp_path, 1, "snapshot", judgements=to_table(Judgement, said))
    tables = {name: getattr(compiled, name) for name in ("preferences", "binary", "edits")}
    publish(tmp_path, 1, "preferences", **tables)
    publish(tmp_path, 1, "blind", tasks=to_table(Task, [blind]))
    publish(tmp_path, 1, "blind_snapshot", judgements=to_table(Judgement, compared))
    return tmp_path


def test_binary_labels_edits_and_blind_comparisons_lead_to_their_annotators(run: Path) -> None:
    ann, bob = trace(run, "ann")["into"], trace(run, "bob")["into"]
    assert (len(ann["judgements"]), len(bob["judgements"])) == (2, 1)
    assert ann["binary labels"] == bob["binary labels"]
    assert len(ann["edits"]) == 1
    assert "edits" not in bob
    (label,) = bob["binary labels"]
    assert trace(run, label)["from"]["annotators"] == ["ann", "bob"]
    assert trace(run, label)["from"]["candidates"] == ["c1"]
    assert trace(run, ann["edits"][0])["from"]["annotators"] == ["ann"]
    assert trace(run, "c2")["into"]["tasks"] == ["t2"]


def model(run: Path, stage: str, checkpoint: str, inputs: dict[str, Receipt], **tables: pa.Table) -> Receipt:
    """A published model of round 1."""
    ref = Ref(1, stage)
    made = Stage(ref, Declaration(stage, ""), {name: receipt.ref for name, receipt in inputs.items()})
    write_json(partial_folder(run, ref, content_id(stage)) / "config.json", {"of": checkpoint})
    for name, table in tables.items():
        write_table(partial_folder(run, ref, content_id(stage)) / f"{name}.parquet", table)
    summary = {"checkpoint": checkpoint, "parent": "given"}
    return publish_stage(run, made, content_id(stage), inputs, summary, "2026-11-02", "2026-11-02", 0.1)


def test_a_policy_leads_back_to_the_reward_model_its_pairs_and_the_prompts_it_answered(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"id": "r"})
    compiled = compile_labels(
        to_table(Task, [make_task("t1", prompt="p1")]), to_table(Judgement, [judge("t1", "ann", "a")])
    )
    publish(tmp_path, 1, "snapshot", judgements=to_table(Judgement, [judge("t1", "ann", "a")]))
    publish(tmp_path, 1, "preferences", preferences=compiled.preferences)
    labels = current(tmp_path, Ref(1, "preferences"))
    assert labels is not None
    judged = model(tmp_path, "reward", "judge", {"preferences": labels})
    drawn = to_table(Prompt, [Prompt("p9", [{"role": "user", "content": "Hi"}], "train", "prompts.jsonl:1")])
    model(tmp_path, "policy", "new", {"reward": judged}, prompts=drawn)
    found = trace(tmp_path, "new")["from"]
    assert found["reward models"] == ["judge"]
    assert found["preferences"] == compiled.preferences["id"].to_pylist()
    assert found["prompts"] == ["p9"] and found["annotators"] == ["ann"] and found["checkpoints"] == ["given"]
    assert trace(tmp_path, "judge")["into"] == {"checkpoints": ["new"]}


def test_a_parent_done_anew_with_the_same_result_is_still_the_parent_when_the_old_folder_is_gone(
    tmp_path: Path,
) -> None:
    """As `align clean` leaves it: the receipt of the child names a key whose folder is removed."""
    write_json(tmp_path / "run.json", {"id": "r"})
    judged = model(tmp_path, "reward", "judge", {})
    model(tmp_path, "policy", "new", {"reward": judged})
    old = stage_folder(tmp_path, judged.ref) / judged.key
    again = old.with_name(content_id("another key"))
    shutil.copytree(old, again)
    receipt = {**read_json(again / "receipt.json"), "key": again.name}
    write_json(again / "receipt.json", with_check({n: v for n, v in receipt.items() if n != "check"}))
    point_to(tmp_path, judged.ref, again.name)
    shutil.rmtree(old)
    assert trace(tmp_path, "new")["from"] == {"reward models": ["judge"], "checkpoints": ["given"]}
