"""Reward models on a tiny model: the loss is the one written by hand, TRL's where nothing is soft; folders are whole."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from align.config.training import Lora, RewardModel
from align.errors import ConfigError, DataError
from align.evaluation.pairs import pair_accuracy
from align.progress import Progress
from align.store import folder_files
from align.types import Preference
from reward.classifier import load_reward_model
from reward.model import ModelScorer
from reward.train import train_reward
from tests.tiny import make_tiny_model

GOOD, BAD = "Sorry, it is on its way.", "No."


def preference(n: int, chosen: str = GOOD, rejected: str = BAD, **changes: Any) -> Preference:
    given = {
        "id": f"pair{n}", "prompt_id": f"prompt{n}", "messages": [{"role": "user", "content": f"Case {n}: what now?"}],
        "chosen_id": "a", "rejected_id": "b", "chosen": chosen, "rejected": rejected,
        "target": 1.0, "weight": 1.0, "margin": 0.0, "round": 1, "judgements": [],
    }  # fmt: skip
    return Preference(**{**given, **changes})


PAIRS = [preference(n, chosen=f"{GOOD} {'Thank you. ' * (n % 3)}") for n in range(10)]
SOFT = [
    preference(0, target=0.5, weight=2.0),
    preference(1, target=0.75, weight=0.5, margin=0.25),
    preference(2, chosen=f"{GOOD} Thank you.", margin=1.0),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("reward") / "model", vocab_words=GOOD.split())


def train(model: Path, at: Path, rows: list[Preference], *, progress: Any = None, **changes: Any) -> dict[str, Any]:
    dtype = changes.pop("dtype", "float32")
    config = RewardModel(**{"learning_rate": 3e-3, "batch_size": 4, "epochs": 2, **changes})
    return train_reward(
        model, rows, config, seed=1, dtype=dtype, report_to=[], threads=1, out=at / "out", work=at / "work",
        progress=progress,
    )  # fmt: skip


def scores_of(folder: Path, rows: list[Preference]) -> list[tuple[float, float]]:
    scorer = ModelScorer(folder)
    messages = [row.messages for row in rows]
    chosen, rejected = (scorer.score(messages, [getattr(row, side) for row in rows]) for side in ("chosen", "rejected"))
    assert None not in chosen + rejected
    return list(zip(chosen, rejected, strict=True))  # type: ignore[arg-type]


def by_hand(rows: list[Preference], scores: list[tuple[float, float]], *, center: float, margins: bool) -> float:
    """The loss with plain numbers."""
    total_weight = sum(row.weight for row in rows)
    losses = []
    for row, (a, b) in zip(rows, scores, strict=True):
        d = a - b - (row.margin if margins else 0)
        right, wrong = -math.log(1 / (1 + math.exp(-d))), -math.log(1 / (1 + math.exp(d)))
        weight = row.weight * len(rows) / total_weight
        losses.append(weight * (row.target * right + (1 - row.target) * wrong) + center * (a + b) ** 2)
    return sum(losses) / len(losses)


@pytest.fixture(scope="module")
def judge(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose scores are far from 0."""
    at = tmp_path_factory.mktemp("judge")
    train(tiny, at, PAIRS, epochs=4, center=0)
    return at / "out"


def trainer_on(judge: Path, rows: list[Preference], at: Path, **changes: Any) -> Any:
    """Our trainer around a reward model that has learned already, so that scores are not 0."""
    from align.text import load_tokenizer, padding_id, stop_token_ids
    from align.train import arguments
    from align.train.examples import Limit, Pair, pairs_of
    from reward import train as module

    config = RewardModel(batch_size=len(rows), **changes)
    tokenizer = load_tokenizer(judge)
    stops = stop_token_ids(tokenizer, judge)
    pairs = pairs_of(tokenizer, rows, stops, Limit(400, ""))
    kept = [(pair, row.margin) for pair, row in zip(pairs, rows, strict=True) if isinstance(pair, Pair)]
    assert len(kept) == len(rows)
    options = arguments.trainer_options(
        config, rows=len(kept), seed=0, dtype="float32", report_to=[], out=at, work=at / "work"
    )
    model = load_reward_model(judge, "float32")
    return module._trainer(model, tokenizer, kept, config, options, padding_id(tokenizer, stops, 4096))


@pytest.mark.parametrize("margins", [False, True])
def test_the_loss_is_the_one_written_by_hand(judge: Path, tmp_path: Path, margins: bool) -> None:
    trainer = trainer_on(judge, SOFT, tmp_path, center=0.05, margins=margins)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(SOFT))])
    trainer.model.eval()
    expected = by_hand(SOFT, scores_of(judge, SOFT), center=0.05, margins=margins)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, abs=1e-6)
    assert abs(expected - math.log(2)) > 0.05


