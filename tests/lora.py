"""Rounds of LoRA on a tiny model, without training: random adapters, merged and published as training does."""

from pathlib import Path

from rollouts.adapters import FOLDER
from tests.tiny import make_tiny_model


def trained(parent: Path, out: Path, *, seed: int, modules: list[str], rank: int = 4) -> Path:
    """A checkpoint as training under LoRA publishes it: the parent with a random adapter merged, the adapter beside."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    config = LoraConfig(
        r=rank, lora_alpha=3 * rank, target_modules=modules, task_type="CAUSAL_LM", init_lora_weights=False
    )
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(out / FOLDER)
    tuned.merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(parent).save_pretrained(out)
    return out


def make_chain(folder: Path) -> list[Path]:
    """A base model, two rounds of LoRA on it, and a model whose weights were all trained."""
    base = make_tiny_model(folder / "base")
    first = trained(base, folder / "first", seed=1, modules=["q_proj", "down_proj"])
    second = trained(first, folder / "second", seed=2, modules=["q_proj", "o_proj"], rank=2)
    return [base, first, second, make_tiny_model(folder / "full", seed=9)]


def logits(model, ids=(5, 60, 200, 17)):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits
