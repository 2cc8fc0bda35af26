"""recipe.yaml in code: the same loop with the same result, by the public API alone; it does not resume or report.

python run.py best_of_n.samples=8    # takes the same changes as `align run`, and writes to runs/ where it is called
"""

import sys
from pathlib import Path

import align

if __name__ == "__main__":
    recipe = align.load_recipe(Path(__file__).parent, sys.argv[1:]).recipe
    align.require_sections(recipe, "best_of_n", "preferences", "reward")
    out, compute = align.Workspace.fresh(f"runs/{recipe.name}"), align.Compute.of(recipe)

    def at(name: str) -> dict[str, object]:
        return {"workspace": out.at(name), "compute": compute}

    prompts = align.load_prompts(recipe.prompts)
    test = [prompt for prompt in prompts if prompt.split == "test"]
    held_out = align.held_out_prompts(prompts, recipe.evaluate.prompts)
    judged = {"prompts": held_out, "scorer": recipe.evaluate.judge, "config": recipe.evaluate}
    policy = align.import_model(recipe.model, **at("policy_0")).checkpoint
    first = align.evaluate(policy, **judged, **at("evaluation_0"))
    print("the given model, mean score:", first.mean_score, flush=True)
    rows = align.load_preferences(recipe.preferences.path, held_out=test)
    judges = align.train_reward(policy, rows, recipe.reward.model, **at("reward_1"))
    print("reward model on held-out pairs:", judges.metrics.get("held_out"))
    scorer = align.load_scorer(recipe.reward, model=judges.checkpoint, compute=compute)
    asked = align.prompts_of_round(prompts, round=1, count=recipe.best_of_n.prompts, seed=recipe.seed)
    policy = align.train_best_of_n(policy, asked, recipe.best_of_n, scorer=scorer, **at("policy_1")).checkpoint
    found = align.evaluate(policy, first.samples, **judged, **at("evaluation_1"))
    print("round 1, win rate over the given model:", found.win_rate, flush=True)
