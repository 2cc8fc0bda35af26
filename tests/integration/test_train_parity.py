"""With targets of 1 and equal weights our losses are TRL's: values and gradients on one batch, and 50 steps of training."""

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.config.training import Dpo, Kto, Lora
from align.errors import DataError
from align.text import load_tokenizer
from align.train import arguments, checkpoint, collate, dpo, kto, loop
from align.train import examples as ex
from align.types import BinaryLabel, Preference
from tests.tiny import make_tiny_model

WORDS = [
    "We",
    "are",
    "sorry",
    "and",
    "will",
    "send",
    "a",
    "new",
    "one",
    "today",
    "because",
    "the",
    "parcel",
    "is",
    "late",
]
draw = random.Random(0)


def text(least: int = 1) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(least, 9)))


PAIRS = [
    Preference(
        f"p{n}", f"q{n}", [{"role": "user", "content": text()}], "a", "b", text(2), text(2) + "!", 1.0, 1.0, 0.0, 1, []
    )
    for n in range(16)
]
BINARY = [
    BinaryLabel(f"t{n}", f"q{n}", pair.messages, "a", pair.chosen, float(n % 3 > 0), 1.0, 1, [])
    for n, pair in enumerate(PAIRS)
]
OURS_AND_TRLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sigmoid": ({}, {}),
    "hinge": ({"loss": "hinge"}, {"loss_type": ["hinge"]}),
    "ipo": ({"loss": "ipo"}, {"loss_type": ["ipo"]}),
    "robust": ({"loss": "robust", "label_noise": 0.3}, {"loss_type": ["robust"], "label_smoothing": 0.3}),
    "length-normalised": ({"length": "mean", "beta": 5.0}, {"loss_type": ["sigmoid_norm"], "beta": 5.0}),
    "length-ld": ({"length": "ld", "ld_alpha": 0.3}, {"ld_alpha": 0.3}),
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("parity") / "model", seed=3)


def ours(parent: Path, work: Path, **changes: Any) -> Any:
    config = Dpo(**{"learning_rate": 1e-3, "batch_size": 4, **changes})
    tokenizer = load_tokenizer(parent)
    kept, _ = ex.encode_preferences(tokenizer, PAIRS, [2, 3], ex.Limit(500, "too long"))
    options = arguments.trainer_options(
        config, rows=len(kept), seed=arguments.prepare_process(1, 1), dtype="float32", report_to=[], out=work, work=work
    )  # fmt: skip
    trainer = dpo._trainer(checkpoint.load_model(parent, "float32"), tokenizer, kept, config, options)
    dpo.add_reference(trainer, kept, range(len(kept)), work / "reference", "float32")
    return trainer


