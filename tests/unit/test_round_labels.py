"""Which rows of which rounds a training sees."""

from pathlib import Path

import pytest

from align.pipeline.stage import Job
from align.stages.stage_io import labels_of
from align.store import write_table
from align.types import BinaryLabel, Preference, to_table


def label(name: str, round: int) -> BinaryLabel:
    return BinaryLabel(name, "p", [{"role": "user", "content": "Hi"}], "c", "Hello", 1.0, 1.0, round, [])


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Round 3, with 200 binary labels of each of two earlier rounds beside its own three."""
    counts = {"preferences": 3, "earlier_001": 200, "earlier_002": 200}
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        rows = [label(f"{name}-{n}", 1) for n in range(count)]
        write_table(tmp_path / name / "binary.parquet", to_table(BinaryLabel, rows))
        write_table(tmp_path / name / "preferences.parquet", to_table(Preference, []))
    return Job(3, "policy", {name: tmp_path / name for name in counts}, {"seed": 7}, {}, tmp_path / "out")


def test_this_rounds_rows_come_first_and_all_of_them(job: Job) -> None:
    ids = [row.id for row in labels_of(job, "binary", BinaryLabel, 0.5)]
    assert ids[:3] == ["preferences-0", "preferences-1", "preferences-2"]
    assert ids == [row.id for row in labels_of(job, "binary", BinaryLabel, 0.5)], "the same draw each time"
    assert 150 < len(ids) - 3 < 250
    assert labels_of(job, "preferences", Preference, 0.5) == []


@pytest.mark.parametrize(("replay", "rows"), [(0.0, 3), (1.0, 403)])
def test_none_or_all_of_earlier_rounds(job: Job, replay: float, rows: int) -> None:
    assert len(labels_of(job, "binary", BinaryLabel, replay)) == rows


def test_a_larger_share_only_adds(job: Job) -> None:
    few, many = ({row.id for row in labels_of(job, "binary", BinaryLabel, share)} for share in (0.2, 0.6))
    assert few < many
