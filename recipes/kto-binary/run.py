"""recipe.yaml in code: the same loop with the same result, by the public API alone; it does not resume or report.

python run.py rounds=1 kto.beta=0.2    # takes the same changes as `align run`, and writes to runs/ where it is called
"""

import sys
from pathlib import Path

import align

if __name__ == "__main__":
    recipe = align.load_recipe(Path(__file__).parent, sys.argv[1:]).recipe
    align.require_sections(recipe, "sft", "kto", "annotate")
    out, compute = align.Workspace.fresh(f"runs/{recipe.name}"), align.Compute.of(recipe)

    def at(name: str) -> dict[str, object]:
        return {"workspace": out.at(name), "compute": compute}

    prompts = align.load_prompts(recipe.prompts)
    test = [prompt for prompt in prompts if prompt.split == "test"]
    held_out = align.held_out_prompts(prompts, recipe.evaluate.prompts)
    judged = {"prompts": held_out, "scorer": recipe.evaluate.judge, "config": recipe.evaluate}
    shown = align.load_demonstrations(recipe.sft, held_out=test, seed=recipe.seed)
    policy = align.train_sft(recipe.model, shown, recipe.sft, **at("policy_0")).checkpoint
    first = align.evaluate(policy, **judged, **at("evaluation_0"))
    print("after SFT, mean score:", first.mean_score, flush=True)
    earlier: list[align.BinaryLabel] = []
    for number in range(1, recipe.rounds + 1):
        asked = align.prompts_of_round(prompts, round=number, count=recipe.rollouts.prompts, seed=recipe.seed)
        drawn = at(f"rollouts_{number}") | {"compute": compute.seeded(f"rollouts {number}")}
        answers = align.sample(policy, asked, recipe.rollouts, **drawn).candidates
        said = align.ask(prompts, answers, recipe.annotate, round=number, **at(f"labels_{number}"))
        labels = align.compile_labels(said, model=recipe.annotate.compiler).binary
        rows = labels + align.replayed(earlier, recipe.kto.replay, round=number, seed=recipe.seed)
        earlier += labels
        policy = align.train_kto(policy, rows, recipe.kto, rollouts=out, **at(f"policy_{number}")).checkpoint
        found = align.evaluate(policy, first.samples, **judged, **at(f"evaluation_{number}"))
        print(f"round {number}, win rate over SFT:", found.win_rate, flush=True)
