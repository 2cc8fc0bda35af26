"""What `--reward` may say, and the sum that comes of it."""

import json
from pathlib import Path

import pytest

from align.config.rewards import Length, Regex, read_function
from align.config.section import load_function_section
from align.config.yaml_text import parse
from align.errors import ConfigError
from align.types import Message
from reward.terms import RewardTerm, judged_by, parse_reward, rewards_id, scorer_of

DOCS = Path(__file__).parents[2] / "docs" / "reward-functions.md"
ASKED: list[Message] = [{"role": "user", "content": "Hi"}]


def test_a_reward_is_a_folder_or_a_function_with_a_weight_behind_it(tmp_path: Path) -> None:
    odd = tmp_path / "a=2"
    odd.mkdir()
    assert parse_reward("score.py:score") == RewardTerm("score.py:score", 1.0)
    assert parse_reward("score.py:score=0.25") == RewardTerm("score.py:score", 0.25)
    assert parse_reward("score.py:score=-1e-1") == RewardTerm("score.py:score", -0.1)
    assert parse_reward(str(odd)) == RewardTerm(str(odd), 1.0), "a folder's own name comes first"
    assert parse_reward(f"{odd}=3") == RewardTerm(str(odd), 3.0)
    assert parse_reward(f"{odd}=3").is_model and not parse_reward("score.py:score").is_model


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("score.py:score=much", "the weight must be a number, found 'much'"),
        ("score.py:score=nan", "the weight must be a number, found 'nan'"),
        ("score.py:score=", "the weight must be a number, found ''"),
        ("no-such-folder", "no-such-folder is neither a folder nor file.py:function"),
        ("score.py", "score.py is neither a folder nor file.py:function"),
        ("{type: rgex}", "reward: there is no type 'rgex'; did you mean regex?"),
        ("{type: regex, patern: x}", "reward.patern: unknown key; did you mean pattern?"),
        ("{type: length, high: low}", "reward.high: must be a whole number"),
        ("{type: code, tests: none.jsonl}", "reward.tests: there is no file"),
        ("{type: regex", "--reward {type: regex"),
    ],
)
def test_what_is_no_reward_is_said_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reward(text)
    assert said in str(caught.value) and f"--reward {text}" in str(caught.value)


def test_the_id_changes_with_code_and_share(tmp_path: Path) -> None:
    file = tmp_path / "score.py"
    file.write_text("def score(messages, answer):\n    return 1.0\n")
    part = RewardTerm(f"{file}:score")
    first = rewards_id([part])
    assert rewards_id([part]) == first
    assert rewards_id([RewardTerm(part.source, 2.0)]) != first
    file.write_text("def score(messages, answer):\n    return 2.0\n")
    assert rewards_id([part]) != first


def test_an_entry_of_the_recipe_is_a_reward_too_and_all_add_up(tmp_path: Path) -> None:
    length = parse_reward("{type: length, high: 2, weight: 0.5}")
    assert length == RewardTerm(Length(high=2, weight=0.5), 0.5) and not length.is_model
    file = tmp_path / "score.py"
    file.write_text("def score(messages, answer):\n    return None if answer == 'x' else len(answer)\n")
    parts = [length, RewardTerm(Regex(pattern="b"), -2.0), parse_reward(f"{file}:score=0.1")]
    scorer = scorer_of(parts, dtype="float32", threads=None)
    assert scorer.score([ASKED] * 3, ["a", "a b", "a b c"]) == [pytest.approx(v) for v in (0.6, -1.2, -1.5)]
    assert scorer.score([ASKED] * 2, ["x", "x"]) == [None, None]
    assert scorer.why_unscored() == {"unscored_reasons": {"score.py:score gave None": 2}}
    assert rewards_id(parts) != rewards_id([*parts[:2], RewardTerm(parts[2].source, 0.2)])


def test_a_judge_may_be_an_entry_too() -> None:
    assert judged_by("{type: length, high: 2}").score([ASKED] * 2, ["a b", "a b c"]) == [1.0, 0.0]
    with pytest.raises(ConfigError, match=r"--judge \{type: no\}"):
        judged_by("{type: no}")


def test_every_entry_in_the_docs_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in ("prompts.jsonl", "data/prompts.jsonl", "score.py", "schema.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    text = DOCS.read_text()
    entries = [entry for block in text.split("```yaml\n")[1:] for entry in _functions(block.split("```")[0])]
    lines = [line.split("'")[1] for line in text.splitlines() if line.startswith("align ") and "'" in line]
    found = [load_function_section(entry, "docs") for entry in [*entries, *lines]]
    assert [function.type for function in found] == [
        "math", "length", "regex", "function", "code", "judge", "math", "json_schema",
    ]  # fmt: skip
    for function in found:
        assert read_function(function.model_dump(mode="json")) == function


def _functions(block: str) -> list[str]:
    data, _ = parse(block, "docs")
    return [json.dumps(entry) for entry in data["reward"]["functions"]]
