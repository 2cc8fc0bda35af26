"""recipe.yaml in code, for people who think in code: the same loop from our public functions, without run folder,
resume or report. `python run.py rounds=1 sft.epochs=0.1` takes the same overrides as `align run`."""

import secrets
import sys
from pathlib import Path

from align.config.load import load_recipe
from align.data.demonstrations import load_demonstrations
from align.data.prompts import load_prompts
from align.evaluate.compare import evaluate_policy
from align.store import checkpoint_id
from align.train.checkpoint import import_model
from align.train.dpo import train_dpo
from align.train.sft import train_sft
from annotation.argilla_backend import open_argilla
from annotation.compile import compile_preferences
from annotation.server import credentials, start
from annotation.simulate import label
from annotation.tasks import make_tasks
from reward.functions import FunctionScorer, load_function
from rollouts.sample import sample_candidates


def main(recipe_file: Path, overrides: list[str]) -> None:
    recipe = load_recipe(recipe_file, overrides).recipe
    seed, dtype, name = recipe.seed, recipe.model.dtype, f"{recipe.name}-{secrets.token_hex(4)}"
    out = Path("runs") / name
    utility = FunctionScorer(load_function(recipe.annotate.by.utility, recipe_file.parent)).score
    url, key = start(recipe.annotate.server.home).url, credentials(recipe.annotate.server.home).api_key
    training = {"seed": seed, "dtype": dtype, "report_to": [], "threads": recipe.threads}

    def sample(policy, prompts, sampling, samples, work, **options):
        shared = {"dtype": dtype, "seed": seed, "threads": recipe.threads, "progress": None, **options}
        limits = {"max_prompt_tokens": recipe.rollouts.max_prompt_tokens, "shard": recipe.rollouts.shard}
        settings = {"sampling": sampling, "samples": samples, "engine": recipe.rollouts.type, **limits, **shared}
        return sample_candidates(prompts, policy, checkpoint_id(policy), out=out / work, **settings)[0]

    def evaluate(policy, number):
        answers = sample(policy, held_out, recipe.evaluate, recipe.evaluate.samples, f"answers_{number}", keep_all=True)
        first, folder = (out / "evaluation_0" if number else None), out / f"evaluation_{number}"
        folder.mkdir()
        result = evaluate_policy(held_out, answers, score=utility, tie_width=0.0, seed=seed, out=folder, first=first)
        print(f"round {number}: win rate over the first policy {result['win_rate_vs_sft']}", flush=True)

    prompts, _ = load_prompts(recipe.prompts)
    train = [p for p in prompts if p.split == "train"]
    held_out = [p for p in prompts if p.split == "test"][: recipe.evaluate.prompts]
    policy = out / "policy_0"
    base = out / "base" if recipe.sft else policy
    import_model(recipe.model.path, base, revision=None, chat_template=recipe.model.chat_template, dtype=dtype)
    if recipe.sft:
        rows = [(row.messages, row.answer) for row in load_demonstrations(recipe.sft.demonstrations)[0]]
        train_sft(base, rows, recipe.sft, out=policy, work=out / "work_0", **training)
    evaluate(policy, 0)
    for number in range(1, recipe.rounds + 1):
        start_at = (number - 1) * recipe.rollouts.prompts % len(train)
        asked = (train + train)[start_at : start_at + recipe.rollouts.prompts]
        candidates = sample(policy, asked, recipe.rollouts, recipe.rollouts.samples, f"candidates_{number}")
        options = {"pairs": recipe.annotate.pairs, "overlap": recipe.annotate.overlap, "seed": seed}
        tasks, _ = make_tasks(asked, candidates, round=number, **options)
        place = {
            "workspace": name,
            "dataset": f"round-{number}",
            "guidelines": None,
            "overlap": recipe.annotate.overlap,
        }
        backend = open_argilla(url, key, **place)
        backend.submit(tasks)
        label(backend, tasks, recipe.annotate.by.personas, utility, seed)
        preferences, _ = compile_preferences(tasks, backend.collect())
        parent, policy = policy, out / f"policy_{number}"
        train_dpo(parent, preferences, recipe.dpo, out=policy, work=out / f"work_{number}", **training)
        evaluate(policy, number)


if __name__ == "__main__":
    main(Path(__file__).with_name("recipe.yaml"), sys.argv[1:])
