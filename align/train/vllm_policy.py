"""The policy in vLLM, in this process, with the weights of the step; on CPU or GPU. Imports torch.

On CPU vLLM repacks weights for its kernels, so single tensors cannot be written into it; its `reload_weights` unpacks,
loads and packs again. A head that is tied to the embeddings is packed by itself and has to be sent by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from align.errors import ConfigError
from align.ids import seed_for
from align.train.sampling import Sampled
from align.vllm import undisturbed

CACHE_BYTES = 2 << 30
"""Memory for the key-value cache on CPU."""
GPU_SHARE = 0.3
"""Share of a GPU's memory for vLLM; the trainer has the rest."""
BATCHED_TOKENS = 4096
"""Tokens per forward pass on CPU, where no single sequence needs more."""


class VllmPolicy:
    """Starts vLLM on the folder that `policy` was loaded from. `rows` are in flight at once, of up to `tokens` tokens.

    Raises ConfigError where vLLM is not installed or cannot run the model.
    """

    def __init__(self, policy: Any, *, rows: int, tokens: int, bfloat16: bool) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("vLLM answers for one process alone", where="type", hint="use `type: transformers`")
        on_cpu = policy.device.type == "cpu"
        cpu = {"kv_cache_memory_bytes": CACHE_BYTES, "enable_chunked_prefill": False}
        cpu |= {"max_num_batched_tokens": max(BATCHED_TOKENS, tokens), "enforce_eager": True}
        with undisturbed(on_cpu):
            try:
                from vllm import LLM

                self._llm: Any = LLM(
                    model=policy.config.name_or_path, dtype="bfloat16" if bfloat16 else "float32", max_model_len=tokens,
                    max_num_seqs=rows, skip_tokenizer_init=True, generation_config="vllm", use_tqdm_on_load=False,
                    logprobs_mode="processed_logprobs", **(cpu if on_cpu else {"gpu_memory_utilization": GPU_SHARE}),
                )  # fmt: skip
            except (ImportError, ValueError, RuntimeError, AssertionError) as error:
                what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise ConfigError(
                    f"vLLM cannot run this model ({what})", where="type", hint="use `type: transformers`"
                ) from error

    @torch.no_grad()
    def refresh(self, policy: Any) -> None:
        """Take over the policy's weights, an adapter merged into them."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(policy)})
        self._llm.reset_prefix_cache()

    def sample(
        self, prompts: Sequence[list[int]], *, stops: Sequence[int], max_tokens: int, temperature: float, top_p: float,
        seed: int, before: int = 0,
    ) -> list[Sampled]:  # fmt: skip
        """As `align.train.sampling.sample`."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed_for(seed, number), logprobs=0,
                stop_token_ids=list(stops), detokenize=False,
            )
            for number in range(before, before + len(prompts))
        ]  # fmt: skip
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        found = [output.outputs[0] for output in self._llm.generate(asked, params, use_tqdm=False)]
        return [
            Sampled(list(one.token_ids), [said[token].logprob for said, token in zip(one.logprobs, one.token_ids, strict=True)])
            for one in found
        ]  # fmt: skip


def merged_weights(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) as a checkpoint has them, LoRA's part added, the policy itself untouched; a tied head by name
    too."""
    model = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            continue
        merged = weight.detach().clone()
        if ".base_layer." in name:
            layer = model.get_submodule(name.partition(".base_layer.")[0])
            if name.endswith(".weight"):
                for adapter in layer.active_adapters:
                    merged += layer.get_delta_weight(adapter).to(merged.dtype)
        yield name.replace(".base_layer.", "."), merged
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight:
        name = next(name for name, module in model.named_modules() if module is head)
        yield f"{name}.weight", head.weight.detach().clone()
