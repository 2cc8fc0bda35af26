"""Judgements that were made elsewhere train a model: by `align dpo`, and in a recipe."""

import json
from pathlib import Path

import pytest

from tests.integration.test_cli_stages import json_of
from tests.loop import align, make_loop, rows, write_jsonl

pytestmark = pytest.mark.slow


def test_imported_judgements_train_a_policy(tmp_path: Path) -> None:
    path = make_loop(tmp_path, tmp_path / "no-server")
    judged = [
        {"prompt": f"Where is parcel {n}?", "answers": ["thank you", "late late"], "outcome": "a", "annotator": who}
        for n in range(12)
        for who in ("kim", "lee")
    ]
    write_jsonl(tmp_path / "said.jsonl", [*judged, {"prompt": "Hi"}])
    report = json_of("annotate", "import", "said.jsonl", "--out", "imported", cwd=tmp_path)
    assert (report["judgements"], report["compiled"]["preferences"]) == (24, 12)
    assert report["dropped"] == {"missing field": 1}
    trained = json_of(
        "dpo", "--model", "model", "--preferences", "imported/preferences.jsonl", "--out", "dpo", "--threads", "1",
        "trainer.max_steps=2", cwd=tmp_path,
    )  # fmt: skip
    assert (trained["rows"], trained["dropped"]) == (12, {})

    settings = json.loads(path.read_text())
    del settings["annotate"], settings["sft"]
    settings |= {"preferences": {"from": "imported/preferences.jsonl"}, "name": "outside"}
    settings["dpo"]["trainer"] = {"max_steps": 2}
    settings["evaluate"]["prompts"] = 2
    path.write_text(json.dumps(settings))
    align("run", path, cwd=tmp_path)
    taken = rows(tmp_path / "runs" / "outside", 1, "preferences", "preferences.parquet")
    assert taken and {p["chosen"] for p in taken} == {"thank you"} and all(0.5 < p["target"] < 1 for p in taken)
