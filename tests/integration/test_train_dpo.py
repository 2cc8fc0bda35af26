"""DPO on a tiny model: the parent is the reference, targets and weights act, LoRA and full training publish whole."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.config.training import Dpo, Lora
from align.errors import ConfigError, StageError
from align.store import folder_files
from align.text import load_tokenizer
from align.train import arguments, checkpoint, collate, dpo, dpo_trainer, loop, verifying
from align.train import examples as ex
from align.types import Preference
from tests.tiny import make_tiny_model

PAIRS = [
    Preference(
        f"p{n}", f"q{n}", [{"role": "user", "content": f"Case {n}: {'what now? ' * (n % 3)}"}], "a", "b",
        ("We are sorry. " * (1 + n % 2)).strip(), "That is not our fault.", 1.0, 1.0, 0.0, 1, [],
    )
    for n in range(12)
]  # fmt: skip
SOFT = [replace(pair, target=0.6 + 0.1 * (n % 4), weight=0.5 + n % 3) for n, pair in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("dpo") / "model", seed=3)


def config(**changes: Any) -> Dpo:
    return Dpo(**{"learning_rate": 1e-3, "batch_size": 4, "epochs": 2, **changes})


def train(
    parent: Path,
    at: Path,
    rows: list[Preference] = PAIRS,
    *,
    progress: Any = None,
    reference_cache: Path | None = None,
    threads: int = 1,
    **changes: Any,
) -> dict[str, Any]:
    dtype = changes.pop("dtype", "float32")
    return dpo.train_dpo(
        parent, rows, config(**changes), seed=1, dtype=dtype, report_to=[], threads=threads, out=at / "out",
        work=at / "work", progress=progress, reference_cache=reference_cache,
    )  # fmt: skip


def encoded(parent: Path, rows: list[Preference]) -> tuple[Any, list[ex.Pair]]:
    tokenizer = load_tokenizer(parent)
    kept, dropped = ex.encode_preferences(tokenizer, rows, [2, 3], ex.Limit(500, "too long"))
    assert dropped == []
    return tokenizer, kept


def make_trainer(parent: Path, rows: list[Preference], work: Path, threads: int = 1, **changes: Any) -> Any:
    asked = config(**changes)
    tokenizer, kept = encoded(parent, rows)
    seed = arguments.prepare_process(1, threads)
    options = arguments.trainer_options(
        asked, rows=len(kept), seed=seed, dtype="float32", report_to=[], out=work, work=work
    )
    trainer = dpo._trainer(checkpoint.load_model(parent, "float32"), tokenizer, kept, asked, options)
    dpo.add_reference(trainer, kept, range(len(kept)), work / "reference", "float32")
    return trainer


def answer_logps(folder: Path, rows: list[Preference], which: str) -> list[float]:
    """Log-probability of each chosen or rejected answer, straight from the model's logits."""
    _, kept = encoded(folder, rows)
    sequences = [(pair.prompt_ids, getattr(pair, which)) for pair in kept]
    means = verifying.sequence_logps(checkpoint.load_model(folder, "float32"), sequences)
    return [float(mean) * len(answer) for mean, (_, answer) in zip(means, sequences, strict=True)]


@pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=4), "learning_rate": 1e-2}], ids=["full", "lora"])
def test_it_learns_what_is_preferred(parent: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    metrics = train(parent, tmp_path, **changes)
    assert metrics["step0_logp_difference"] == 0
    assert metrics["train_loss_first"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["rewards_accuracies"] == 1
    assert metrics["train_loss_last"] < 0.6
    assert metrics["steps"] == 6
    before, after = (
        [
            c - r
            for c, r in zip(answer_logps(f, PAIRS, "chosen_ids"), answer_logps(f, PAIRS, "rejected_ids"), strict=True)
        ]
        for f in (parent, tmp_path / "out")
    )
    assert all(new > old + 1 for new, old in zip(after, before, strict=True))


def test_a_published_checkpoint_is_complete_and_only_that(parent: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    train(parent, tmp_path, lora=Lora(r=4), learning_rate=1e-2)
    out = tmp_path / "out"
    adapter = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert set(folder_files(out)) == adapter | {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "dropped.parquet",
    }  # fmt: skip
    own = [
        path for path in out.rglob("*.json") if path.name != "adapter_config.json"
    ]  # where its base lies is no content
    assert not any(str(parent).encode() in path.read_bytes() for path in own)
    modules = json.loads((out / "adapter/adapter_config.json").read_text())["target_modules"]
    assert modules == sorted(modules)  # PEFT's set has another order in every process
    with_adapter = PeftModel.from_pretrained(checkpoint.load_model(parent, "float32"), out / "adapter")
    _, kept = encoded(parent, PAIRS)
    sequences = [(pair.prompt_ids, pair.chosen_ids) for pair in kept]
    merged = verifying.sequence_logps(checkpoint.load_model(out, "float32"), sequences)
    beside = verifying.sequence_logps(with_adapter, sequences)
    started = verifying.sequence_logps(checkpoint.load_model(parent, "float32"), sequences)
    assert torch.allclose(merged, beside, atol=1e-5)
    assert (merged - started).abs().max() > 0.01


def test_an_adapter_that_is_not_fresh_is_noticed(parent: Path, tmp_path: Path) -> None:
    import torch

    trainer = make_trainer(parent, PAIRS, tmp_path / "work", lora=Lora(r=4))
    assert dpo.check_reference(trainer, 1e-4) == 0
    with torch.no_grad():
        for name, weights in trainer.model.named_parameters():
            if "lora_B" in name:
                weights += 0.1
    with pytest.raises(StageError, match="differ before the first step"):
        dpo.check_reference(trainer, 1e-4)


@pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=4)}], ids=["full", "lora"])
def test_precomputed_log_probabilities_stand_in_their_own_rows(
    parent: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    trainer = make_trainer(parent, PAIRS, tmp_path / "work", **changes)
    assert trainer.ref_model is None
    for column, which in zip(collate.REFERENCE_COLUMNS, ("chosen_ids", "rejected_ids"), strict=True):
        assert trainer.train_dataset[column] == pytest.approx(answer_logps(parent, PAIRS, which), abs=1e-3)


def test_with_and_without_precomputing_the_first_steps_are_the_same(parent: Path, tmp_path: Path) -> None:
    """Two steps of 4 over 12 pairs do not see all pairs, so nothing is precomputed; three steps do."""
    short = train(parent, tmp_path / "short", trainer={"max_steps": 2, "lr_scheduler_type": "constant"})
    assert short["steps"] == 2
    train(parent, tmp_path / "long", trainer={"max_steps": 3, "lr_scheduler_type": "constant"})
    logged = [
        [json.loads(line) for line in (tmp_path / name / "out/logs/metrics.jsonl").read_text().splitlines()][1]
        for name in ("short", "long")
    ]
    assert logged[0]["step"] == logged[1]["step"] == 2
    assert logged[0]["rewards/margins"] != 0
    for key in ("loss", "rewards/margins", "logps/chosen"):
        assert logged[0][key] == pytest.approx(logged[1][key], abs=1e-4)


@pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=4)}], ids=["full", "lora"])
def test_certain_targets_of_equal_weight_give_trls_loss_and_gradients(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    import torch

    ours = make_trainer(parent, PAIRS, tmp_path / "ours", **changes)
    monkeypatch.setattr(dpo_trainer, "trls_alone", lambda args: ["all of it"])
    theirs = make_trainer(parent, PAIRS, tmp_path / "theirs", **changes)
    assert (type(theirs), theirs.data_collator.shared) == (dpo_trainer.Dpo, False)
    assert (type(ours), ours.data_collator.shared) == (dpo_trainer.SoftDpo, True)
    found = []
    for trainer in (theirs, ours):
        torch.manual_seed(0)
        with torch.no_grad():  # away from the parent, so that margins are not 0
            for weights in trainer.model.parameters():
                if weights.requires_grad:
                    weights += 0.05 * torch.randn_like(weights)
        (batch,) = dpo._batches(trainer, range(4))
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        metrics = {key: values[-1] for key, values in trainer._metrics["train"].items()}
        found.append((loss, {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}, metrics))
    (loss, gradients, metrics), (soft_loss, soft_gradients, soft_metrics) = found
    assert abs(loss.item() - math.log(2)) > 0.01
    assert loss.item() == pytest.approx(soft_loss.item(), abs=1e-6)
    assert gradients.keys() == soft_gradients.keys()
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3
    assert all(torch.allclose(gradients[name], soft_gradients[name], atol=1e-6) for name in gradients)
    assert soft_metrics == pytest.approx({key: metrics[key] for key in soft_metrics}, abs=1e-5, rel=1e-6)


def test_targets_act(parent: Path, tmp_path: Path) -> None:
    """A target of one half asks for no difference, and at the start there is none: the gradient is 0."""
    trainer = make_trainer(parent, [replace(pair, target=0.5) for pair in PAIRS], tmp_path / "work")
    (batch,) = dpo._batches(trainer, range(4))
    trainer.compute_loss(trainer.model, batch).backward()
    assert max(float(p.grad.abs().max()) for p in trainer.model.parameters()) < 1e-6


def test_weights_act_and_average_one_over_the_data(parent: Path, tmp_path: Path) -> None:
    trainer = make_trainer(parent, SOFT, tmp_path / "work")
    weights = trainer.train_dataset["weight"]
    assert sum(weights) / len(weights) == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(3)
    losses = [
        trainer.compute_loss(trainer.model, batch).item() for row in (0, 1) for batch in dpo._batches(trainer, [row])
    ]
    assert losses == pytest.approx([weights[0] * math.log(2), weights[1] * math.log(2)], abs=1e-5)


def test_soft_targets_train_to_the_end(parent: Path, tmp_path: Path) -> None:
    metrics = train(parent, tmp_path, SOFT, micro_batch_size=2)
    assert metrics["rewards_margins"] > 0.1
    assert metrics["step0_logp_difference"] == 0


@pytest.mark.parametrize("option", [{"loss_type": "aot"}, {"use_weighting": True}])
def test_a_loss_that_would_ignore_targets_and_weights_is_refused(
    parent: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} cannot act on preferences with soft targets"):
        train(parent, tmp_path / "soft", SOFT, trainer=option)
    assert train(parent, tmp_path / "plain", PAIRS, trainer={**option, "max_steps": 1})["steps"] == 1


@pytest.mark.parametrize(
    ("changes", "rows"),
    [({}, PAIRS), ({"micro_batch_size": 2}, SOFT), ({"lora": Lora(r=4)}, PAIRS)],
    ids=["full", "soft", "lora"],
)
def test_a_run_cut_short_ends_with_the_same_bytes(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], rows: list[Preference]
) -> None:
    def stop(done: int, total: int, said: str = "") -> None:
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)
    whole = train(parent, tmp_path / "whole", rows, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(parent, tmp_path / "cut", rows, progress=stop, **changes)
    started: list[int] = []
    again = train(parent, tmp_path / "cut", rows, progress=lambda done, total, said="": started.append(done), **changes)
    assert started == [5, 6]
    assert again == whole
    assert folder_files(tmp_path / "cut/out") == folder_files(tmp_path / "whole/out")


def test_bfloat16_agrees_with_its_reference_and_is_published_as_such(parent: Path, tmp_path: Path) -> None:
    import torch

    low = tmp_path / "low"
    checkpoint.import_model(str(parent), low, revision=None, chat_template=None, dtype="bfloat16")
    for name, changes in (("full", {}), ("lora", {"lora": Lora(r=4)})):
        metrics = train(low, tmp_path / name, dtype="bfloat16", **changes)
        assert metrics["step0_logp_difference"] <= dpo.STEP0_TOLERANCE["bfloat16"]
        assert checkpoint.load_model(tmp_path / name / "out", "float32").dtype == torch.float32
        assert checkpoint.stored_dtypes(tmp_path / name / "out") == {"bfloat16"}


def test_dropped_pairs_are_counted_and_written(parent: Path, tmp_path: Path) -> None:
    rows = [*PAIRS, replace(PAIRS[0], id="same", rejected=PAIRS[0].chosen), replace(PAIRS[1], id="none", chosen="")]
    metrics = train(parent, tmp_path, rows, trainer={"max_steps": 1})
    assert metrics["rows"] == 12
    assert metrics["dropped"] == {"chosen and rejected are the same": 1, "the answer is empty": 1}
