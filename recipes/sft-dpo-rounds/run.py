"""recipe.yaml in code: the same loop with the same result, from our public functions; it does not resume or report.

python run.py rounds=1 dpo.beta=0.2    # takes the same changes as `align run`, and writes to runs/ where it is called
"""

import secrets
import sys
from functools import partial
from pathlib import Path

from align.config.load import load_recipe
from align.data.contamination import drop_held_out_demonstrations
from align.data.demonstrations import load_demonstrations
from align.data.prompts import held_out_prompts, load_prompts, prompts_of_round
from align.evaluate.blind import blind_win_rate
from align.ids import unit_for
from align.labelling.session import desk_of_tasks, follow
from align.labelling.tasks import ask
from align.train.checkpoint import import_model
from align.train.dpo import train_dpo
from align.train.sft import train_sft
from align.types import Preference
from annotation.compile import compile_preferences
from annotation.tasks import blind_tasks
from rollouts.sample import sample_answers


def main(changes: list[str]) -> None:
    recipe = load_recipe(Path(__file__).with_name("recipe.yaml"), changes).recipe
    seed, annotate, judge = recipe.seed, recipe.annotate, recipe.evaluate.judge
    if not (recipe.sft and recipe.dpo and annotate and judge and judge.type == "people"):
        sys.exit("run.py needs sft, dpo, annotate and people as judge; `align run` does all")
    say = partial(print, flush=True)
    out = Path("runs") / f"{recipe.name}-{secrets.token_hex(4)}"
    common = {"seed": seed, "dtype": recipe.model.dtype, "threads": recipe.threads}
    training = common | {"report_to": recipe.report_to}
    prompts, _ = load_prompts(recipe.prompts)
    held_out = held_out_prompts(prompts, recipe.evaluate.prompts)
    sample = partial(sample_answers, engine=recipe.rollouts, out=out / "samples", **common)
    policy, earlier = out / "policy_0", list[Preference]()
    import_model(out=out / "base", **recipe.model.model_dump())
    test = [prompt for prompt in prompts if prompt.split == "test"]
    shown, _ = drop_held_out_demonstrations(load_demonstrations(recipe.sft.demonstrations)[0], test)
    rows = [(row.messages, row.answer) for row in shown]
    train_sft(out / "base", rows, recipe.sft, out=policy, work=out / "work_0", **training)
    first, _ = sample(held_out, policy, recipe.evaluate, purpose="evaluation", keep_all=True)
    for number in range(1, recipe.rounds + 1):
        asked = prompts_of_round(prompts, round=number, count=recipe.rollouts.prompts, seed=seed)
        candidates, _ = sample(asked, policy, recipe.rollouts, purpose=f"rollouts {number}")
        tasks = ask(prompts, candidates, annotate, round=number, seed=seed).tasks
        judgements = follow(desk_of_tasks(tasks, out, annotate, round=number, seed=seed), say)
        preferences, _ = compile_preferences(tasks, judgements, annotate.compiler)
        again = [p for p in earlier if unit_for("replay", seed, number, p.id) < recipe.replay]
        parent, policy, earlier = policy, out / f"policy_{number}", earlier + preferences
        train_dpo(parent, preferences + again, recipe.dpo, out=policy, work=out / f"work_{number}", **training)
        answers, _ = sample(held_out, policy, recipe.evaluate, purpose="evaluation", keep_all=True)
        count = {"count": judge.tasks, "overlap": judge.overlap, "seed": seed}
        blind, same = blind_tasks(test, answers, first, round=number, **count)
        said = follow(desk_of_tasks(blind, out, annotate, round=number, seed=seed), say)
        won = blind_win_rate(blind, said, {answer.id for answer in answers}, same, seed=seed)
        say(f"round {number}, win rate over SFT, judged blind:", won)


if __name__ == "__main__":
    main(sys.argv[1:])
