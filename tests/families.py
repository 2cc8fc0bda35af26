"""Tiny random models of many families, with tokenizers that are odd in ways that public ones are."""

from pathlib import Path
from typing import Any

from tests.tiny import make_tokenizer

_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
_MLA = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "n_routed_experts": 2, "num_experts_per_tok": 1, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "num_key_value_heads": 2,
}  # fmt: skip
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _SIZES),
    "llama, tied": ("LlamaConfig", {**_SIZES, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", _SIZES),
    "qwen3": ("Qwen3Config", _SIZES),
    "gemma2": ("Gemma2Config", {**_SIZES, "query_pre_attn_scalar": 16, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", {**_SIZES, "query_pre_attn_scalar": 16, "sliding_window": 16}),
    "mistral": ("MistralConfig", {**_SIZES, "sliding_window": 16}),
    "gpt2": ("GPT2Config", _GPT2),
    "phi": ("PhiConfig", {**_SIZES, "num_key_value_heads": 2}),
    "phi3": ("Phi3Config", {**_SIZES, "pad_token_id": 0}),
    "mixtral": ("MixtralConfig", {**_SIZES, **_EXPERTS, "output_router_logits": True}),
    "qwen3 experts": ("Qwen3MoeConfig", {**_SIZES, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}),
    "deepseek": ("DeepseekV3Config", {**{k: v for k, v in _SIZES.items() if k != "head_dim"}, **_MLA}),
}  # fmt: skip
ODD = ("pad out of the vocabulary", "no pad and no end", "added tokens without rows", "a newline that is a token")


def make_family(folder: Path, name: str, odd: str | None = None) -> Path:
    """Write a model folder of the family, its tokenizer odd as one of `ODD` says."""
    import torch
    import transformers

    tokenizer = make_tokenizer(["order", "sorry"])
    size = len(tokenizer)
    if odd == "pad out of the vocabulary":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    elif odd == "no pad and no end":
        tokenizer.pad_token = tokenizer.eos_token = None
    elif odd == "added tokens without rows":
        tokenizer.add_tokens(["<tool>", "</tool>"])
    elif odd == "a newline that is a token":
        tokenizer.add_tokens(["\n"])
        size = len(tokenizer)
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        tokenizer.chat_template = template + "{% if add_generation_prompt %}assistant:{% endif %}"
    kind, values = FAMILIES[name]
    config = getattr(transformers, kind)(
        **{"pad_token_id": None, "bos_token_id": None, "eos_token_id": 2, **values}, vocab_size=size
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
