"""What a round says about its reward model, and about the one before it, with real models on made-up labels."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from align.config.training import RewardModel
from align.evaluation.pairs import score_differences
from align.pipeline.stage import Job
from align.stages.reward import FRESH, HELD_OUT, PAIRS, reward_check
from align.store import read_json, read_table, write_table
from align.types import Judgement, Preference, Task, to_table
from reward.load import load_scorer
from reward.measure import is_held_out
from reward.train import train_reward
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow

KIND, CURT = "thank you, it comes soon", "no"
SHARE = 0.3


def label(number: int, prompt: int, *, kind: bool) -> Preference:
    """In round 1 people like the kind answer; later they may like the curt one."""
    better, worse = (KIND, CURT) if kind else (CURT, KIND)
    name = f"{number}-{prompt}"
    return Preference(
        name, f"prompt {prompt}", [{"role": "user", "content": f"Where is order {prompt}?"}], f"{name}a", f"{name}b",
        better, worse, 1.0, 1.0, 0.0, number, [f"{name} ann", f"{name} bob"],
    )  # fmt: skip


def asked(row: Preference) -> tuple[Task, list[Judgement]]:
    """The task behind a pair, on which both agreed where its prompt's number is even."""
    task = Task(f"task {row.id}", "pair", row.round, "train", 0, row.prompt_id, row.messages,
                [row.chosen_id, row.rejected_id], [row.chosen, row.rejected], [0, 1], 2)  # fmt: skip
    even = int(row.prompt_id.split()[1]) % 2 == 0
    return task, [Judgement(row.judgements[0], task.id, "pair", "ann", 0, "a"),
                  Judgement(row.judgements[1], task.id, "pair", "bob", 0, "a" if even else "b")]  # fmt: skip


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """preferences, tasks and snapshot of two rounds; the reward model of the first."""
    folder = tmp_path_factory.mktemp("check")
    labels = {1: [label(1, n, kind=True) for n in range(120)], 2: [label(2, n, kind=False) for n in range(60, 180)]}
    for number, rows in labels.items():
        tasks, judgements = zip(*map(asked, rows), strict=True)
        for name, file, kind, part in (("preferences", "preferences", Preference, rows), ("asked", "tasks", Task, tasks),
                                       ("said", "judgements", Judgement, list(chain(*judgements)))):  # fmt: skip
            (folder / f"{name}_{number}").mkdir()
            write_table(folder / f"{name}_{number}" / f"{file}.parquet", to_table(kind, part))  # type: ignore[type-var]
    model = make_tiny_model(folder / "model", vocab_words=KIND.replace(",", "").split())
    config = RewardModel(learning_rate=3e-3, batch_size=8, epochs=3, held_out=SHARE)
    train_reward(model, labels[1], config, seed=0, dtype="float32", report_to=[], threads=1, out=folder / "reward_1",
                 work=folder / "work")  # fmt: skip
    return folder


def check(stages: Path, number: int, out: Path, **inputs: Path) -> dict[str, Any]:
    given = {"preferences": stages / f"preferences_{number}", "reward": stages / "reward_1"}
    for n in range(1, number + 1):
        given |= {f"asked_{n:03d}": stages / f"asked_{n}", f"said_{n:03d}": stages / f"said_{n}"}
    if number == 2:
        given |= {"earlier_001": stages / "preferences_1", "before": stages / "reward_1"}
    out.mkdir()
    settings = {"seed": 0, "dtype": "float32", "held_out": SHARE, "replay": 1.0}
    return reward_check(
        Job(number, "reward_check", {**given, **inputs}, settings, {"threads": 1}, out), lambda *_: None
    )


