"""recipe.yaml in code: the same loop with the same result, from our public functions; it does not resume or report.

python run.py rounds=1 kto.beta=0.2    # takes the same changes as `align run`, and writes to runs/ where it is called
"""

import secrets
import sys
from functools import partial
from pathlib import Path

from align.config.load import load_recipe
from align.data.demonstrations import load_demonstrations
from align.data.prompts import held_out_prompts, load_prompts, prompts_of_round
from align.evaluate.compare import evaluate_policy
from align.labelling.session import desk_of_tasks, follow
from align.labelling.tasks import ask
from align.train.checkpoint import import_model
from align.train.kto import train_kto
from align.train.sft import train_sft
from align.types import Judgement, Task, Thumb, from_table, to_table
from annotation.compile import compile_labels
from reward.functions import FunctionScorer, load_function
from rollouts.sample import sample_answers


def main(changes: list[str]) -> None:
    recipe = load_recipe(Path(__file__).with_name("recipe.yaml"), changes).recipe
    seed, annotate, judge = recipe.seed, recipe.annotate, recipe.evaluate.judge
    if not (recipe.sft and recipe.kto and annotate and judge and judge.type == "function") or recipe.replay % 1:
        sys.exit("run.py needs sft, kto, annotate, a function as judge, and replay 0 or 1; `align run` does all")
    say = partial(print, flush=True)
    out = Path("runs") / f"{recipe.name}-{secrets.token_hex(4)}"
    common = {"seed": seed, "dtype": recipe.model.dtype, "threads": recipe.threads}
    training = common | {"report_to": recipe.report_to}
    prompts, _ = load_prompts(recipe.prompts)
    held_out = held_out_prompts(prompts, recipe.evaluate.prompts)
    sample = partial(sample_answers, engine=recipe.rollouts, out=out / "samples", **common)
    score = FunctionScorer(load_function(judge.path, Path())).score
    measure = partial(evaluate_policy, held_out, score=score, tie_width=judge.tie_width, seed=seed)
    policy = out / "policy_0"
    import_model(out=out / "base", **recipe.model.model_dump())
    rows = [(row.messages, row.answer) for row in load_demonstrations(recipe.sft.demonstrations)[0]]
    train_sft(out / "base", rows, recipe.sft, out=policy, work=out / "work_0", **training)
    answers, _ = sample(held_out, policy, recipe.evaluate, purpose="evaluation", keep_all=True)
    say("after SFT, mean score:", measure(answers, out=out / "evaluation_0")["mean_score"])
    earlier: list[Thumb] = []
    for number in range(1, recipe.rounds + 1):
        asked = prompts_of_round(prompts, round=number, count=recipe.rollouts.prompts, seed=seed)
        candidates, _ = sample(asked, policy, recipe.rollouts, purpose=f"rollouts {number}")
        tasks = ask(prompts, candidates, annotate, round=number, seed=seed).tasks
        judgements = follow(desk_of_tasks(tasks, out, annotate, round=number, seed=seed), say)
        labels = compile_labels(to_table(Task, tasks), to_table(Judgement, judgements), model=annotate.compiler)
        thumbs = from_table(Thumb, labels.thumbs)
        parent, policy = policy, out / f"policy_{number}"
        train_kto(parent, thumbs + earlier, recipe.kto, out=policy, work=out / f"work_{number}", **training)
        earlier += thumbs if recipe.replay else []
        answers, _ = sample(held_out, policy, recipe.evaluate, purpose="evaluation", keep_all=True)
        result = measure(answers, out=out / f"evaluation_{number}", first=out / "evaluation_0")
        say(f"round {number}, win rate over SFT:", result["win_rate_vs_sft"])


if __name__ == "__main__":
    main(sys.argv[1:])
