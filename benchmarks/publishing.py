"""How much of a trained change survives being published in bfloat16, for each way of publishing.

`python benchmarks/publishing.py --model FOLDER --folder DIR` trains DPO at the default learning rates on pairs of the
model's own answers (the better one has more of one letter), in full and with LoRA, and prints for each way the share of
the trained change of margins, Σ (p − w)(t − w) / Σ (t − w)², and the residual. All margins are computed in float32: on a
CPU bfloat16's arithmetic alone differs by several times the change.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch

from align.config.base import Sampling
from align.config.training import Dpo, Lora
from align.ids import content_id
from align.layerwise import token_logprobs
from align.text import decode_answer, encode_prompt, load_tokenizer, stop_token_ids
from align.train import checkpoint, dpo, rounding, verifying
from align.train import examples as ex
from align.types import Preference
from rollouts.engine import Request
from rollouts.transformers_engine import TransformersGenerator

STARTS = ["Once upon a time", "Tom had a red ball.", "The dog ran to the", "Lily was sad because", "One day a little girl",
          "The cat sat on a", "Mom said to Ben"]  # fmt: skip


def pairs(parent: Path) -> list[Preference]:
    """Nine pairs of each beginning's 18 answers."""
    tokenizer = load_tokenizer(parent)
    stops = stop_token_ids(tokenizer, parent)
    generator = TransformersGenerator.of_model(checkpoint.load_model(parent, "float32"), stops)
    asked = [[{"role": "user", "content": start}] for start in STARTS]
    requests = [Request(f"p{n}", encode_prompt(tokenizer, m)) for n, m in enumerate(asked)]
    rows = []
    for messages, several in zip(
        asked, generator.generate(requests, Sampling(max_tokens=40), samples=18, seed=1), strict=True
    ):
        texts = [decode_answer(tokenizer, c.token_ids[:-1] if c.finish == "stop" else c.token_ids) for c in several]
        texts.sort(key=lambda text: text.count("e") / max(1, len(text)))
        for k in range(9):
            id = content_id([messages, k])
            rows.append(Preference(id, id, messages, "c", "r", texts[-1 - k], texts[k], 1.0, 1.0, 0.0, 1, []))
    return rows


def margins(model: Any, kept: list[ex.Pair]) -> torch.Tensor:
    asked = [(p.prompt_ids, ids) for p in kept for ids in (p.chosen_ids, p.rejected_ids)]
    return verifying.compared(token_logprobs(model, asked), margins=True)


def trained(parent: Path, rows: list[Preference], at: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """The trained weights in float32, under LoRA with what the adapter adds."""
    found: dict[str, torch.Tensor] = {}

    def keep(model: Any, source: Path, *_: Any, **__: Any) -> dict[str, float]:
        found.update(
            {name: w.detach().clone() for name, w in checkpoint.load_model(source, "float32").named_parameters()}
        )
        if hasattr(model, "peft_config"):
            for name, _base, change in rounding.layers_of(model):
                found[name] = found[name] + change.detach().float()
        else:
            found.update({name: w.detach().float().clone() for name, w in model.named_parameters()})
        return {}

    dpo.verifying.publish_and_verify = keep
    config = Dpo(epochs=3, batch_size=4, max_tokens=200, trainer={"max_steps": 45}, **changes)
    given: Any = {"seed": 0, "dtype": "bfloat16", "report_to": [], "threads": 1, "out": at / "out", "work": at / "work"}
    dpo.train_dpo(parent, rows, config, **given)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    parent = given.folder / "parent"
    if not parent.is_dir():
        checkpoint.import_model(str(given.model), parent, revision=None, dtype="bfloat16", chat_template="plain")
    rows, tokenizer = pairs(parent), load_tokenizer(parent)
    kept, _ = ex.encode_preferences(tokenizer, rows, stop_token_ids(tokenizer, parent), ex.Limit(500, "too long"))
    base = checkpoint.load_model(parent, "float32")
    before = margins(base, kept)
    ways: dict[str, Any] = {
        "nearest": lambda w, name: w.to(torch.bfloat16).float(),
        **{f"at random, draw {k}": lambda w, name, k=k: rounding.stochastic(w, name, k).float() for k in range(4)},
        "float16": lambda w, name: w.to(torch.float16).float(),
        "float32 beside, or the adapter unmerged": lambda w, name: w,
    }
    for kind, changes in (("full", {}), ("lora", {"learning_rate": 1e-5, "lora": Lora()})):
        weights, models = trained(parent, rows, given.folder / kind, **changes), copy.deepcopy(base)
        told = {}
        for way, rounded in ways.items():
            models.load_state_dict({name: rounded(w, name) for name, w in weights.items()}, strict=False)
            told[way] = margins(models, kept)
        exact = told["float32 beside, or the adapter unmerged"]
        change = exact - before
        print(f"{kind}: {len(kept)} pairs, the trained margins move by {float(change.mean()):+.4f}")
        for way, found in told.items():
            residual = float((found - exact).square().sum().sqrt() / change.square().sum().sqrt())
            print(f"  {way}: share {rounding.share_of(before, exact, found):.3f}, residual {residual:.3f}")


if __name__ == "__main__":
    main()
