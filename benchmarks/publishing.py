"""How much of a trained change survives being published in bfloat16, for each way of publishing; and being served so.

`python benchmarks/publishing.py` trains DPO at the default learning rates on pairs of the model's own answers (the
better one has more of one letter), in full and with LoRA, and prints for each way the share of the trained change of
margins, Σ (p − w)(t − w) / Σ (t − w)², and the residual. Here all margins are computed in float32: on a CPU bfloat16's
arithmetic alone differs by several times the change. `served` are vLLM's own margins of the full training, parent and
checkpoint in the same dtype, against the same trained change.

The model is `../shared/models/tinystories656k`, where that is absent a random one; `--model` names another. `--short`
trains a fifth of the steps and serves nothing. The last line is JSON: `value` is the least share of the default
(rounded at random, the mean of the draws), `baseline` that of rounding to the nearest.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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

GIVEN = Path(__file__).parents[2] / "shared/models/tinystories656k"
DRAWS = 4
GOAL = 0.9
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


def trained(parent: Path, rows: list[Preference], at: Path, steps: int, **changes: Any) -> dict[str, torch.Tensor]:
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
    config = Dpo(epochs=3, batch_size=4, max_tokens=200, trainer={"max_steps": steps}, **changes)
    given: Any = {"seed": 0, "dtype": "bfloat16", "report_to": [], "threads": 1, "out": at / "out", "work": at / "work"}
    dpo.train_dpo(parent, rows, config, **given)
    return found


def model_or_random(given: Path | None, at: Path) -> Path:
    """The model to train: what is asked for, or the real small one, or where that is absent a random one."""
    from tests.tiny import make_tiny_model

    if given or GIVEN.is_dir():
        return given or GIVEN
    print("a random model: ../shared is absent")
    make_tiny_model(at / "random", vocab_words=" ".join(STARTS).split())
    return at / "random"


def served(folder: Path, dtype: str, kept: list[ex.Pair], at: Path) -> torch.Tensor:
    """vLLM's margins of a checkpoint, computed in a process of its own."""
    (asked := at / "asked.json").write_text(
        json.dumps([(p.prompt_ids, ids) for p in kept for ids in (p.chosen_ids, p.rejected_ids)])
    )
    told = subprocess.run(
        [sys.executable, __file__, "--serve", folder, dtype, asked], check=True, stdout=subprocess.PIPE, text=True
    )
    return verifying.compared(json.loads(told.stdout.splitlines()[-1]), margins=True)


def serve(folder: Path, dtype: str, asked: Path) -> list[list[float]]:
    from vllm import SamplingParams

    from rollouts.vllm_engine import VllmGenerator

    pairs = json.loads(asked.read_text())
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    engine = VllmGenerator(folder, [], dtype=dtype, max_tokens_total=512, threads=1)
    given = [{"prompt_token_ids": prompt + answer} for prompt, answer in pairs]
    done = engine._llm.generate(given, params, use_tqdm=False)
    engine.close()
    return [
        [output.prompt_logprobs[len(prompt) + k][token].logprob for k, token in enumerate(answer)]
        for output, (prompt, answer) in zip(done, pairs, strict=True)
    ]


def share_and_residual(before: torch.Tensor, exact: torch.Tensor, moved: torch.Tensor) -> tuple[float, float]:
    """Of the change to `exact`, what a checkpoint that moved by `moved` has, and how much else is in it."""
    change = exact - before
    residual = float((moved - change).square().sum().sqrt() / change.square().sum().sqrt())
    return float(rounding.share_of(before, exact, before + moved)), residual


def save(model: Any, parent: Path, dtype: torch.dtype, out: Path) -> None:
    checkpoint.import_model(str(parent), out, revision=None, dtype="bfloat16")
    copy.deepcopy(model).to(dtype).save_pretrained(out)


def measure(model: Path, folder: Path, steps: int, *, serving: bool) -> dict[str, float]:
    """The least share over full and LoRA training, of each way."""
    parent = folder / "parent"
    checkpoint.import_model(str(model), parent, revision=None, dtype="bfloat16", chat_template="plain")
    rows, tokenizer = pairs(parent), load_tokenizer(parent)
    kept, _ = ex.encode_preferences(tokenizer, rows, stop_token_ids(tokenizer, parent), ex.Limit(500, "too long"))
    base = checkpoint.load_model(parent, "float32")
    before = margins(base, kept)
    ways: dict[str, tuple[Any, torch.dtype]] = {
        "nearest": (lambda w, name: w.to(torch.bfloat16).float(), torch.bfloat16),
        **{
            f"at random, draw {k}": (lambda w, name, k=k: rounding.stochastic(w, name, k).float(), torch.bfloat16)
            for k in range(DRAWS)
        },
        "float16": (lambda w, name: w.to(torch.float16).float(), torch.float16),
        "float32 beside, or the adapter unmerged": (lambda w, name: w, torch.float32),
    }
    shares: dict[str, list[float]] = {}
    for kind, changes in (("full", {}), ("lora", {"learning_rate": 1e-5, "lora": Lora()})):
        weights, models = trained(parent, rows, folder / kind, steps, **changes), copy.deepcopy(base)
        told = {}
        for way, (rounded, dtype) in ways.items():
            models.load_state_dict({name: rounded(w, name) for name, w in weights.items()}, strict=False)
            told[way] = margins(models, kept)
            if serving and kind == "full":
                save(models, parent, dtype, folder / way)
        exact = told["float32 beside, or the adapter unmerged"]
        print(f"{kind}: {len(kept)} pairs, the trained margins move by {float((exact - before).mean()):+.4f}")
        for way, found in told.items():
            share, residual = share_and_residual(before, exact, found - before)
            shares.setdefault(way, []).append(share)
            print(f"  {way}: share {share:.3f}, residual {residual:.3f}", flush=True)
        if serving and kind == "full":
            starts: dict[str, torch.Tensor] = {}
            for way, name in SERVED:
                if name not in starts:
                    starts[name] = served(parent, name, kept, folder)
                moved = served(folder / way, name, kept, folder) - starts[name]
                share, residual = share_and_residual(before, exact, moved)
                print(f"  served, {way}, in {name}: share {share:.3f}, residual {residual:.3f}", flush=True)
    return {way: min(found) for way, found in shares.items()} | {
        "at random": min(sum(shares[f"at random, draw {k}"][n] for k in range(DRAWS)) / DRAWS for n in range(2))
    }


SERVED = [
    *((way, "bfloat16") for way in ("nearest", "at random, draw 0", "at random, draw 1")),
    *((way, "float32") for way in ("nearest", "at random, draw 0", "float32 beside, or the adapter unmerged")),
]
"""Which checkpoint vLLM serves, and in which dtype it computes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--serve", nargs=3, metavar=("FOLDER", "DTYPE", "ASKED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        folder, dtype, asked = given.serve
        print(json.dumps(serve(Path(folder), dtype, Path(asked))))
        return
    with tempfile.TemporaryDirectory() as at:
        model = model_or_random(given.model, Path(at))
        found = measure(model, Path(at), 9 if given.short else 45, serving=not given.short)
    value, baseline = found["at random"], found["nearest"]
    print(json.dumps({
        "name": "share of the trained change in the published checkpoint, the least of full and LoRA",
        "value": round(value, 3), "baseline": round(baseline, 3), "ratio": round(value / baseline, 1) if baseline else None,
        "goal": GOAL, "ok": value >= GOAL,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
