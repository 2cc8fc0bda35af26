"""`align reward` on your own files: train, score, and eval by subset."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from align.store import read_rows
from tests.loop import align, write_jsonl
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow


def test_a_reward_model_is_trained_scores_answers_and_is_measured(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "model", vocab_words=["thank", "you", "late"])
    pairs = [{"prompt": f"Where is parcel {n}?", "chosen": "thank you", "rejected": "late late"} for n in range(12)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    train = ("reward", "train", "--model", "model", "--preferences", "pairs.jsonl", "--threads", "1", "--out")
    made = align(*train, "judge", "epochs=12", "learning_rate=3e-3", "batch_size=4", "--json", cwd=tmp_path)
    result = json.loads(made.stdout)
    assert (result["rows"], result["accuracy"]) == (12, 1.0)

    rows = [{"prompt": "Where is it?", "text": "thank you"}, {"prompt": "Where is it?", "text": "late " * 600}]
    write_jsonl(tmp_path / "answers.jsonl", rows)
    score = ("reward", "score", "--model", "judge", "--candidates", "answers.jsonl", "--threads", "1", "--out")
    assert "unscored: 1" in align(*score, "scores", cwd=tmp_path).stdout
    first, second = (row for _, row in read_rows(tmp_path / "scores/scores.jsonl"))
    assert first["score"] > 0
    assert second["score"] is None
    assert second["reason"].startswith("longer than the reward model's context (")

    rows.append({"prompt": "Where is it?", "text": "late"})
    write_jsonl(tmp_path / "answers.jsonl", rows)
    more = (*score, "more", "--cache", "kept", "--shard", "1", "--json")
    assert json.loads(align(*more, cwd=tmp_path).stdout)["answers"] == 3
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.parquet")}
    assert len(kept) == 3
    again = align(*score, "again", "--cache", "kept", "--shard", "1", cwd=tmp_path)
    assert "score: 3 of 3" in again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.parquet")} == kept
    assert (tmp_path / "again/scores.jsonl").read_bytes() == (tmp_path / "more/scores.jsonl").read_bytes()
    clean = ("reward", "clean", "--cache", "kept", "--unused")
    assert "0 reward models" in align(*clean, "1", cwd=tmp_path).stdout
    assert "would remove" in align(*clean, "0", cwd=tmp_path).stdout
    assert json.loads(align(*clean, "0", "--yes", "--json", cwd=tmp_path).stdout)[0]["removed"]
    assert list((tmp_path / "kept").iterdir()) == []

    bench = [
        {"prompt": f"What of {n}?", "chosen": "thank you", "rejected": "late late", "subset": "easy"} for n in range(30)
    ] + [{"prompt": f"What of {n}?", "chosen": "late", "rejected": "thank you", "topic": "odd"} for n in range(2)]
    write_jsonl(tmp_path / "bench.jsonl", bench)
    hh = [{"chosen": f"\n\nHuman: {n}?\n\nAssistant: thank you", "rejected": f"\n\nHuman: {n}?\n\nAssistant: late late"}
          for n in range(2)]  # fmt: skip
    write_jsonl(tmp_path / "hh.jsonl", hh)
    files = ("--preferences", "bench.jsonl", "--preferences", "hh.jsonl", "--threads", "1")
    shown = align("reward", "eval", "--model", "judge", *files, "--out", "measured", cwd=tmp_path).stdout
    lines = {line.split()[0]: line.split()[1:3] for line in shown.splitlines() if line}
    assert lines["easy"] == ["30", "1.000"]
    assert lines["odd"] == ["2", "0.000"]
    assert lines["hh"] == ["2", "1.000"]
    assert lines["all"] == ["34", "0.941"]
    assert "length: less than half as long" in shown and "length: about as long" in shown
    assert "expected calibration error with the temperature: " in shown
    kept = json.loads((tmp_path / "measured/result.json").read_text(encoding="utf-8"))
    assert kept["accuracy"]["low"] < kept["accuracy"]["mean"] == pytest.approx(32 / 34)
    assert kept["slices"]["subset"]["odd"]["accuracy"]["mean"] == 0.0
    assert (
        kept["calibration"]["temperature"] is None or f"temperature: {kept['calibration']['temperature']:.4g}" in shown
    )
    assert ElementTree.parse(tmp_path / "measured/reliability.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    pairs = [row for _, row in read_rows(tmp_path / "measured/pairs.jsonl")]
    assert [row["difference"] > 0 for row in pairs] == [True] * 30 + [False] * 2 + [True] * 2
    shown = align("reward", "eval", "--model", "judge", *files[2:], "--out", "few", cwd=tmp_path).stdout
    assert "calibration: not measured, because it needs pairs of at least 20 prompts" in shown

    wrong = align("reward", "score", "--model", "model", *score[4:], "wrong", cwd=tmp_path, expect=2)
    assert "is no reward model with one score" in wrong.stderr
    none = align(*train, "no", "replay=0.5", cwd=tmp_path, expect=2)
    assert "replay has no use here" in none.stderr
