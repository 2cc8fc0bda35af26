"""A length head takes what length explains out of the published score, and leaves what the words explain."""

from pathlib import Path

import pytest

from align.types import Preference
from reward.model import ModelScorer
from tests.integration.test_train_reward import preference, train
from tests.tiny import make_tiny_model

PADDING = " well" * 12


def long_and_short() -> list[Preference]:
    """People prefer the kind answer, and of two alike the longer one."""
    rows = []
    for n in range(12):
        rows.append(preference(2 * n, chosen="kind" + PADDING * (n % 2), rejected="rude" + PADDING * (n % 2)))
        word = ("kind", "rude")[n % 2]
        rows.append(preference(2 * n + 1, chosen=word + PADDING, rejected=word))
    return rows


def test_the_losses_are_those_of_the_paper() -> None:
    import torch

    from reward.length_bias import length_losses

    quality, by_length = torch.tensor([1.0, 2.0, 3.0, 2.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
    tokens, heads = torch.tensor([2, 4, 6, 8]), torch.tensor([[1.0, 0.0], [3.0, -4.0]])
    # against 2, 4, 6, 8: covariances 3 and 8, variances 2 and 5 of the scores, 20 of the tokens (all times four)
    expected = 4 / (2 * 20) ** 0.5 - 8 / (5 * 20) ** 0.5 + 3 / 5
    assert length_losses(quality, by_length, tokens, heads).item() == pytest.approx(expected, abs=1e-6)
    same = torch.full((4,), 5)
    assert length_losses(quality, by_length, same, heads).item() == pytest.approx(3 / 5, abs=1e-6)


def test_length_no_longer_moves_the_score_and_words_still_do(tmp_path: Path) -> None:
    tiny = make_tiny_model(tmp_path / "model", vocab_words=["kind", "rude", "well"])
    rows = long_and_short()
    effect = {}
    for name, on in (("without", False), ("with", True)):
        train(tiny, tmp_path / name, rows, epochs=25, batch_size=12, length_head=on)
        scorer = ModelScorer(tmp_path / name / "out")  # one score: the length head is not published
        asked = [rows[0].messages] * 4
        kind, kind_long, rude, rude_long = scorer.score(asked, ["kind", "kind" + PADDING, "rude", "rude" + PADDING])
        assert kind and kind_long and rude and rude_long
        effect[name] = ((kind_long - kind + rude_long - rude) / 2, (kind - rude + kind_long - rude_long) / 2)
    length, words = 0, 1
    assert effect["without"][length] > 1
    assert abs(effect["with"][length]) < 0.4 * effect["without"][length]
    assert effect["with"][words] > 0.5 * effect["without"][words] > 0.5
