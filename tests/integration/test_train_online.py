"""RLOO and GRPO on a tiny model: they learn a toy reward, their advantages are the papers', a killed run ends the same."""

import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.config.training import Grpo, Lora, Online, Rloo
from align.errors import ConfigError, DataError, ServiceError, StageError
from align.progress import Progress
from align.store import folder_files, read_table
from align.text import load_tokenizer
from align.train import checkpoint, grpo, loop, online, rloo, verifying
from align.train import examples as ex
from align.train.online_trainer import PromptOrder
from align.types import Message, Prompt, prompt_id
from tests.tiny import make_tiny_model

METHODS: dict[str, tuple[Any, type[Online], Any]] = {
    "rloo": (rloo.train_rloo, Rloo, rloo._trainer),
    "grpo": (grpo.train_grpo, Grpo, grpo._trainer),
}
FULL_AND_LORA = pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=4)}], ids=["full", "lora"])
EACH = pytest.mark.parametrize("method", ["rloo", "grpo"])


def prompts(texts: Sequence[str]) -> list[Prompt]:
    conversations = [[Message(role="user", content=text)] for text in texts]
    return [Prompt(prompt_id(m), m, "train", f"prompts.jsonl:{n}") for n, m in enumerate(conversations, 1)]


PROMPTS = prompts([f"Case {n}: {'what now? ' * (n % 3)}" for n in range(10)])


def letters(conversations: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
    """The share of an answer's characters that are ASCII letters: about a fifth of the tokens of a random model."""
    return [sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text)) for text in answers]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its last layer is ten times larger, so that an adapter, which cannot change it, reaches clear preferences."""
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model(tmp_path_factory.mktemp("online") / "model", seed=5, tied=False)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= 10
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def config(method: str, **changes: Any) -> Any:
    usual = {"learning_rate": 3e-3, "batch_size": 16, "samples": 4, "max_tokens": 6, "type": "transformers"}
    return METHODS[method][1](**{**usual, **changes})


def train(
    method: str, parent: Path, at: Path, score: online.Score = letters, *, rows: Any = PROMPTS, progress: Any = None,
    dtype: str = "float32", **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    result: dict[str, Any] = METHODS[method][0](
        parent, rows, config(method, **changes), score=score, seed=1, dtype=dtype, report_to=[], threads=1,
        out=at / "out", work=at / "work", progress=progress,
    )  # fmt: skip
    return result


def make_trainer(method: str, parent: Path, work: Path, score: online.Score, **changes: Any) -> Any:
    asked = config(method, **changes)
    policy, tokenizer = checkpoint.load_model(parent, "float32"), load_tokenizer(parent)
    questions, _ = online.encode_prompts(tokenizer, PROMPTS, ex.Limit(500, "too long"))
    given = online.Arguments(
        score=score, seed=1, dtype="float32", report_to=[], threads=1, out=work / "out", work=work / "work"
    )
    options = online.online_options(asked, rows=len(questions), seed=1, dtype="float32", given=given)
    parts = online.trainer_parts(policy, tokenizer, [2, 3], questions, asked, score)
    return METHODS[method][2](online.Ready(parent, tokenizer, [2, 3], questions, options, parts))


def curve(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "logs/metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "reward" in row]


@EACH
@FULL_AND_LORA
def test_they_learn_what_the_score_likes(method: str, parent: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    changes = {"learning_rate": 3e-2 if changes else 1e-2, "batch_size": 32, "samples": 8, "epochs": 6, **changes}
    metrics = train(method, parent, tmp_path, beta=0.01, **changes)
    assert metrics["steps"] == 18  # ten prompts, four to a batch, so three batches to an epoch
    assert metrics["step0_logp_difference"] == 0
    assert metrics["mean_score_last"] > 0.6
    assert metrics["kl_last"] > 0.1
    assert metrics["unscored"] == 0
    assert metrics["reload_logp_difference"] < 1e-4
    steps = curve(tmp_path / "out")
    assert [row["step"] for row in steps] == list(range(1, 19))
    assert steps[0]["reward"] < 0.35
    assert metrics["mean_score_first"] == pytest.approx((steps[0]["reward"] + steps[1]["reward"]) / 2)
    assert abs(steps[0]["kl"]) < 1e-6
    files = set(folder_files(tmp_path / "out"))
    assert {"model.safetensors", "generation_config.json", "dropped.parquet"} <= files
    assert ("adapter/adapter_model.safetensors" in files) == ("lora" in changes)


def test_advantages_of_rloo_are_against_the_others_mean(parent: Path, tmp_path: Path) -> None:
    found = advantages("rloo", parent, tmp_path, [1.0, 2.0, 3.0, 6.0, 1.0, None, 3.0, 6.0])
    assert found == pytest.approx([1 - 11 / 3, 2 - 10 / 3, 0, 4, 1 - 4.5, 0, 3 - 3.5, 6 - 2], abs=1e-5)


def test_advantages_of_grpo_are_in_standard_deviations_of_the_group(parent: Path, tmp_path: Path) -> None:
    found = advantages("grpo", parent, tmp_path, [1.0, 2.0, 3.0, 6.0, 1.0, None, 3.0, 8.0])
    first, second = math.sqrt(14 / 3) + 1e-4, math.sqrt(13) + 1e-4
    expected = [-2 / first, -1 / first, 0, 3 / first, -3 / second, 0, -1 / second, 4 / second]
    assert found == pytest.approx(expected, abs=1e-5)


def advantages(method: str, parent: Path, tmp_path: Path, scores: list[float | None]) -> list[float]:
    """Advantages of two prompts' four answers with these scores, policy and reference still equal."""
    trainer = make_trainer(method, parent, tmp_path, lambda asked, answers: scores, batch_size=8)
    trainer.model.train()
    rows = [trainer.train_dataset[i] for i in (0, 0, 0, 0, 7, 7, 7, 7)]
    result: list[float] = trainer._generate_and_score_completions(rows)["advantages"].tolist()
    assert trainer.unscored == scores.count(None)
    return result


