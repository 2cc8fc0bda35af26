"""The `trainer:` mapping of a recipe: any option of TRL's trainer that align does not set, checked without importing
TRL.

`trl_keys.json` (made by `align.config.generate`) lists every option. The options in `OWNED` are set by the recipe or by
the stage itself; they are refused, with a message that says what to use instead.
"""

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

Trainer = Literal["sft", "dpo", "kto", "reward", "rloo", "grpo", "ppo"]
"""Sections whose `trainer:` mapping is checked. PPO's trainer is align's own, built on TRL's GRPO: it takes GRPO's
options."""

_RESUME = "the stage saves and resumes by itself"
_EVALUATION = "evaluation is a separate stage; use the recipe's `evaluate`"
_UPLOAD = "a stage publishes only to the run's folder; upload that checkpoint yourself"
_DATA = "the stage prepares tokens, masks and columns itself"
_LENGTH = "the stage drops rows that are too long and never truncates; use {section}.max_tokens"
_DEVICE = "the stage detects the hardware"
_PRECISION = "use model.dtype"
_TOKENIZER = "stop and padding tokens and the template come from the checkpoint; see model.chat_template"
_REFERENCE = "the reference is always the round's parent"
_WHOLE = "examples are not packed; those of similar length are batched together"
_ONCE = "the stage computes the reference once, if that saves work"
_UNUSED = "TRL's trainer never reads it"

_OWNED: dict[str, str] = {
    "output_dir": "the stage works and publishes inside the run's folder",
    "learning_rate": "use {section}.learning_rate",
    "num_train_epochs": "use {section}.epochs",
    "per_device_train_batch_size": "use {section}.micro_batch_size",
    "gradient_accumulation_steps": "it follows from {section}.batch_size and {section}.micro_batch_size",
    "auto_find_batch_size": "it would change the batch size silently; use {section}.micro_batch_size",
    "max_length": _LENGTH,
    "truncation_mode": _LENGTH,
    "seed": "use the recipe's seed",
    "data_seed": "use the recipe's seed",
    "report_to": "use the recipe's report_to",
    "run_name": "use the recipe's name",
    "model_init_kwargs": "use model.dtype and model.revision",
    "trust_remote_code": "code that comes with a model is never run",
    **dict.fromkeys(("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"), _PRECISION),
    **dict.fromkeys(("use_cpu", "dataloader_pin_memory"), _DEVICE),
    **dict.fromkeys(("pad_token", "eos_token", "chat_template_path"), _TOKENIZER),
    **dict.fromkeys(("remove_unused_columns", "label_names", "length_column_name"), _DATA),
    **dict.fromkeys(("dataset_text_field", "dataset_kwargs", "dataset_num_proc"), _DATA),
    **dict.fromkeys(("completion_only_loss", "assistant_only_loss"), _DATA),
    **dict.fromkeys(
        ("save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node"), _RESUME
    ),
    **dict.fromkeys(("resume_from_checkpoint", "ignore_data_skip", "enable_jit_checkpoint"), _RESUME),
    **dict.fromkeys(("restore_callback_states_from_checkpoint",), _RESUME),
    **dict.fromkeys(("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_packing"), _EVALUATION),
    **dict.fromkeys(("eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object"), _EVALUATION),
    **dict.fromkeys(("per_device_eval_batch_size", "prediction_loss_only", "include_for_metrics"), _EVALUATION),
    **dict.fromkeys(("batch_eval_metrics", "load_best_model_at_end", "metric_for_best_model"), _EVALUATION),
    **dict.fromkeys(("greater_is_better",), _EVALUATION),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"), _UPLOAD),
    **dict.fromkeys(("hub_always_push", "hub_revision"), _UPLOAD),
    **dict.fromkeys(("packing", "packing_strategy", "padding_free"), _WHOLE),
    "shuffle_dataset": "the order follows from the recipe's seed; see train_sampling_strategy",
    "disable_tqdm": "progress bars are shown on a terminal",
    "ddp_find_unused_parameters": "every trained weight is used",
    "logging_nan_inf_filter": "a loss that is NaN or infinite is always shown",
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "local_rank"), _UNUSED),
}

