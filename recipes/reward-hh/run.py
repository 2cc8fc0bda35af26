"""recipe.yaml in code: the same loop with the same result, from our public functions; it does not resume or report.

python run.py best_of_n.samples=8    # takes the same changes as `align run`, and writes to runs/ where it is called
"""

import secrets
import sys
from functools import partial
from pathlib import Path

from align.config.load import load_recipe
from align.data.contamination import drop_held_out_preferences
from align.data.preferences import load_preferences
from align.data.prompts import held_out_prompts, load_prompts, prompts_of_round
from align.evaluate.compare import evaluate_policy
from align.evaluate.pairs import score_differences
from align.stages.best_of_n import train_best_of_n
from align.train.checkpoint import import_model
from reward.functions import FunctionScorer, load_function
from reward.load import load_scorer
from reward.measure import is_held_out, measure, slices_of
from reward.train import train_reward
from rollouts.sample import sample_answers


def main(changes: list[str]) -> None:
    recipe = load_recipe(Path(__file__).with_name("recipe.yaml"), changes).recipe
    seed, reward, judge, pairs = recipe.seed, recipe.reward, recipe.evaluate.judge, recipe.preferences
    if recipe.sft or not (
        recipe.best_of_n and reward and reward.model and pairs and judge and judge.type == "function"
    ):
        sys.exit(
            "run.py needs best_of_n, reward.model, preferences and a function as judge, and no sft; see `align run`"
        )
    if reward.functions or reward.weight != 1 or recipe.rounds > 1:
        sys.exit("run.py takes one round of a reward model alone, with weight 1; `align run` does the rest")
    say = partial(print, flush=True)
    out = Path("runs") / f"{recipe.name}-{secrets.token_hex(4)}"
    common = {"seed": seed, "dtype": recipe.model.dtype, "threads": recipe.threads}
    training = common | {"report_to": recipe.report_to}
    prompts, _ = load_prompts(recipe.prompts)
    rows, _ = drop_held_out_preferences(load_preferences(pairs.path)[0], [p for p in prompts if p.split == "test"])
    held_out = held_out_prompts(prompts, recipe.evaluate.prompts)
    sample = partial(sample_answers, engine=recipe.rollouts, out=out / "samples", **common)
    judged = FunctionScorer(load_function(judge.path, Path())).score
    evaluate = partial(evaluate_policy, held_out, score=judged, tie_width=judge.tie_width, seed=seed)
    first, judges, policy = out / "policy_0", out / "reward_1", out / "policy_1"
    import_model(out=first, **recipe.model.model_dump())
    answers, _ = sample(held_out, first, recipe.evaluate, purpose="evaluation", keep_all=True)
    say("the given model, mean score:", evaluate(answers, out=out / "evaluation_0")["mean_score"])
    train_reward(first, rows, reward.model, out=judges, work=out / "judging", **training)
    score = load_scorer(judges, dtype=recipe.model.dtype, threads=recipe.threads).score
    kept = [row for row in rows if is_held_out(row.prompt_id, reward.model.held_out)]
    found = measure(kept, score_differences(kept, score), seed=seed, slices=slices_of(kept))
    say("reward model on held-out pairs:", found["accuracy"])
    asked = prompts_of_round(prompts, round=1, count=recipe.best_of_n.prompts, seed=seed)
    train_best_of_n(first, asked, recipe.best_of_n, score=score, out=policy, work=out / "work", **training)
    answers, _ = sample(held_out, policy, recipe.evaluate, purpose="evaluation", keep_all=True)
    result = evaluate(answers, out=out / "evaluation_1", first=out / "evaluation_0")
    say("round 1, win rate over the given model:", result["win_rate_vs_sft"])


if __name__ == "__main__":
    main(sys.argv[1:])
