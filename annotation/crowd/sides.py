"""Whether the sides of the screen were drawn at random: only then can position bias be told from quality."""

from dataclasses import dataclass

import numpy as np

from annotation.crowd.arrays import Array
from annotation.crowd.evidence import COMPARE, PAIR, Evidence, shared
from annotation.crowd.people import wilson
from annotation.crowd.reading import Asked, Said

FEW = 20
"""Of so many pairs that were drawn one in 500,000 has all sides alike."""
LOPSIDED = 0.65
"""A crowd of which the typical member bets 2.7 to 1 on the left of two equal answers prefers it so often; among people
that is unheard of, and a reference that always stands there is common."""


@dataclass(frozen=True)
class Sides:
    """What is known of the sides. `held` says why position bias is held at its prior, or is None."""

    held: str | None
    pairs: int
    """Pairs that several people judged and on which more of them preferred one side."""
    left: float | None
    """The share of these on which that was the left one."""


def look(asked: Asked, said: Said, evidence: Evidence, *, drawn: bool) -> Sides:
    """What the tasks and the votes tell of the sides. `drawn`: they are known to be drawn, as those of our own tasks
    are, so that a crowd that prefers one side is known to be biased."""
    tasks = np.unique(said.task[asked.kind[said.task] == PAIR])
    turned = asked.place[tasks, 0] > asked.place[tasks, 1]
    wins = _majorities(evidence)
    share = float(wins.mean()) if len(wins) else None
    held = None
    if len(tasks) >= FEW and (turned.all() or not turned.any()):
        held = f"all {len(tasks)} pairs stand on the screen in the order of their ids"
    elif not drawn and len(wins):
        low, high = wilson(int(wins.sum()), len(wins))
        if low > LOPSIDED or high < 1 - LOPSIDED:
            side = "left" if low > LOPSIDED else "right"
            held = f"{max(share or 0, 1 - (share or 0)):.0%} of {len(wins)} pairs were decided for the {side} answer"
    return Sides(held, len(wins), share)


def _majorities(evidence: Evidence) -> Array:
    """Of the pairs that were judged twice and whose truth is not given: whether more said left, bool; none where as many
    said right."""
    votes = evidence.votes
    mine = shared(evidence) & (votes.family == COMPARE) & votes.main & (evidence.known[votes.factor] == 0)
    net = np.bincount(votes.factor[mine], (votes.lean * votes.side)[mine], len(evidence.first))
    return net[net != 0] > 0