def trls(parent: Path, rows: Any, work: Path, **changes: Any) -> Any:
    """TRL's own trainer with its own collator, on the same tokens in the order of `rows`."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Tokens(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    args = DPOConfig(
        output_dir=str(work), learning_rate=1e-3, per_device_train_batch_size=4, use_cpu=True, bf16=False, seed=1,
        train_sampling_strategy="sequential", report_to="none", save_strategy="no", logging_steps=1, max_length=None,
        disable_tqdm=True, gradient_checkpointing=False, **{"beta": 0.1, **changes},
    )  # fmt: skip
    model, reference = (checkpoint.load_model(parent, "float32") for _ in range(2))
    data = Dataset.from_list(rows)
    tokenizer = load_tokenizer(parent)
    return Tokens(model=model, ref_model=reference, args=args, train_dataset=data, processing_class=tokenizer)


def gradients(model: Any) -> Any:
    import torch

    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def literal(batch: dict[str, Any], seed: int) -> Any:
    """A model that gives literal log-probabilities, in float64, for the answers' tokens of one padded batch."""
    import torch

    class Literal(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shape = batch["input_ids"][:, 1:].shape
            drawn = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            self.log_probs = torch.nn.Parameter(-3 * drawn)

        def forward(self, labels: Any, **_: Any) -> Any:
            kept = labels[:, 1:] != -100
            nothing = torch.zeros(kept.shape)
            return SimpleNamespace(
                log_probs=self.log_probs * kept, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
            )

    return Literal()


@pytest.mark.parametrize("name", OURS_AND_TRLS)
def test_loss_and_gradients_on_literal_tensors_are_trls(parent: Path, tmp_path: Path, name: str) -> None:
    import torch

    changes, theirs = OURS_AND_TRLS[name]
    mine = ours(parent, tmp_path, **changes)
    rows = [{k: row[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")} for row in mine.train_dataset][:4]
    other = trls(parent, rows, tmp_path, **theirs)
    batch = replace(mine.data_collator, shared=False).batch([mine.train_dataset[n] for n in range(4)])
    policy, other.ref_model = literal(batch, 1), literal(batch, 2)
    with torch.no_grad():
        logps = collate.answer_logps(other.ref_model, batch, tail=mine.ld_alpha)
    batch |= dict(zip(collate.REFERENCE_COLUMNS, logps, strict=True))
    losses = mine.compute_loss(policy, batch), other.compute_loss(policy, other.data_collator(rows))
    gradients = [torch.autograd.grad(loss, policy.log_probs)[0] for loss in losses]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6, abs=1e-6)
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-6
    assert gradients[1].abs().max() > 1e-3


@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_fifty_steps_are_trls(parent: Path, tmp_path: Path, name: str) -> None:
    changes, theirs = OURS_AND_TRLS[name]
    steps = {"max_steps": 50, "logging_steps": 1}
    rate = 1e-4 if name == "ipo" else 1e-3
    mine = ours(parent, tmp_path, epochs=13, learning_rate=rate, trainer=steps, **changes)
    order: list[int] = []
    sampler = mine._get_train_sampler()
    for epoch in range(13):
        sampler.set_epoch(epoch)
        order += list(sampler)
    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [{k: mine.train_dataset[i][k] for k in keys} for i in order]
    other = trls(parent, rows, tmp_path, max_steps=50, **theirs)
    other.args.learning_rate = rate
    losses = []
    for trainer in (mine, other):
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert len(losses[0]) == 50
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-4)


def binary_trainer(parent: Path, work: Path, rows: list[BinaryLabel], **changes: Any) -> Any:
    config = Kto(**{"learning_rate": 1e-3, "batch_size": 4, **changes})
    tokenizer = load_tokenizer(parent)
    kept, _ = ex.encode_binary(tokenizer, rows, [2, 3], ex.Limit(500, "too long"))
    options = arguments.trainer_options(
        config, rows=len(kept), seed=arguments.prepare_process(1, 1), dtype="float32", report_to=[], out=work, work=work
    )  # fmt: skip
    trainer = kto._trainer(checkpoint.load_model(parent, "float32"), tokenizer, kept, config, options, 512)
    kto.add_reference(trainer, len(kept))
    return trainer


def test_kto_is_trls(parent: Path, tmp_path: Path) -> None:
    """TRL's own forward and loss on the same batch: the class above ours."""
    import torch
    from trl import KTOTrainer

    mine = binary_trainer(parent, tmp_path, BINARY, desirable_weight=1.5, undesirable_weight=0.5)
    mine.desirable_weight, mine.undesirable_weight = 1.5, 0.5
    torch.manual_seed(5)
    with torch.no_grad():
        for a in mine.model.parameters():
            a += 0.02 * torch.randn_like(a)
    batch = next(iter(mine.batches(range(4))))
    bare = {k: v for k, v in batch.items() if k not in ("target", "weight")}
    found = []
    for loss in (
        mine._compute_loss(mine.model, batch, False),
        KTOTrainer._compute_loss(mine, mine.model, bare, False),
    ):
        mine.model.zero_grad()
        loss.backward()
        found.append((loss.item(), gradients(mine.model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert (found[0][1] - found[1][1]).abs().max() < 1e-6


def test_a_binary_label_in_the_middle_moves_nothing_and_sides_are_balanced() -> None:
    rows = [ex.BinaryExample([1], [2], target, weight) for target, weight in ((1, 3.0), (0, 1.0), (0.5, 2.0))]
    assert kto.sides(rows, Kto()) == (1.0, 2.0)  # good 3 + 1, bad 1 + 1
    assert kto.sides(rows, Kto(undesirable_weight=3)) == (1.0, 3.0)
    assert kto.sides(rows[:1], Kto()) == (1.0, 1.0)


def test_the_neighbours_answer_stays_within_the_pass() -> None:
    rows = [ex.BinaryExample([0], [n], 1.0, 1.0) for n in range(5)]
    assert kto.others_answers(rows, 2, 99) == [[1], [0], [3], [2], [3]]
    long = [ex.BinaryExample([7] * 5, [1, 2, 3, 4], 1.0, 1.0), ex.BinaryExample([7], [5] * 8, 0.0, 1.0)]
    assert kto.others_answers(long, 2, 9) == [[5] * 4, [1, 2, 3, 4]], (
        "with the prompt no pair is longer than the context"
    )


def train(parent: Path, at: Path, rows: list[BinaryLabel], *, progress: Any = None, **changes: Any) -> dict[str, Any]:
    config = Kto(**{"learning_rate": 1e-3, "batch_size": 4, "epochs": 4, **changes})
    return kto.train_kto(
        parent, rows, config, seed=1, dtype="float32", report_to=[], threads=1, out=at / "out", work=at / "work",
        progress=progress,
    )  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=4), "learning_rate": 1e-2}], ids=["full", "lora"])
def test_kto_learns_and_resumes_with_the_same_bytes(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    def stop(done: int, total: int, said: str = "") -> None:
        if done == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", float("inf"))
    rows = [replace(row, target=abs(row.target - 0.1), weight=1 + n % 2) for n, row in enumerate(BINARY)]
    metrics = train(parent, tmp_path / "whole", rows, **changes)
    assert metrics["steps"] == 16
    assert metrics["step0_logp_difference"] == 0
    logged = [json.loads(line) for line in (tmp_path / "whole/out/logs/metrics.jsonl").read_text().splitlines()]
    first, last = (
        [row["rewards/margins"] for row in logged if "rewards/margins" in row and low < row["epoch"] <= low + 1]
        for low in (0, 3)
    )
    assert sum(last) / len(last) > sum(first) / len(first) + 0.05
    with pytest.raises(KeyboardInterrupt):
        train(parent, tmp_path / "cut", rows, progress=stop, **changes)
    assert list((tmp_path / "cut/work").glob("checkpoint-*"))
    train(parent, tmp_path / "cut", rows, **changes)
    whole, cut = ((tmp_path / at / "out/model.safetensors").read_bytes() for at in ("whole", "cut"))
    assert whole == cut


def test_the_reference_is_asked_about_the_rows_that_are_seen(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of four rows need eight of sixteen; what is trained is the same as with all of them."""
    short: dict[str, Any] = {"trainer": {"max_steps": 2}, "micro_batch_size": 2}
    rows, weights, computed = (BINARY * 4)[:16], [], []
    whole, add = len(rows), kto.add_reference
    for count in (8, whole):

        def counted(trainer: Any, planned: int, count: int = count) -> None:
            assert planned == 8
            add(trainer, count)
            column = trainer.train_dataset["ref_logps"]
            computed.append(sum(value == value for value in column))

        monkeypatch.setattr(kto, "add_reference", counted)
        assert train(parent, tmp_path / str(count), rows, **short)["steps"] == 2
        weights.append((tmp_path / str(count) / "out" / "model.safetensors").read_bytes())
    assert computed == [8, whole]
    assert weights[0] == weights[1]


def test_one_binary_label_is_too_few(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="KTO needs two binary labels or more"):
        train(parent, tmp_path, BINARY[:1])
