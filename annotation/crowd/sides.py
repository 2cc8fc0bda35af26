"""Whether the sides of the screen were drawn at random: only then can position bias be told from quality."""

import numpy as np

from align.intervals import wilson
from annotation.crowd.arrays import Array
from annotation.crowd.evidence import COMPARE, PAIR, Evidence, shared
from annotation.crowd.reading import JudgementArrays, TaskArrays

FEW = 20
"""Of so many pairs that were drawn one in 500,000 has all sides alike."""
LOPSIDED = 0.65
"""A crowd of which the typical member bets 2.7 to 1 on the left of two equal answers prefers it so often; among people
that is unheard of, and a reference that always stands there is common."""


def held(asked: TaskArrays, said: JudgementArrays, evidence: Evidence, *, drawn: bool) -> str | None:
    """Why position bias is to be held at its prior, or None. `drawn`: the sides are known to be drawn, as those of our
    own tasks are, so that a crowd that prefers one side is known to be biased."""
    tasks = np.unique(said.task[asked.kind[said.task] == PAIR])
    turned = asked.place[tasks, 0] > asked.place[tasks, 1]
    wins = _majorities(evidence)
    if len(tasks) >= FEW and (turned.all() or not turned.any()):
        return f"all {len(tasks)} pairs stand on the screen in one order of their ids"
    if not drawn and len(wins):
        low, high = wilson(int(wins.sum()), len(wins))
        if low > LOPSIDED or high < 1 - LOPSIDED:
            side, share = ("left", wins.mean()) if low > LOPSIDED else ("right", 1 - wins.mean())
            return f"{share:.0%} of {len(wins)} pairs were decided for the {side} answer"
    return None


def _majorities(evidence: Evidence) -> Array:
    """Of the pairs that were judged twice and whose truth is not given: whether more said left, bool; none where as
    many said right."""
    votes = evidence.votes
    mine = shared(evidence) & (votes.family == COMPARE) & votes.main & (evidence.known[votes.factor] == 0)
    net = np.bincount(votes.factor[mine], (votes.outcome * votes.position)[mine], len(evidence.first))
    return net[net != 0] > 0