def test_a_round_measures_its_reward_model_and_the_one_before_it(stages: Path, tmp_path: Path) -> None:
    first = check(stages, 1, tmp_path / "first")
    kept = [n for n in range(120) if is_held_out(f"prompt {n}", SHARE)]
    assert first["held_out"]["pairs"] == len(kept) and first["held_out"]["accuracy"]["mean"] == 1.0
    assert "temperature" in first["held_out"] and (first["fresh"], first["drift"], first["warnings"]) == (
        None,
        None,
        [],
    )
    whole = read_json(tmp_path / "first" / HELD_OUT)
    even = sum(n % 2 == 0 for n in kept)
    assert {name: part["pairs"] for name, part in whole["slices"]["agreement"].items()} == {
        "all agreed": even, "they disagreed": len(kept) - even,
    }  # fmt: skip
    assert not (tmp_path / "first" / FRESH).exists()

    second = check(stages, 2, tmp_path / "second", checked=tmp_path / "first")
    unseen = [n for n in range(60, 180) if n >= 120 or is_held_out(f"prompt {n}", SHARE)]
    assert (second["fresh"]["pairs"], second["fresh"]["seen"]) == (len(unseen), 120 - len(unseen))
    assert second["fresh"]["accuracy"]["mean"] == 0.0, "people want the opposite now"
    assert second["drift"]["accuracy"]["mean"] == -1.0 and second["drift"]["accuracy"]["high"] < -0.8
    assert [said.split(" ", 1)[0] for said in second["warnings"]] == ["Drift:", "Drift:", "The"]
    assert "less often than on the pairs held out from its training" in second["warnings"][0]
    fresh = read_json(tmp_path / "second" / FRESH)
    assert not fresh["calibration"]["fitted"]
    assert fresh["calibration"]["temperature"] == (whole["calibration"]["temperature"] or 1.0), (
        "none offered: scores as they are"
    )


def test_every_number_can_be_traced_to_its_pair(stages: Path, tmp_path: Path) -> None:
    check(stages, 1, tmp_path / "first")
    rows = read_table(tmp_path / "first" / PAIRS).to_pylist()
    labels = [label(1, int(row["preference"].split("-")[1]), kind=True) for row in rows]
    found = score_differences(labels, load_scorer(stages / "reward_1", dtype="float32", threads=1).score)
    assert [row["difference"] for row in rows] == pytest.approx(found, abs=1e-5)
    assert {row["part"] for row in rows} == {"held_out"}


def test_without_held_out_pairs_new_labels_are_compared_with_the_labels_before(stages: Path, tmp_path: Path) -> None:
    """The second round's check stands for that of the round before."""
    before = check(stages, 2, tmp_path / "before", checked=tmp_path / "nothing")
    assert before["fresh"]["accuracy"]["mean"] == 0.0 and before["drift"] is None
    (tmp_path / "before" / HELD_OUT).unlink()
    after = check(stages, 2, tmp_path / "after", checked=tmp_path / "before")
    assert after["drift"]["accuracy"]["mean"] == 0.0
    assert after["drift"]["against"] == "the model before it did on the labels before"


def test_where_every_prompt_was_learned_from_nothing_is_said(stages: Path, tmp_path: Path) -> None:
    found = check(stages, 2, tmp_path / "out", preferences=stages / "preferences_1")
    kept = sum(is_held_out(f"prompt {n}", SHARE) for n in range(120))
    assert (found["fresh"]["pairs"], found["fresh"]["seen"]) == (kept, 120 - kept)
    (tmp_path / "learned").mkdir()
    rows = [label(1, n, kind=True) for n in range(120) if not is_held_out(f"prompt {n}", SHARE)]
    write_table(tmp_path / "learned/preferences.parquet", to_table(Preference, rows))
    found = check(stages, 2, tmp_path / "none", preferences=tmp_path / "learned")
    assert found["fresh"] == {
        "accuracy": None,
        "log_loss": None,
        "pairs": 0,
        "unscored": 0,
        "ties": 0,
        "seen": len(rows),
    }
    assert (found["drift"], found["warnings"]) == (None, [])
