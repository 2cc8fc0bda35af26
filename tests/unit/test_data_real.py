"""Real files that people bring, where they lie beside the checkout; the counts are what stands in those files."""

from pathlib import Path

import pytest

from align.config.recipe import Prompts
from align.data.contamination import drop_held_out_preferences
from align.data.demonstrations import load_demonstrations
from align.data.preferences import load_preferences
from align.data.prompts import load_prompts, read_prompts
from align.dropped import count_reasons
from align.errors import DataError

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")


def test_hh() -> None:
    path = DATA / "hh_helpful_base_test.jsonl.gz"
    preferences, dropped = load_preferences(path)
    assert len(preferences) == 2336
    assert count_reasons(dropped) == {"prompts differ": 9, "roles out of turn": 6, "no difference": 2, "empty": 1}
    prompts, dropped = load_prompts(Prompts(path=path))
    assert len(prompts) == 2344
    assert count_reasons(dropped) == {"roles out of turn": 7, "no question": 2, "empty": 1}
    assert sum(p.split == "test" for p in prompts) == 497
    kept, held_out = drop_held_out_preferences(preferences, [p for p in prompts if p.split == "test"])
    assert (len(kept), len(held_out)) == (1840, 496)


def test_sharegpt_preferences() -> None:
    preferences, dropped = load_preferences(DATA / "llamafactory_dpo_en_demo.jsonl.gz")
    assert (len(preferences), count_reasons(dropped)) == (295, {"duplicate": 5})
    assert preferences[1].messages[0]["role"] == "system"


def test_alpaca() -> None:
    path = DATA / "llamafactory_alpaca_en_demo.jsonl.gz"
    demonstrations, dropped = load_demonstrations(path)
    assert (len(demonstrations), dropped) == (999, [])
    prompts, dropped = read_prompts(path)
    assert (len(prompts), count_reasons(dropped)) == (985, {"duplicate": 14})


def test_files_of_other_kinds_say_what_they_lack() -> None:
    with pytest.raises(DataError, match=r"7473 of 7473 rows are no prompts, .* found question, answer; docs/files.md"):
        read_prompts(DATA / "gsm8k_train.jsonl.gz")
    with pytest.raises(DataError, match=r"300 of 300 rows are no preferences, .* found messages, label; docs/files.md"):
        load_preferences(DATA / "llamafactory_kto_en_demo.jsonl.gz")


def test_what_stands_beside_the_text_of_real_files(caplog: pytest.LogCaptureFixture) -> None:
    rows, dropped = load_demonstrations(DATA / "self_instruct_seed_175.jsonl.gz")
    assert (len(rows), dropped) == (175, [])
    assert sum("\n" in row.messages[0]["content"] for row in rows) >= 100  # with what their instances are about
    assert [record.getMessage() for record in caplog.records] == [
        "self_instruct_seed_175.jsonl.gz: ignored fields: name (175 of 175 rows), is_classification (175 of 175 rows); "
        "docs/files.md says which are read"
    ]
