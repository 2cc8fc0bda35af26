"""recipe.yaml in code: the same loop with the same result, from our public functions; it does not resume or report.

python run.py grpo.samples=4    # takes the same changes as `align run`, and writes to runs/ where it is called
"""

import secrets
import sys
from functools import partial
from pathlib import Path

from align.config.load import load_recipe
from align.data.prompts import held_out_prompts, load_prompts, prompts_of_round
from align.evaluate.compare import evaluate_policy
from align.train.checkpoint import import_model
from align.train.grpo import train_grpo
from reward.functions import FunctionScorer, load_function
from reward.terms import Part, scorer_of
from rollouts.sample import sample_answers


def main(changes: list[str]) -> None:
    recipe = load_recipe(Path(__file__).with_name("recipe.yaml"), changes).recipe
    seed, reward, judge = recipe.seed, recipe.reward, recipe.evaluate.judge
    if recipe.sft or not (recipe.grpo and reward and not reward.model and judge and judge.type == "function"):
        sys.exit("run.py needs grpo, reward.functions alone and a function as judge, and no sft; `align run` does all")
    say = partial(print, flush=True)
    out = Path("runs") / f"{recipe.name}-{secrets.token_hex(4)}"
    common = {"seed": seed, "dtype": recipe.model.dtype, "threads": recipe.threads}
    training = common | {"report_to": recipe.report_to}
    prompts, _ = load_prompts(recipe.prompts)
    held_out = held_out_prompts(prompts, recipe.evaluate.prompts)
    sample = partial(sample_answers, engine=recipe.rollouts, out=out / "samples", **common)
    judged = FunctionScorer(load_function(judge.path, Path())).score
    measure = partial(evaluate_policy, held_out, score=judged, tie_width=judge.tie_width, seed=seed)
    score = scorer_of([Part(f, f.weight) for f in reward.functions], dtype="float32", threads=None).score
    policy = out / "policy_0"
    import_model(out=policy, **recipe.model.model_dump())
    answers, _ = sample(held_out, policy, recipe.evaluate, purpose="evaluation", keep_all=True)
    say("the given model, mean score:", measure(answers, out=out / "evaluation_0")["mean_score"])
    for number in range(1, recipe.rounds + 1):
        asked = prompts_of_round(prompts, round=number, count=recipe.grpo.prompts, seed=seed)
        parent, policy = policy, out / f"policy_{number}"
        train_grpo(parent, asked, recipe.grpo, score=score, out=policy, work=out / f"work_{number}", **training)
        answers, _ = sample(held_out, policy, recipe.evaluate, purpose="evaluation", keep_all=True)
        result = measure(answers, out=out / f"evaluation_{number}", first=out / "evaluation_0")
        say(f"round {number}, mean score:", result["mean_score"])
        say(f"round {number}, win rate over the given model:", result["win_rate_vs_sft"])


if __name__ == "__main__":
    main(sys.argv[1:])