def test_rloo_takes_the_kl_divergence_off_the_score(parent: Path, tmp_path: Path) -> None:
    """The whole answer's log-ratio, times beta, computed here from the two models' own logits."""
    import torch

    other = make_tiny_model(tmp_path / "other", seed=6)
    trainer = make_trainer("rloo", parent, tmp_path, lambda asked, answers: [0.0] * 4, batch_size=4, beta=0.5)
    trainer.model.load_state_dict(checkpoint.load_model(other, "float32").state_dict())
    trainer.model.train()
    batch = trainer._generate_and_score_completions([trainer.train_dataset[0]] * 4)
    lengths = torch.tensor([len(answer) for _, answer in trainer.latest])
    policy, reference = (
        verifying.sequence_logps(checkpoint.load_model(folder, "float32"), trainer.latest) * lengths
        for folder in (other, parent)
    )
    rewards = -0.5 * (policy - reference)
    expected = [float(r - (rewards.sum() - r) / 3) for r in rewards]
    assert max(expected) > 0.1
    assert batch["advantages"].tolist() == pytest.approx(expected, abs=1e-4)


def stop_at(step: int) -> Progress:
    def progress(done: int, total: int, said: str = "") -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


TWICE: dict[str, Any] = {"trainer": {"num_iterations": 2}, "micro_batch_size": 8}


