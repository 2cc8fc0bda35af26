"""A run that was moved says again where its adapters' parents lie."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from align.ids import with_check
from align.pipeline.receipts import Receipt
from align.stages.stage_io import name_bases
from align.store import folder_files, write_json

KEY = "0123456789abcdef" * 2


def policy(run: Path, round: int, parent: dict[str, Any] | None) -> Path:
    """A published policy with an adapter whose base was elsewhere."""
    folder = run / f"round_{round:03d}/policy" / KEY
    (folder / "adapter").mkdir(parents=True)
    (folder / "model.safetensors").touch()
    write_json(
        folder / "adapter/adapter_config.json", {"base_model_name_or_path": "/gone/before", "r": 4, "revision": None}
    )
    inputs = {"parent": parent} if parent else {}
    receipt = Receipt("policy", round, KEY, 1, inputs, {}, {}, "", folder_files(folder), {}, "", "", 0.0, {})
    write_json(folder / "receipt.json", with_check(asdict(receipt)))
    return folder


def test_bases_are_named_where_they_lie_now(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = policy(run, 0, None)
    second = policy(run, 1, {"stage": "policy", "round": 0, "key": KEY, "output": "x"})
    model = SimpleNamespace(path="somebody/a-model", revision="v2")
    before = folder_files(run)
    name_bases(SimpleNamespace(folder=run, recipe=SimpleNamespace(model=model)))  # type: ignore[arg-type]
    found = [json.loads((f / "adapter/adapter_config.json").read_text()) for f in (first, second)]
    assert [c["base_model_name_or_path"] for c in found] == ["somebody/a-model", str(first.resolve())]
    assert [c["revision"] for c in found] == ["v2", None]
    name = f"round_001/policy/{KEY}/adapter/adapter_config.json"
    assert folder_files(run)[name] == before[name], "it is still what was published"