def test_with_target_1_and_weight_1_it_is_trls_trainer(judge: Path, tmp_path: Path) -> None:
    """The same losses, gradients applied and all, over every step of a training by TRL's own class."""
    import torch
    from trl import RewardTrainer

    rows = PAIRS
    ours = trainer_on(
        judge, rows, tmp_path / "a", center=0.01, epochs=6, learning_rate=1e-3, trainer={"logging_steps": 1}
    )
    theirs = RewardTrainer(
        model=load_reward_model(judge, "float32"),
        args=trainer_on(judge, rows, tmp_path / "b", center=0.01, epochs=6, learning_rate=1e-3,
                        trainer={"logging_steps": 1}).args,
        train_dataset=ours.train_dataset.remove_columns(["target", "weight", "margin"]),
        processing_class=ours.processing_class,
    )  # fmt: skip
    ours.row_lengths = None
    for trainer in (ours, theirs):
        trainer.train()
    mine, yours = ([row for row in t.state.log_history if "loss" in row] for t in (ours, theirs))
    assert len(mine) == 6
    for a, b in zip(mine, yours, strict=True):
        for name in ("loss", "grad_norm", "accuracy", "margin", "mean_reward", "num_tokens"):
            assert a[name] == pytest.approx(b[name], abs=1e-6), name
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_passes_of_a_step_add_up_to_the_step(tiny: Path, tmp_path: Path) -> None:
    """Ten pairs in steps of four: the last step has a pass fewer, and the mean is still over its own two pairs."""
    soft = [preference(n, target=0.5 + 0.05 * n, weight=0.5 + n, chosen=PAIRS[n].chosen) for n in range(10)]
    whole = train(tiny, tmp_path / "whole", soft, batch_size=4, trainer={"optim": "sgd"}, learning_rate=0.1)
    parts = train(
        tiny, tmp_path / "parts", soft, batch_size=4, micro_batch_size=1, trainer={"optim": "sgd"}, learning_rate=0.1
    )
    assert whole["steps"] == parts["steps"] == 6
    assert parts["train_loss_last"] == pytest.approx(whole["train_loss_last"], abs=1e-5)
    for a, b in zip(scores_of(tmp_path / "whole/out", soft), scores_of(tmp_path / "parts/out", soft), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8)])
def test_it_learns_and_publishes_a_whole_merged_folder(tiny: Path, tmp_path: Path, lora: Lora | None) -> None:
    from transformers import AutoModelForSequenceClassification

    long = preference(99, chosen="word " * 300)
    metrics = train(tiny, tmp_path, [*PAIRS, long], epochs=12, lora=lora)
    assert metrics["rows"] == 10
    assert list(metrics["dropped"].values()) == [1]
    assert metrics["train_loss_first"] > 0.6 > 0.3 > metrics["train_loss_last"]
    assert metrics["accuracy"] == 1
    assert metrics["reload_score_difference"] < 1e-4
    assert all(a - b > 1 for a, b in scores_of(tmp_path / "out", PAIRS))
    names = set(folder_files(tmp_path / "out"))
    assert {"model.safetensors", "config.json", "tokenizer.json", "dropped.parquet"} <= names
    assert (tmp_path / "out/logs/metrics.jsonl").is_file()
    assert ("adapter/adapter_model.safetensors" in names) == (lora is not None)
    text = (tmp_path / "out/config.json").read_text(encoding="utf-8")
    assert json.loads(text)["architectures"] == ["LlamaForSequenceClassification"]
    assert str(tmp_path) not in text + str(names)
    assert str(tiny) not in text
    _, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_ties_pull_scores_together(tiny: Path, tmp_path: Path) -> None:
    rows = [preference(n, target=1.0 if n % 2 else 0.5) for n in range(8)]
    train(tiny, tmp_path, rows, epochs=150, batch_size=8, center=0, trainer={"lr_scheduler_type": "constant"})
    for row, (a, b) in zip(rows, scores_of(tmp_path / "out", rows), strict=True):
        # the model can tell the prompts apart, so that each pair goes to its own target
        assert (a - b > 2) if row.target == 1 else (abs(a - b) < 1.5)


def test_centring_holds_the_mean_reward_at_zero(tiny: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path, PAIRS, epochs=20, center=1.0)
    scores = scores_of(tmp_path / "out", PAIRS)
    assert max(abs(a + b) for a, b in scores) < 0.5 < min(a - b for a, b in scores)


def stop_at(step: int) -> Progress:
    def progress(done: int, total: int, said: str = "") -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8, dropout=0.1)])
