"""`align forget` in a finished run: compiled again, marked, trained again by the next `align run`."""

import json
import secrets
from pathlib import Path

import pytest

from align.pipeline.receipts import current
from align.pipeline.stage import Ref
from align.provenance.clean import remove
from align.provenance.forget import still_holding, used_by, wish
from align.report.data import report_data
from align.store import read_table
from tests.integration.test_cli_stages import json_of
from tests.loop import align, make_loop, rows
from tests.server_fixtures import ArgillaServer

pytestmark = pytest.mark.slow


def test_a_finished_run_forgets_an_annotator(tmp_path: Path, argilla_server: ArgillaServer) -> None:
    recipe = make_loop(tmp_path, argilla_server.home, name=f"forget-{secrets.token_hex(3)}", sft=None)
    align("run", recipe, "annotate.tasks=10", cwd=tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    before = {name: current(run, Ref(1, name)) for name in ("snapshot", "preferences", "policy")}
    policy = before["policy"]
    assert policy is not None
    trained = policy.summary["checkpoint"]
    from_bob = [j["id"] for j in rows(run, 1, "snapshot", "judgements.parquet") if j["annotator"] == "bob"]
    cited = [p for p in rows(run, 1, "preferences", "preferences.parquet") if set(p["judgements"]) & set(from_bob)]
    assert cited

    found = json_of("forget", run, "--annotator", "bob", "--yes", cwd=tmp_path)
    assert found["judgements"] == sorted(from_bob)
    assert found["preferences"] == sorted(p["id"] for p in cited)
    assert found["recompiled"] == ["1/snapshot", "1/preferences"]
    assert (found["erased"], found["withdrawn"]) == (len(from_bob), len(from_bob))
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line.get("annotator") == "bob" and line["type"] == "judgement"]
    assert sorted(line["judgement"] for line in lines if "judgement" in line) == sorted(from_bob)
    superseded = [f"round_001/{name}/{receipt.key}" for name, receipt in before.items() if receipt]
    assert set(found["remains"]) >= {*superseded}, "where the words still are, by folder"
    assert found["checkpoints"] == [{"id": trained, "stage": "1/policy", "key": policy.key, "valid": True}]
    assert not [j for j in rows(run, 1, "snapshot", "judgements.parquet") if j["annotator"] == "bob"]
    assert not [p for p in rows(run, 1, "preferences", "preferences.parquet") if set(p["judgements"]) & set(from_bob)]
    assert current(run, Ref(1, "policy")) == policy, "nothing is trained yet"
    marked = f"Made with judgements that are forgotten since: 1/policy ({trained[:12]})."
    assert marked in align("status", run, cwd=tmp_path).stdout

    again = align("run", recipe, "annotate.tasks=10", cwd=tmp_path)
    started = [line for line in again.stderr.splitlines() if line.endswith(": start")]
    assert started == ["1/policy: start", "1/evaluation: start"]
    assert not [note for note in report_data(run)["notes"] if "forgotten" in note]
    bob = wish(run, annotator="bob")
    assert [model["valid"] for model in used_by(bob)["checkpoints"]] == [False]
    remove(run)
    kept = used_by(bob)
    assert (kept["preferences"], kept["checkpoints"]) == ([], [])
    assert still_holding(bob) == []
    said = [j for path in run.rglob("judgements.parquet") for j in read_table(path).to_pylist()]
    assert said and not [j for j in said if j["annotator"] == "bob"]
