"""What a report says about the reward models: how far each can be trusted, and whether that has fallen."""

from typing import Any

from align.report.reading import RunFolder
from align.stages.names import REWARD, REWARD_CHECK
from align.stages.reward import FRESH, HELD_OUT


def reward_models(run: RunFolder) -> list[dict[str, Any]]:
    """One row for each round's reward model, the first first.

    `held_out` is what it makes of pairs that it did not learn from (`reward.measure.measure`), `fresh` the same of the
    next round's labels, before anything learned from them, and `drift` the difference (`reward.drift.drift`); None
    where that was not measured. `seen` counts new labels about prompts that it had learned from, which are not in
    `fresh`. `warnings` are sentences.
    """
    found = []
    for number in sorted(ref.round for ref in run.receipts if ref.stage == REWARD):
        next_check = run.summary(number + 1, REWARD_CHECK)
        measured = run.json(number, REWARD_CHECK, HELD_OUT)
        found.append(
            {
                "round": number,
                "held_out": measured or run.summary(number, REWARD).get("held_out"),
                "fresh": run.json(number + 1, REWARD_CHECK, FRESH),
                "seen": (next_check.get("fresh") or {}).get("seen", 0),
                "drift": next_check.get("drift"),
                "warnings": next_check.get("warnings", []),
            }
        )
    return found


def warnings(data: dict[str, Any]) -> list[str]:
    """What the latest round's labels say against the reward model before it, of a `report_data`."""
    met = [model["warnings"] for model in reversed(data["reward_models"]) if model["fresh"]]
    return met[0] if met else []
