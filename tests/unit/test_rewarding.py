"""What `--reward` may say, and the sum that comes of it."""

from pathlib import Path

import pytest

from align.errors import ConfigError
from align.rounds.rewarding import Part, parse_reward, rewards_id


def test_a_reward_is_a_folder_or_a_function_with_a_weight_behind_it(tmp_path: Path) -> None:
    odd = tmp_path / "a=2"
    odd.mkdir()
    assert parse_reward("score.py:score") == Part("score.py:score", 1.0)
    assert parse_reward("score.py:score=0.25") == Part("score.py:score", 0.25)
    assert parse_reward("score.py:score=-1e-1") == Part("score.py:score", -0.1)
    assert parse_reward(str(odd)) == Part(str(odd), 1.0), "a folder's own name comes first"
    assert parse_reward(f"{odd}=3") == Part(str(odd), 3.0)
    assert parse_reward(f"{odd}=3").is_model and not parse_reward("score.py:score").is_model


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("score.py:score=much", "the weight must be a number, found 'much'"),
        ("score.py:score=nan", "the weight must be a number, found 'nan'"),
        ("score.py:score=", "the weight must be a number, found ''"),
        ("no-such-folder", "no-such-folder is neither a folder nor file.py:function"),
        ("score.py", "score.py is neither a folder nor file.py:function"),
    ],
)
def test_what_is_no_reward_is_said_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reward(text)
    assert said in str(caught.value) and f"--reward {text}" in str(caught.value)


def test_the_id_changes_with_code_and_share(tmp_path: Path) -> None:
    file = tmp_path / "score.py"
    file.write_text("def score(messages, answer):\n    return 1.0\n")
    part = Part(f"{file}:score")
    first = rewards_id([part])
    assert rewards_id([part]) == first
    assert rewards_id([Part(part.source, 2.0)]) != first
    file.write_text("def score(messages, answer):\n    return 2.0\n")
    assert rewards_id([part]) != first
