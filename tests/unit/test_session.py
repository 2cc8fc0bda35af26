"""Labelling sessions from files of candidates: which options act, and blind comparisons of two files."""

from pathlib import Path
from typing import Any

import pytest

from align.cli.push import _check, _settings
from align.config.recipe import Annotate
from align.errors import ConfigError, DataError
from align.labelling.comparison import win_rate
from align.labelling.folder import make_session
from align.stages.sessions import open_session
from align.store import read_json, read_rows
from tests.labelling import judge
from tests.loop import write_jsonl


def two_files(folder: Path) -> tuple[Path, Path]:
    """Ten prompts each, eight of them shared, on two of which both say the same."""
    paths = folder / "new.jsonl", folder / "old.jsonl"
    for path, word, numbers in ((paths[0], "new", range(10)), (paths[1], "old", range(2, 12))):
        write_jsonl(path, [{"prompt": f"q{n}", "text": "same" if n in (2, 3) else f"{word} {n}"} for n in numbers])
    return paths


def test_shared_prompts_are_compared_and_the_rest_is_left_out_with_the_reason(tmp_path: Path) -> None:
    new, old = two_files(tmp_path)
    make_session(tmp_path / "session", new, Annotate(), seed=0, against=old)
    session = open_session(tmp_path / "session")
    assert [(t.kind, t.purpose) for t in session.tasks] == [("blind_ab", "eval")] * 6
    assert session.form.kind == "blind_ab"
    assert {t.texts["ab".index("a")].split()[0] for t in session.tasks} == {"new", "old"}, "a is not always the new one"
    reasons = [row["reason"] for _, row in read_rows(tmp_path / "session" / "tasks_dropped.jsonl")]
    assert reasons.count("only one of the two files answers it") == 4
    assert reasons.count("both answers are the same, a tie") == 2
    make_session(tmp_path / "session", new, Annotate(), seed=0, against=old)
    with pytest.raises(ConfigError, match="was not made from these candidates"):
        make_session(tmp_path / "session", new, Annotate(), seed=0)
    make_session(tmp_path / "few", new, Annotate(tasks=5), seed=0, against=old)
    few = read_json(tmp_path / "few" / "session.json")["blind"]
    assert len(open_session(tmp_path / "few").tasks) + len(few["same"]) == 5


def test_the_win_rate_by_hand(tmp_path: Path) -> None:
    new, old = two_files(tmp_path)
    make_session(tmp_path / "session", new, Annotate(), seed=0, against=old)
    tasks = open_session(tmp_path / "session").tasks
    wins = [judge(t.id, "ann", "ab"[[text.startswith("new") for text in t.texts].index(True)]) for t in tasks]
    found = win_rate(tmp_path / "session", tasks, wins)
    assert found is not None
    assert (found["wins"], found["ties"], found["losses"], found["mean"]) == (6, 2, 0, (6 + 1) / 8)
    none = win_rate(tmp_path / "session", tasks, [judge(t.id, "ann", "skipped") for t in tasks])
    assert none is not None and none["unscored"] == 6
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "q", "text": text} for text in ("x", "y")])
    make_session(tmp_path / "pairs", tmp_path / "pairs.jsonl", Annotate(), seed=0)
    assert win_rate(tmp_path / "pairs", [], []) is None


def test_two_files_without_anything_to_compare(tmp_path: Path) -> None:
    new, _ = two_files(tmp_path)
    with pytest.raises(DataError, match="the two files say the same on all 10 prompts"):
        make_session(tmp_path / "session", new, Annotate(), seed=0, against=new)
    write_jsonl(tmp_path / "other.jsonl", [{"prompt": "another", "text": "x"}])
    with pytest.raises(DataError, match="the 10 prompts of --candidates and the 1 of --against have none in common"):
        make_session(tmp_path / "session", new, Annotate(), seed=0, against=tmp_path / "other.jsonl")
    assert not (tmp_path / "session").exists()


@pytest.mark.parametrize(("kind", "asked"), [("pair", 4), ("rank", 3), ("single", 3), ("rating", 3)])
def test_settings_with_every_default_spelled_out_load_again(kind: str, asked: int) -> None:
    given = {"kind": kind, **({"criteria": ["helpful"]} if kind == "rating" else {})}
    settings = Annotate.model_validate(given)
    assert len(settings.ask) == asked
    assert Annotate.model_validate(settings.model_dump(mode="json")) == settings


def test_options_become_the_recipes_settings(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "gold.jsonl", [{"prompt": "q", "chosen": "x", "rejected": "y"}])
    given = {"tasks": 9, "gold": tmp_path / "gold.jsonl", "gold_share": 0.2, "repeats": 0.1, "ask": "flags, reason"}
    found = _settings(given, None, tmp_path / "home")
    assert (found.tasks, found.repeats, found.ask) == (9, 0.1, ["flags", "reason"])
    assert found.gold is not None and (found.gold.path, found.gold.share) == (tmp_path / "gold.jsonl", 0.2)
    assert _settings({"ask": "nothing"}, None, None).ask == []
    rated = _settings({"kind": "rating", "criteria": "helpful,correct"}, "https://argilla.example", None)
    assert rated.criteria == ["helpful", "correct"]
    assert rated.server.type == "remote"
    with pytest.raises(ConfigError, match="rank_of"):
        _settings({"rank_of": 3}, None, None)


@pytest.mark.parametrize(
    ("candidates", "given", "sentence"),
    [
        (None, {"tasks": 3}, "--tasks: this says how to make a folder; give --candidates too"),
        ("c.jsonl", {"gold_share": 0.1}, "--gold-share: there is no --gold; give both, or leave it out"),
        (
            "c.jsonl",
            {"home": "h", "server": "https://a"},
            "--home: --home is for the embedded server, and --server names the Argilla at https://a",
        ),
        ("c.jsonl", {"against": "d.jsonl", "rank_of": 3}, "--rank-of: blind comparisons ask which answer is better"),
        ("c.jsonl", {"against": "d.jsonl", "ask": "flags"}, "--ask: blind comparisons ask for a reason at most"),
    ],
)
def test_an_option_that_could_do_nothing_is_an_error(
    candidates: str | None, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _check(Path(candidates) if candidates else None, given)
    assert str(caught.value).startswith(sentence)
