"""`align gate`: whether a new policy is better, by what people said so far."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from align.cli.inspect import JSON, run_of

if TYPE_CHECKING:
    from align.evaluation.gate import Decision
    from align.evaluation.powered import Powered

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
    from align.cli.display import print_json
    from align.stages.gate_now import asked_gate, with_judge
    from reward.terms import judged_by

    asked = asked_gate(folder, round)
    decision = asked.decision()
    helped, alike = (None, (0, 0)) if judge is None else with_judge(asked, judged_by(judge))
    looks = asked.replay() if replay else []
    if not as_json:
        _say(decision, looks, helped, alike, asked.waiting)
        return
    told: dict[str, Any] = {**decision.as_dict(), "round": asked.round, "waiting": asked.waiting}
    told |= {"replay": looks} if replay else {}
    print_json(told | ({"judge": {**asdict(helped), "agrees": alike}} if helped else {}))


def _say(
    decision: "Decision", looks: list[dict[str, Any]], helped: "Powered | None", alike: tuple[int, int], waiting: int
) -> None:
    from align.cli.display import print_table, say
    from align.evaluation.gate import sentence
    from align.figures import counted, interval

    if looks:
        rows = [[str(look["labels"]), f"{look['evidence']:.3g}", look["verdict"]] for look in looks]
        print_table([["labels", "evidence", "verdict"], *rows], right=(0, 1))
    say(sentence(decision))
    if (rate := decision.rate) is not None:
        few = "; so few people say little about others" if rate.few else ""
        say(
            f"win rate {interval(asdict(rate))} over prompts and people like these: "
            f"{counted(rate.n, 'label')}, {counted(rate.prompts, 'prompt')}, {rate.raters} people{few}"
        )
    say(f"evidence {decision.evidence:.3g}; {decision.needed:g} is needed")
    if helped is not None:
        say(
            f"with the judge {interval(asdict(helped))} over prompts: {helped.width:.2f} times as wide as from people "
            f"alone; it prefers the same on {alike[0]} of {alike[1]} prompts"
        )
        if helped.useless:
            say(f"the judge is of no use here: {helped.useless}")
    if waiting:
        say(f"{counted(waiting, 'label')} of prompts that others still have to judge did not count yet")
