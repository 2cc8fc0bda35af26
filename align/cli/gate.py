"""`align gate`: whether a new policy is better, by what people said so far."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from align.cli.inspect import JSON, run_of

FOLDER = typer.Argument(
    ...,
    callback=run_of,
    help="The folder of a run or its recipe, or a folder of `align annotate push --against`.",
)


def gate(
    folder: Path = FOLDER,
    round: int = typer.Option(None, "--round", min=1, help="The round. Default: the latest with blind comparisons."),
    replay: bool = typer.Option(
        False, "--replay", help="Also show what the gate said after each 20 labels, in the order they were given."
    ),
    judge: str = typer.Option(
        None,
        "--judge",
        help="Also give the win rate with a judge's help: file.py:function, an entry of reward.functions as '{type: …}', or"
        " a reward model's folder. It judges every held-out prompt; people those of the comparisons.",
    ),
    as_json: bool = JSON,
) -> None:
    """Decide by blind comparisons whether the new policy is better.

    The verdict is go, stop, more labels or more people. You may ask as often as you like, also while people label: the
    probability of a false go is at most `gate.alpha` of the recipe (0.05 if the recipe has no gate). Only labels that
    `align annotate pull` or `align run` has taken in count. The checks of the recipe's gate are measured by `align run`
    alone.
    """
    from align.cli.display import print_json, print_table, say
    from align.evaluation.gate import sentence
    from align.figures import counted, interval
    from align.stages.gate_now import asked_gate, with_judge
    from reward.terms import judged_by

    asked = asked_gate(folder, round)
    decision = asked.decision()
    helped, alike = (None, None) if judge is None else with_judge(asked, judged_by(judge))
    if as_json:
        told: dict[str, Any] = {**decision.as_dict(), "round": asked.round, "waiting": asked.waiting}
        told |= {"replay": asked.replay()} if replay else {}
        print_json(told | ({"judge": {**asdict(helped), "agrees": alike}} if helped else {}))
        return
    if replay:
        print_table(
            [
                ["labels", "evidence", "verdict"],
                *([str(r["labels"]), f"{r['evidence']:.3g}", r["verdict"]] for r in asked.replay()),
            ],
            right=(0, 1),
        )
    say(sentence(decision))
    rate = decision.rate
    if rate is not None:
        few = "; so few people say little about others" if rate.few else ""
        say(
            f"win rate {interval(decision.as_dict()['rate'])} over prompts and people like these: "
            f"{counted(rate.n, 'label')}, {counted(rate.prompts, 'prompt')}, {rate.raters} people{few}"
        )
    say(f"evidence {decision.evidence:.3g}; {decision.needed:g} is needed")
    if helped is not None and alike is not None:
        found = asdict(helped)
        say(
            f"with the judge {interval(found)} over prompts: {helped.width:.2f} times as wide as from people alone; it "
            f"prefers the same on {alike[0]} of {alike[1]} prompts"
        )
        if helped.useless:
            say(f"the judge is of no use here: {helped.useless}")
    if asked.waiting:
        say(f"{counted(asked.waiting, 'label')} of prompts that others still have to judge did not count yet")
