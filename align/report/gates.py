"""What the gate said in each round, and how its evidence grew with the labels."""

import math
from typing import Any

from align.report.plots import curves_plot
from align.report.reading import RunFolder
from align.stages.names import GATE

DECISION = "decision.json"


def gates(run: RunFolder, rounds: int) -> list[dict[str, Any]]:
    """Of each round with a gate its number and its `decision.json` (`align.stages.gate`)."""
    found = ((number, run.json(number, GATE, DECISION)) for number in range(1, rounds + 1))
    return [{"round": number, **decision} for number, decision in found if decision]


def gate_picture(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The evidence over labels, in powers of ten, with what a go needs; None where no round has a gate."""
    if not found:
        return None
    lines = [
        (
            f"round {one['round']}",
            (one["round"] - 1) % 8,
            [(0.0, 0.0), *((float(n), math.log10(max(e, 1e-9))) for n, e in one["curve"])],
        )
        for one in found
    ]
    last = max(x for _, _, points in lines for x, _ in points)
    needed = math.log10(found[-1]["needed"])
    level = ("what a go needs", 7, [(0.0, needed), (last, needed)])
    title = "Evidence that the new policy is better, in powers of ten"
    legend = [(name, colour) for name, colour, _ in [*lines, level]]
    return {"title": title, "plot": curves_plot([*lines, level], title=title, unit="label"), "legend": legend}
