"""The `trainer:` mapping and the generated tables behind it."""

import json
from pathlib import Path
from typing import Any

import pytest

from align.config.generate import FILE, tables
from align.config.trainer import OWNED, TrainerError, check_trainer, table_of, trl_tables
from align.config.training import Dpo, Grpo, Kto, Ppo, RewardModel, Rloo, Sft, Training


@pytest.mark.parametrize(
    ("kind", "mapping", "said"),
    [
        ("dpo", {"weight_decy": 0.1}, "weight_decy: unknown key; did you mean weight_decay?"),
        ("dpo", {"qqqqqq": 0.1}, "qqqqqq: unknown key; the options are those of TRL's DPOConfig"),
        ("sft", {"learning_rate": 1}, "learning_rate: not to be set here; use sft.learning_rate"),
        ("sft", {"learning_rat": 1}, "unknown key; if learning_rate is meant: use sft.learning_rate"),
        ("dpo", {"output_dir": "x"}, "output_dir: not to be set here; the stage works and publishes inside the run's"),
        ("dpo", {"max_steps": "5"}, "max_steps: must be a whole number, found '5'"),
        ("dpo", {"max_steps": True}, "max_steps: must be a whole number, found True"),
        ("dpo", {"logging_first_step": 1}, "logging_first_step: must be true or false, found 1"),
        ("dpo", {"weight_decay": None}, "weight_decay: must be a number, found None"),
        ("sft", {"lr_scheduler_type": "cosin"}, "lr_scheduler_type: cannot be 'cosin'; did you mean cosine?"),
        ("dpo", {"loss_type": ["sigmoid", "ippo"]}, "loss_type: cannot be 'ippo'; did you mean ipo?"),
        ("dpo", {"label_smoothing": 0.1}, "label_smoothing: does nothing with loss_type sigmoid; it acts with aot "),
        (
            "dpo",
            {"discopop_tau": 0.1, "loss_type": ["ipo", "sft"]},
            "discopop_tau: does nothing with loss_type ipo, sft;",
        ),
        (
            "dpo",
            {"f_alpha_divergence_coef": 1.0},
            "does nothing with f_divergence_type reverse_kl; it acts with alpha_d",
        ),
        ("dpo", {"loss_type": "ipo"}, "loss_type: ipo is not to be set here; use dpo.loss: ipo"),
        ("dpo", {"loss_type": ["sigmoid_norm"]}, "use dpo.length: mean"),
        ("dpo", {"ld_alpha": 0.5}, "ld_alpha: not to be set here; use dpo.length and dpo.ld_alpha"),
        ("kto", {"loss_type": "kto"}, "loss_type: not to be set here; the loss is KTO's"),
        ("dpo", {"loss_weights": [1, 1]}, "loss_weights: has 2 numbers for 1 losses"),
        ("dpo", {"padding_free": True}, "padding_free: not to be set here; examples are not packed"),
    ],
)
def test_what_cannot_be_meant(kind: Any, mapping: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainerError) as caught:
        check_trainer(kind, mapping)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "mapping"),
    [
        ("dpo", {"max_steps": 5, "weight_decay": 1, "optim": "adamw_torch", "lr_scheduler_kwargs": {"a": 1}}),
        ("dpo", {"loss_type": "exo_pair", "label_smoothing": 0.1}),
        ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]}),
        ("dpo", {"label_smoothing": 0.0, "discopop_tau": 0.1, "loss_type": "discopop"}),
        ("sft", {"neftune_noise_alpha": None, "warmup_steps": 0.1, "logging_steps": 1}),
    ],
)
def test_what_passes_unchanged(kind: Any, mapping: dict[str, Any]) -> None:
    assert check_trainer(kind, mapping) == mapping


def test_every_problem_is_named() -> None:
    with pytest.raises(TrainerError) as caught:
        check_trainer("sft", {"max_step": 1, "optim": "sgd", "seed": 2})
    assert [key for key, _ in caught.value.problems("sft")] == ["max_step", "seed"]


def test_owned_options_exist_in_trl() -> None:
    known = trl_tables()["kinds"]
    for kind, owned in OWNED.items():
        assert set(owned) <= {option for table in known.values() for option in table}, kind


def test_what_training_sets_itself_is_never_the_users(tmp_path: Path) -> None:
    """Else an option would be overwritten without a word, or found out only when training starts."""
    from align.train.arguments import trainer_options

    configs: list[Training] = [Sft(demonstrations=tmp_path), Dpo(), Kto(), RewardModel(), Rloo(), Grpo(), Ppo()]
    for config in configs:
        options = trainer_options(config, rows=8, seed=0, dtype="float32", report_to=[], work=tmp_path, out=tmp_path)
        free = {"logging_steps", "gradient_checkpointing"}
        known = trl_tables()["kinds"][table_of(config.kind)].keys()
        assert options.keys() & known - free <= OWNED[config.kind].keys()


def test_tables_agree_with_the_installed_trl() -> None:
    """Fails when TRL or transformers moved: run `python -m align.config.generate` and look at what changed."""
    assert json.loads(FILE.read_text(encoding="utf-8")) == tables()


def test_the_reference_page_agrees_with_the_schema() -> None:
    """Fails when the schema changed: run `python -m align.config.document > docs/recipe.md`."""
    from align.config.document import markdown

    assert (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8") == markdown()
