"""Lineage over what is compiled from other kinds of tasks than pairs."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from align.rounds.lineage import trace
from align.rounds.stage import Ref, Stage, partial_folder, seal
from align.store import write_json, write_table
from align.types import Judgement, Task, to_table
from annotation.compile import compile_labels
from tests.labelling import judge, make_task


def publish(run: Path, round: int, stage: str, **tables: pa.Table) -> None:
    """A published stage of these files."""
    for name, table in tables.items():
        write_table(partial_folder(run, Ref(round, stage), stage) / f"{name}.parquet", table)
    seal(run, Stage(Ref(round, stage), stage, 1), stage, {}, {}, "2026-11-02", "2026-11-02", 0.1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One single task with a thumb, one blind comparison; ann corrects an answer."""
    write_json(tmp_path / "run.json", {"id": "r"})
    single = replace(make_task("t1", prompt="p1"), kind="single", candidates=["c1"], texts=["one"], shown=[0])
    blind = replace(make_task("t2", prompt="p2", purpose="eval", candidates=("c2", "c3")), kind="blind_ab")
    said = [
        replace(judge("t1", "ann", "bad"), kind="single", edit="better"),
        replace(judge("t1", "bob", "good"), kind="single"),
    ]
    compared = [replace(judge("t2", "ann", "a"), kind="blind_ab")]
    compiled = compile_labels(to_table(Task, [single]), to_table(Judgement, said))
    assert compiled.thumbs.num_rows == compiled.edits.num_rows == 1
    publish(tmp_path, 1, "selection", tasks=to_table(Task, [single]))
    publish(tmp_path, 1, "snapshot", judgements=to_table(Judgement, said))
    tables = {name: getattr(compiled, name) for name in ("preferences", "thumbs", "edits")}
    publish(tmp_path, 1, "preferences", **tables)
    publish(tmp_path, 1, "blind", tasks=to_table(Task, [blind]))
    publish(tmp_path, 1, "blind_snapshot", judgements=to_table(Judgement, compared))
    return tmp_path


def test_thumbs_edits_and_blind_comparisons_lead_to_their_annotators(run: Path) -> None:
    ann, bob = trace(run, "ann")["into"], trace(run, "bob")["into"]
    assert (len(ann["judgements"]), len(bob["judgements"])) == (2, 1)
    assert ann["thumbs"] == bob["thumbs"]
    assert len(ann["edits"]) == 1
    assert "edits" not in bob
    (thumb,) = bob["thumbs"]
    assert trace(run, thumb)["from"]["annotators"] == ["ann", "bob"]
    assert trace(run, thumb)["from"]["candidates"] == ["c1"]
    assert trace(run, ann["edits"][0])["from"]["annotators"] == ["ann"]
    assert trace(run, "c2")["into"]["tasks"] == ["t2"]