def test_a_stopped_run_ends_with_the_same_bytes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Lora | None
) -> None:
    from align.train import loop

    settings: dict[str, Any] = {"lora": lora, "epochs": 4, "trainer": {"logging_steps": 1}}
    train(tiny, tmp_path / "whole", PAIRS, **settings)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", 1e9)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "cut", PAIRS, progress=stop_at(7), **settings)
    assert list((tmp_path / "cut/work").glob("checkpoint-*"))
    seen: list[int] = []
    train(tiny, tmp_path / "cut", PAIRS, progress=lambda done, _, said="": seen.append(done), **settings)
    assert seen[0] > 1
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "cut/out" / name).read_bytes() == (tmp_path / "whole/out" / name).read_bytes(), name


def test_held_out_prompts_are_measured_and_not_trained_on(tiny: Path, tmp_path: Path) -> None:
    rows = [preference(n % 40, chosen=f"{GOOD} {n}") for n in range(80)]
    metrics = train(tiny, tmp_path, rows, epochs=6, batch_size=16, held_out=0.25)
    found = metrics["held_out"]
    assert metrics["rows"] + found["pairs"] == 80
    assert 10 <= found["pairs"] <= 30
    assert found["accuracy"]["clusters"] * 2 == found["pairs"]
    assert found["accuracy"]["mean"] > 0.9 > found["log_loss"]["mean"] + 0.3
    assert "held_out" not in train(tiny, tmp_path / "none", PAIRS)


def test_settings_that_cannot_act_and_rows_that_cannot_be_are_errors(tiny: Path, judge: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every pair has the margin 0"):
        train(tiny, tmp_path / "a", PAIRS, margins=True)
    with pytest.raises(DataError, match=r"no preference is left to train on: 1 × its weight is 0"):
        train(tiny, tmp_path / "b", [preference(0, weight=0.0)])
    with pytest.raises(DataError, match=r"target must be from 0\.5 to 1, found 0\.2"):
        train(tiny, tmp_path / "c", [preference(0, target=0.2)])
    with pytest.raises(ConfigError, match=r"lacks 1 weights, the first is score.weight|is no reward model"):
        ModelScorer(tiny)


def test_scores_do_not_depend_on_the_batch_and_what_is_too_long_has_none(judge: Path) -> None:
    scorer = ModelScorer(judge, dtype="float32", threads=1)
    prompts = [row.messages for row in PAIRS]
    answers = [row.chosen for row in PAIRS]
    together = scorer.score([*prompts, prompts[0], prompts[0]], [*answers, "word " * 600, ""])
    assert together[10] is None
    assert isinstance(together[11], float)  # an empty answer is bad, and still an answer
    for place, (messages, answer) in enumerate(zip(prompts, answers, strict=True)):
        assert scorer.score([messages], [answer])[0] == pytest.approx(together[place], abs=1e-5)
    (why,) = scorer.explain(prompts[:1], ["word " * 600])
    assert isinstance(why, str)
    assert why.startswith("longer than the reward model's context (")
    assert scorer.score([], []) == []
    assert scorer.id == ModelScorer(judge).id


def test_a_padding_token_that_ends_answers_is_replaced(tiny: Path, tmp_path: Path) -> None:
    """With pad = end of turn the model would read its head before the end, at a place that depends on nothing trained."""
    from align.text import load_tokenizer

    parent = tmp_path / "parent"
    parent.mkdir()
    for name in folder_files(tiny):
        (parent / name).write_bytes((tiny / name).read_bytes())
    tokenizer = load_tokenizer(parent)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(parent)
    train(parent, tmp_path, PAIRS, epochs=1)
    published = load_tokenizer(tmp_path / "out")
    assert published.pad_token_id not in (2, 3)
    assert load_reward_model(tmp_path / "out", "float32").config.pad_token_id == published.pad_token_id


def test_pair_accuracy_leaves_out_ties_and_what_has_no_score() -> None:
    rows = [preference(n, chosen=text, target=target) for n, (text, target) in enumerate(
        [("aaaa", 1.0), ("aa", 0.75), ("", 1.0), ("aaaaa", 0.5), ("?", 1.0), ("bbb", 1.0)]
    )]  # fmt: skip
    result = pair_accuracy(
        rows, lambda _, answers: [None if a == "?" else float(len(a)) for a in answers], seed=0, groups=list("xxyyyz")
    )
    assert (result["pairs"], result["ties"], result["unscored"]) == (4, 1, 1)
    # against "No." of length 3: 4 > 3, 2 < 3, 0 < 3, 3 = 3
    assert result["accuracy"]["mean"] == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    losses = [math.log1p(math.exp(-1)), 0.75 * math.log1p(math.exp(1)) + 0.25 * math.log1p(math.exp(-1)),
              math.log1p(math.exp(3)), math.log(2)]  # fmt: skip
    assert result["log_loss"]["mean"] == pytest.approx(sum(losses) / 4)
    assert {name: part["pairs"] for name, part in result["subsets"].items()} == {"x": 2, "y": 1, "z": 1}
    assert result["subsets"]["z"]["accuracy"] is None  # one prompt has no interval