@pytest.mark.parametrize(
    ("method", "changes", "kills"),
    [
        ("rloo", {}, (1, 4, 5)),  # before the first save, at the epoch's end, in the second epoch
        ("grpo", {"lora": Lora(r=4)}, (5,)),
        ("grpo", TWICE, (6,)),  # six steps are three batches of answers: a save at step 5 would lie inside one
    ],
    ids=["rloo", "grpo lora", "grpo twice"],
)
def test_a_run_cut_short_ends_with_the_same_bytes(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, changes: Any, kills: tuple[int, ...]
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)
    calls: list[int] = []

    def score(asked: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        calls.append(len(answers))
        return [value if value != 0 else None for value in letters(asked, answers)]

    changes = {"epochs": 2, **changes}
    whole = train(method, parent, tmp_path / "whole", score, **changes)
    assert sum(calls) == 96  # 2 epochs of 3 batches of 16
    assert 0 < whole["unscored"] < 96
    for step in kills:
        with pytest.raises(KeyboardInterrupt):
            train(method, parent, tmp_path / "cut", score, progress=stop_at(step), **changes)
    started: list[int] = []
    again = train(
        method, parent, tmp_path / "cut", score, progress=lambda done, total, said="": started.append(done), **changes
    )
    every = 2 if changes.get("trainer") else 1
    assert started[0] == (kills[-1] - 1) // every * every + 1
    assert again == whole
    assert folder_files(tmp_path / "cut/out") == folder_files(tmp_path / "whole/out")
    timeless = [[{k: v for k, v in row.items() if "time" not in k} for row in curve(tmp_path / at / "out")] for at in ("cut", "whole")]  # fmt: skip
    assert timeless[0] == timeless[1]


def test_prompts_that_do_not_fit_are_dropped_by_name(parent: Path, tmp_path: Path) -> None:
    rows = [*PROMPTS, *prompts(["word " * 80, "word " * 600])]
    metrics = train("rloo", parent, tmp_path, rows=rows, max_prompt_tokens=100)
    assert metrics["rows"] == 10
    assert metrics["dropped"] == {"longer than max_prompt_tokens (100)": 2}
    assert [row["where"] for row in read_table(tmp_path / "out/dropped.parquet").to_pylist()] == [
        "prompts.jsonl:1", "prompts.jsonl:2",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"no prompt is left to train on: 2 × longer than the 500 tokens for which"):
        train("rloo", parent, tmp_path, rows=prompts(["word " * 600] * 2), max_prompt_tokens=600, max_tokens=12)
    with pytest.raises(ConfigError, match=r"rloo.max_tokens: an answer may take 512 tokens"):
        train("rloo", parent, tmp_path, max_tokens=512)


def test_the_score_reads_the_conversation_and_the_answer_alone(parent: Path, tmp_path: Path) -> None:
    """No control token, no template text; what it does to what it is given stays its own."""
    seen: list[tuple[str, str]] = []

    def score(asked: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        seen.extend((messages[0]["content"], text) for messages, text in zip(asked, answers, strict=True))
        for messages in asked:
            messages.clear()
        return [0.0] * len(answers)

    train("rloo", parent, tmp_path, score)
    assert len(seen) == 48
    assert {content for content, _ in seen} == {p.messages[0]["content"] for p in PROMPTS}
    assert not any("<|" in text for _, text in seen)
    for start in range(0, 48, 4):  # the answers to a prompt come together
        assert len({content for content, _ in seen[start : start + 4]}) == 1


def test_an_answer_ends_at_any_stop_token_and_is_read_without_it(parent: Path) -> None:
    tokenizer = load_tokenizer(parent)
    hi = tokenizer("hi", add_special_tokens=False)["input_ids"]
    for ids in (hi, [*hi, 2], [*hi, 3]):
        assert online.answer_text(tokenizer, [], ids, [2, 3]) == "hi"
    assert online.answer_text(tokenizer, [], [2], [2, 3]) == ""


def test_trls_own_end_of_answer_is_ours(parent: Path, tmp_path: Path) -> None:
    trainer = make_trainer("grpo", parent, tmp_path, letters)
    assert sorted(trainer.eos_token_ids) == [2, 3]
    assert trainer.generation_config.top_k == 0


BAD: list[tuple[Any, str]] = [
    (lambda asked, answers: [1.0], "the score gave 1 numbers for 16 answers"),
    (lambda asked, answers: [float("nan")] * len(answers), "the score gave float 'nan'"),
    (lambda asked, answers: ["good"] * len(answers), "the score gave str 'good'"),
    (lambda asked, answers: [None] * len(answers), "not one of the first 16 answers could be scored"),
    (lambda asked, answers: 1 / 0, r"the score raised ZeroDivisionError \(division by zero\)"),
    (lambda asked, answers: None, "the score raised TypeError"),
]


@pytest.mark.parametrize(("score", "words"), BAD, ids=["too few", "nan", "text", "none", "raises", "no list"])
def test_a_score_of_no_use_is_an_error_for_people(parent: Path, tmp_path: Path, score: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        train("rloo", parent, tmp_path, score)
    assert not (tmp_path / "out/model.safetensors").exists()


def test_errors_for_people_pass_through(parent: Path, tmp_path: Path) -> None:
    def score(asked: Any, answers: Any) -> list[float | None]:
        raise ServiceError("the reward server is gone")

    with pytest.raises(ServiceError, match="the reward server is gone"):
        train("rloo", parent, tmp_path, score)


def test_another_reference_than_the_parent_is_noticed(parent: Path, tmp_path: Path) -> None:
    questions = [online.Question([], [5, 6, 7])]
    trainer = make_trainer("rloo", parent, tmp_path, letters)
    assert online.check_reference(trainer, questions, 1e-4) == 0
    other = checkpoint.load_model(make_tiny_model(tmp_path / "other", seed=6), "float32")
    trainer.ref_model.load_state_dict(other.state_dict())
    with pytest.raises(StageError, match=r"policy and reference differ before the first step: log-probabilities by \d"):
        online.check_reference(trainer, questions, 1e-4)


@EACH
def test_the_methods_of_trls_that_we_replace_or_call(method: str, parent: Path, tmp_path: Path) -> None:
    trainer = make_trainer(method, parent, tmp_path, letters)
    base = next(kind for kind in type(trainer).__mro__ if kind.__module__.startswith("trl."))
    expected = {
        "_get_train_sampler": ["dataset"],
        "_tokenize_prompts": ["prompts"],
        "_generate": ["prompts"],
        "_generate_and_score_completions": ["inputs"],
        "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
        "_send_telemetry": [],
    }
    for name, names in expected.items():
        replaced = getattr(base, name)
        assert list(inspect.signature(replaced).parameters)[1:] == names
        assert getattr(type(trainer), name) is not replaced
    logps = list(inspect.signature(base._get_per_token_logps_and_entropies).parameters)
    assert logps[1:5] == ["model", "input_ids", "attention_mask", "logits_to_keep"]


def test_each_epoch_asks_every_prompt_and_fills_its_last_batch() -> None:
    order = PromptOrder(5, prompts_per_batch=2, samples=3, passes=2, seed=0)
    asked = list(order)
    assert len(asked) == len(order) == 36
    batches = [asked[i : i + 6] for i in range(0, 36, 6)]
    assert [batches[i] == batches[i + 1] for i in (0, 2, 4)] == [True] * 3  # each batch twice over
    prompts_of = [batch[::3] for batch in batches[::2]]
    assert sorted([prompt for batch in prompts_of for prompt in batch][:5]) == [0, 1, 2, 3, 4]
    assert prompts_of[2][1] == prompts_of[0][0]
    assert list(order) == asked
    order.set_epoch(1)
    assert list(order) != asked


def test_fewer_prompts_than_a_batch_takes_are_asked_more_often() -> None:
    assert sorted(PromptOrder(2, prompts_per_batch=4, samples=1, passes=1, seed=0)) == [0, 0, 1, 1]


@pytest.mark.parametrize(("accumulation", "per_generation", "passes", "steps"), [(1, 1, 1, 1), (4, 4, 1, 1), (4, 4, 3, 3), (2, 8, 1, 4), (4, 2, 1, 1)])  # fmt: skip
def test_a_cycle_is_what_one_batch_of_answers_lasts(accumulation: int, per_generation: int, passes: int, steps: int) -> None:  # fmt: skip
    names = {"gradient_accumulation_steps": accumulation, "steps_per_generation": per_generation}
    assert online.cycle(SimpleNamespace(**names, num_iterations=passes)) == steps


def test_options_that_do_not_go_together_are_the_users_to_read(parent: Path, tmp_path: Path) -> None:
    both = {"generation_batch_size": 16, "steps_per_generation": 1}
    with pytest.raises(ConfigError, match="rloo: 'generation_batch_size' and 'steps_per_generation' can not be both"):
        train("rloo", parent, tmp_path, trainer=both)


def test_bfloat16_trains_and_is_published_as_such(parent: Path, tmp_path: Path) -> None:
    metrics = train("grpo", parent, tmp_path, dtype="bfloat16", lora=Lora(r=4))
    assert checkpoint.stored_dtypes(tmp_path / "out") == {"bfloat16"}
    assert metrics["step0_logp_difference"] == 0