_FROM_SECTION = "use the section's own key"
_ENGINE = "the stage sets the engine up; use {section}.type"
_UNSEEN = "answers are not printed during training; `align samples` shows those of the trained policy"
_ONLINE: dict[str, str] = _OWNED | {
    "beta": "use {section}.beta",
    "num_generations": "use {section}.samples",
    "max_completion_length": "use {section}.max_tokens",
    **dict.fromkeys(("temperature", "top_p"), _FROM_SECTION),
    **dict.fromkeys(("top_k", "min_p", "repetition_penalty"), "answers are sampled only with temperature and top_p"),
    **dict.fromkeys(("use_vllm", "use_transformers_continuous_batching", "use_transformers_paged"), _ENGINE),
    **dict.fromkeys(("vllm_mode", "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_max_model_length"), _ENGINE),
    **dict.fromkeys(("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout"), _ENGINE),
    **dict.fromkeys(("vllm_group_port", "vllm_structured_outputs_regex", "vllm_tensor_parallel_size"), _ENGINE),
    **dict.fromkeys(("vllm_gpu_memory_utilization", "transformers_continuous_batching_config"), _ENGINE),
    **dict.fromkeys(("cache_implementation", "generation_kwargs"), _ENGINE),
    **dict.fromkeys(("vllm_importance_sampling_cap", "vllm_importance_sampling_mode"), _ENGINE),
    **dict.fromkeys(("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"), _ENGINE),
    "vllm_importance_sampling_correction": _ENGINE,
    "reward_weights": "use the weights of the recipe's `reward`",
    **dict.fromkeys(("log_completions", "log_unique_prompts", "num_completions_to_print"), _UNSEEN),
    **dict.fromkeys(("log_completions_hub_repo", "log_multimodal"), _UNSEEN),
    "num_generations_eval": _EVALUATION,
    "chat_template_kwargs": _DATA,
    "max_tool_calling_iterations": "the policy has no tools",
    **dict.fromkeys(("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), _REFERENCE),
    "disable_dropout": "policy and reference must agree before the first step, so dropout is always off",
}

_CRITIC = "PPO has a critic instead of groups; see {section}.whiten_rewards and {section}.whiten_advantages"
_OTHER_LOSSES = (
    "delta", "epsilon_high", "entropy_coef", "entropy_coef_delta", "entropy_coef_max", "entropy_coef_min",
    "entropy_target", "importance_sampling_level", "liger_kernel_config", "loss_type", "mask_truncated_completions",
    "off_policy_mask_threshold", "router_aux_loss_coef", "sapo_temperature_neg", "sapo_temperature_pos",
    "top_entropy_quantile", "use_adaptive_entropy", "use_bias_correction_kl", "use_liger_kernel", "vespo_k_neg",
    "vespo_k_pos", "vespo_lambda_neg", "vespo_lambda_pos",
)  # fmt: skip

_MEASURED = {
    **dict.fromkeys(("eval_strategy", "do_eval"), "use {section}.held_out"),
    "eval_steps": "use {section}.held_out and {section}.eval_steps",
    **dict.fromkeys(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        "use {section}.held_out and {section}.patience",
    ),
}

OWNED: dict[str, dict[str, str]] = {
    "sft": _OWNED
    | _MEASURED
    | {
        **dict.fromkeys(("packing", "packing_strategy", "padding_free"), "use {section}.packing"),
        **dict.fromkeys(
            ("completion_only_loss", "assistant_only_loss"), "only answers are learned; see {section}.turns"
        ),
    },
    "reward": _OWNED | {"center_rewards_coefficient": "use {section}.center"},
    "rloo": _ONLINE,
    "grpo": _ONLINE,
    "ppo": _ONLINE
    | {
        "num_iterations": "use {section}.ppo_epochs",
        **dict.fromkeys(("steps_per_generation", "generation_batch_size"), "use {section}.minibatches"),
        "epsilon": "use {section}.clip",
        **dict.fromkeys(("scale_rewards", "multi_objective_aggregation"), _CRITIC),
        **dict.fromkeys(_OTHER_LOSSES, "PPO's loss has no such term"),
    },
    "kto": _OWNED
    | _MEASURED
    | {
        "beta": "use {section}.beta",
        **dict.fromkeys(("desirable_weight", "undesirable_weight"), _FROM_SECTION),
        "loss_type": "the loss is KTO's, on binary labels with targets and weights",
        "router_aux_loss_coef": "KTO's loss has no such term",
        "use_liger_kernel": "it does not support targets and weights",
        "train_sampling_strategy": "binary labels are batched at random; labels of answers of similar length are alike",
        **dict.fromkeys(("precompute_ref_log_probs", "precompute_ref_batch_size"), _ONCE),
        "disable_dropout": "policy and reference must agree before the first step, so dropout is always off",
        **dict.fromkeys(("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), _REFERENCE),
    },
    "dpo": _OWNED
    | _MEASURED
    | {
        "beta": "use {section}.beta",
        "label_smoothing_factor": "DPO's loss never reads it; use {section}.noise",
        "ld_alpha": "use {section}.length and {section}.ld_alpha",
        **dict.fromkeys(("precompute_ref_log_probs", "precompute_ref_batch_size"), _ONCE),
        "disable_dropout": "policy and reference must agree before the first step, so dropout is always off",
        **dict.fromkeys(("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), _REFERENCE),
    },
}
"""For each trainer: an option that the user cannot set → what to do instead; `{section}` is sft or dpo."""

_READ_WITH: dict[str, tuple[str, str, set[str]]] = {
    "label_smoothing": ("loss_type", "sigmoid", {"robust", "exo_pair", "aot", "aot_unpaired"}),
    "discopop_tau": ("loss_type", "sigmoid", {"discopop"}),
    "f_alpha_divergence_coef": ("f_divergence_type", "reverse_kl", {"alpha_divergence"}),
}
"""An option of DPO → another option, its default, and the values of it with which TRL reads the first one."""

_OURS = {name: f"{{section}}.loss: {name}" for name in ("sigmoid", "hinge", "ipo", "robust")} | {
    "sigmoid_norm": "{section}.length: mean"
}
"""Losses of TRL that align has too → how to set them. In a list with other losses they are TRL's."""


@functools.cache
def trl_tables() -> dict[str, Any]:
    """`trl_keys.json`: versions, trackers, kinds and choices."""
    tables: dict[str, Any] = json.loads(Path(__file__).with_name("trl_keys.json").read_text(encoding="utf-8"))
    return tables


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, if one is similar enough to suggest."""
    found = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.75)
    return found[0] if found else None


def table_of(kind: Trainer) -> str:
    """The TRL trainer that has the options of section `kind`."""
    return "grpo" if kind == "ppo" else kind


class TrainerError(ValueError):
    """What is wrong with the `trainer:` mapping of a `kind`."""

    def __init__(self, kind: Trainer, problems: list[tuple[str, str]]) -> None:
        self._problems = problems
        super().__init__("; ".join(f"trainer.{key}: {what}" for key, what in self.problems(kind)))

    def problems(self, section: str) -> list[tuple[str, str]]:
        """Each key and a sentence about it; `section` is the section of the mapping, empty for a section alone, whose
        verb has options for the recipe's other keys."""
        return [(key, _placed(what, section)) for key, what in self._problems]


_AS_OPTIONS = {
    "model.dtype": "--dtype", "model.revision": "--revision", "model.chat_template": "--chat-template",
    "the recipe's seed": "--seed", "the recipe's name": "--out",
    "the recipe's report_to": "a recipe's report_to, with `align run`",
    "the recipe's `evaluate`": "`align eval`",
}  # fmt: skip


def _placed(what: str, section: str) -> str:
    if section:
        return what.replace("{section}.", f"{section}.")
    for key, option in _AS_OPTIONS.items():
        what = what.replace(key, option)
    return what.replace("{section}.", "")


def check_trainer(kind: Trainer, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The `trainer:` mapping of section `kind`, unchanged; TrainerError names every invalid key."""
    problems = [(key, what) for key, value in mapping.items() if (what := _problem(kind, key, value))]
    if kind == "dpo" and not problems:
        problems = _together(mapping)
    if problems:
        raise TrainerError(kind, problems)
    return dict(mapping)


def _problem(kind: Trainer, key: str, value: Any) -> str | None:
    """A sentence about an option that align sets, that is unknown, or whose value has the wrong type; None if it is
    valid."""
    known, owned = trl_tables()["kinds"][table_of(kind)], OWNED[kind]
    if key in owned:
        return f"not to be set here; {owned[key]}"
    if key not in known:
        close = nearest(key, known)
        if close in owned:
            return f"unknown key; if {close} is meant: {owned[close]}"
        name = f"{table_of(kind).upper() if kind != 'reward' else 'Reward'}Config"
        return "unknown key; " + (f"did you mean {close}?" if close else f"the options are those of TRL's {name}")
    kinds = known[key].split()
    if not set(_kinds_of(value)) & set(kinds):
        return f"must be {' or '.join(_WORDS[k] for k in kinds)}, found {value!r}"
    choices = trl_tables()["choices"][table_of(kind)].get(key, "").split()
    for text in value if isinstance(value, list) else [value]:
        if choices and text is not None and text not in choices:
            close = nearest(str(text), choices)
            return f"cannot be {text!r}; " + (f"did you mean {close}?" if close else f"it takes {', '.join(choices)}")
    return None


def in_trainer(kind: Trainer, key: str, section: str) -> str | None:
    """How to set an option of TRL that was written beside `trainer:` instead of in it; None if TRL has no such
    option."""
    if (way := OWNED[kind].get(key)) is not None:
        return _placed(way, section)
    return f"did you mean trainer.{key}?" if key in trl_tables()["kinds"][table_of(kind)] else None


_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}
_WORDS |= {"list": "a list", "dict": "a mapping", "null": "null"}


def _kinds_of(value: Any) -> list[str]:
    """The types of option that take `value`: a whole number is a number too."""
    if isinstance(value, bool):
        return ["bool"]
    if isinstance(value, int):
        return ["int", "float"]
    return {float: ["float"], str: ["str"], list: ["list"], dict: ["dict"]}.get(type(value), ["null"])


def _together(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Conflicts between DPO's options: an option that nothing reads, and weights that do not match the losses."""
    problems = []
    for key, (other, default, values) in _READ_WITH.items():
        chosen = _listed(mapping.get(other, default))
        if mapping.get(key) and not values & set(chosen):
            acts = " or ".join(sorted(values))
            problems.append((key, f"does nothing with {other} {', '.join(chosen)}; it acts with {acts}"))
    weights, losses = mapping.get("loss_weights"), _listed(mapping.get("loss_type", "sigmoid"))
    if "loss_type" in mapping and len(losses) == 1 and losses[0] in _OURS:
        return [("loss_type", f"{losses[0]} is not to be set here; use {_OURS[losses[0]]}")]
    if weights is not None and len(weights) != len(losses):
        problems.append(("loss_weights", f"has {len(weights)} numbers for {len(losses)} losses"))
    return problems


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
