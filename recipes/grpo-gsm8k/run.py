"""recipe.yaml in code: the same loop with the same result, by the public API alone; it does not resume or report.

python run.py grpo.samples=4    # takes the same changes as `align run`, and writes to runs/ where it is called
"""

import sys
from pathlib import Path

import align

if __name__ == "__main__":
    recipe = align.load_recipe(Path(__file__).parent, sys.argv[1:]).recipe
    align.require_sections(recipe, "grpo", "reward")
    out, compute = align.Workspace.fresh(f"runs/{recipe.name}"), align.Compute.of(recipe)

    def at(name: str) -> dict[str, object]:
        return {"workspace": out.at(name), "compute": compute}

    prompts = align.load_prompts(recipe.prompts)
    held_out = align.held_out_prompts(prompts, recipe.evaluate.prompts)
    judged = {"prompts": held_out, "scorer": recipe.evaluate.judge, "config": recipe.evaluate}
    reward = align.load_scorer(recipe.reward)
    policy = align.import_model(recipe.model, **at("policy_0")).checkpoint
    first = align.evaluate(policy, **judged, **at("evaluation_0"))
    print("the given model, mean score:", first.mean_score, flush=True)
    for number in range(1, recipe.rounds + 1):
        asked = align.prompts_of_round(prompts, round=number, count=recipe.grpo.prompts, seed=recipe.seed)
        policy = align.train_grpo(policy, asked, recipe.grpo, scorer=reward, **at(f"policy_{number}")).checkpoint
        found = align.evaluate(policy, first.samples, **judged, **at(f"evaluation_{number}"))
        print(f"round {number}, mean score:", found.mean_score)
        print(f"round {number}, win rate over the given model:", found.win_rate, flush=True)
