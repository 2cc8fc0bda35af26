"""A real small model in bfloat16 at the default learning rates: what is trained is in what is published."""

from pathlib import Path
from typing import Any

import pytest

from align.config.training import Dpo, Lora
from align.train import checkpoint, dpo
from align.types import Preference

MODEL = Path(__file__).parents[3] / "shared" / "models" / "tinystories656k"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the model tinystories656k is not beside this checkout"),
]
WORDS = ["dog", "cat", "ball", "tree", "boat", "bird", "cake", "star"]


def pair(n: int) -> Preference:
    asked = [{"role": "user", "content": f"The {WORDS[n % 8]} and the {WORDS[n // 8]}"}]
    chosen, rejected = " went to the park and played all day.", " were sad and did not want to go."
    return Preference(f"p{n}", f"q{n}", asked, "c", "r", chosen, rejected, 1.0, 1.0, 0.0, 1, [])


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 1e-6}, {"learning_rate": 1e-5, "lora": Lora()}], ids=["full", "lora"]
)
def test_the_change_of_margins_is_published(tmp_path: Path, changes: dict[str, Any]) -> None:
    parent = tmp_path / "parent"
    checkpoint.import_model(str(MODEL), parent, revision=None, dtype="bfloat16", chat_template="plain")
    config = Dpo(epochs=3, batch_size=4, max_tokens=200, **changes)
    told = dpo.train_dpo(
        parent, [pair(n) for n in range(60)], config, seed=0, dtype="bfloat16", report_to=[], threads=1,
        out=tmp_path / "out", work=tmp_path / "work",
    )  # fmt: skip
    assert told["steps"] == 45
    assert told["reload_logp_difference"] < 1e-4
    assert 0.9 <= told["published_weights"] <= 1.1
    assert 0.9 <= told["published_logps"] <= 1.15
