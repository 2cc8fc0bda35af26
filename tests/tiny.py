"""A tiny causal language model that is made offline: own tokenizer, chat template, random Llama weights."""

from collections.abc import Sequence
from pathlib import Path

PAD, START, END, STOP = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(
    folder: Path,
    *,
    vocab_words: Sequence[str] | None = None,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    head_dim: int = 32,
    tied: bool = True,
) -> Path:
    """Write a checkpoint folder (safetensors, tokenizer with ChatML, generation config) and return it.

    The tokenizer is byte-level BPE, so any text survives encode and decode; `vocab_words` get merges of their own.
    Ids 0 to 3 are the pad, start, end and stop tokens; end of turn and end of text both end generation.
    The same arguments give the same bytes.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(vocab_words or [])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, head_dim=head_dim, max_position_embeddings=512,
        tie_word_embeddings=tied, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    model.generation_config = GenerationConfig(eos_token_id=[2, 3], pad_token_id=0)
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tool_model(folder: Path) -> Path:
    """The tiny model with a template that writes tools, and with room for them."""
    import json

    from transformers import AutoTokenizer

    from tests.chat_templates import CHATML_TOOLS

    make_tiny_model(folder, vocab_words=["weather", "function", "arguments", "tool_call"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template, tokenizer.model_max_length = CHATML_TOOLS, 4096
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return folder


def make_tokenizer(vocab_words: Sequence[str], chat_template: str | None = CHATML):  # type: ignore[no-untyped-def]
    """The tiny model's tokenizer alone."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=make_core(vocab_words), pad_token=PAD, eos_token=END, additional_special_tokens=[START, STOP],
        chat_template=chat_template, clean_up_tokenization_spaces=False, model_max_length=512,
    )  # fmt: skip


def make_core(vocab_words: Sequence[str]):  # type: ignore[no-untyped-def]
    """What `tokenizer.json` holds; loads no torch, as transformers' classes do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, special_tokens=[PAD, START, END, STOP], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator([w for word in vocab_words for w in (word, " " + word)], trainer)
    return core


def make_tiny_reward_model(
    folder: Path, *, labels: int = 1, members: int = 1, seed: int = 0, **changes: object
) -> Path:
    """Write a reward model's folder: the tiny model with `labels` random heads, whose scores differ by about 1, and,
    over one, `members` that differ by about 1 too.

    `changes` are those of `make_tiny_model`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    make_tiny_model(folder, seed=seed, **changes)  # type: ignore[arg-type]
    config = AutoConfig.from_pretrained(folder, num_labels=labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float32)
        torch.nn.init.normal_(model.score.weight, std=0.2)
    model.save_pretrained(folder)
    if members > 1:
        import numpy as np

        from reward.members import DIMENSIONS, Members, write_members

        draw = np.random.default_rng(seed)
        functions = draw.normal(size=(members, DIMENSIONS)).astype(np.float32) / 4
        write_members(folder, Members(functions - functions.mean(0), np.zeros(DIMENSIONS, np.float32)))
    return folder
